"""What a clock alone would not see: how a method could look faster than it is, and by what it is known.

That the steps were not done, or not on these batches, the replay of timed blocks tells (`replay`); here is what is told by the
clocks of two processes, by the processor's, and by how long the state took to be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from exp.benchmark.bench import Timed

CLOCK_SECONDS = 0.003
"""By so much two clocks may be apart over a block, beyond what an order and its answer take."""

CLOCK = 0.15
LEFT = 0.2
THREADS = 0.3
"""Shares of a block's time beyond which a method is refused: clocks apart, work left for after the block, further threads."""


@dataclass(frozen=True)
class Refusal:
    """Why the times of a method are not shown as a speed-up: the sign in a word, and a sentence."""

    sign: str
    sentence: str


def refusal(blocks: Sequence[Timed], threads: int, device: str) -> Refusal | None:
    """The first thing that is wrong with these timed blocks; None where nothing is."""
    if not blocks:
        return None
    # Quartiles: an order that waits for a core on a busy machine is late now and then, a false clock is false always.
    exchange = np.percentile([block.exchange_seconds for block in blocks], 75)
    gaps = [block.outside_seconds - block.seconds - exchange for block in blocks]
    gap, apart = np.percentile(gaps, 25), np.percentile(np.divide(gaps, [block.outside_seconds for block in blocks]), 25)
    if gap > CLOCK_SECONDS and apart > CLOCK:
        inside, outside = (1e3 * median(getattr(b, name) for b in blocks) for name in ("seconds", "outside_seconds"))
        sentence = f"its own clock says {inside:.3g} ms a block, the clock of another process {outside:.3g} ms"
        return Refusal("clock", sentence)
    left = median(block.left_seconds / block.seconds for block in blocks)
    if left > LEFT:
        return Refusal("left over", f"it does {left:.0%} of a block's time after the block, when its state is read")
    busy = median(block.processor_seconds / block.seconds for block in blocks)
    if device.startswith("cpu") and busy > threads + THREADS:
        return Refusal("threads", f"it computes with {busy:.2g} threads where threads={threads} is set")
    return None
