"""The data of a timed block: the training split, mixed anew from a seed that no method has seen before the block.

What a method could have computed in advance, while it was started or warmed up, is of no use on it; a remembered loss is wrong.
The numbers keep their size: rows in another order (with their targets), columns of x with other signs and a little stretched.
"""

from dataclasses import dataclass

import numpy as np

from exp.methods.base import Block
from exp.seeds import generator

STRETCH = 0.1
"""Columns of x are multiplied by ±(1 − STRETCH) … ±(1 + STRETCH)."""

MOST_REORDERED = 2**22
"""Numbers of x whose rows are put in another order: of more, that would take longer than the block."""


@dataclass(frozen=True)
class Fresh:
    """x, (N, inputs), and y, (N, outputs), on the host, and the blocks of steps to be done on them."""

    x: np.ndarray
    y: np.ndarray
    blocks: list[Block]

    @property
    def rows(self) -> list[np.ndarray | None]:
        """The batch of every step, (B,), or None for all rows."""
        return [batch for block in self.blocks for batch in (block.rows if block.rows is not None else [None] * block.steps)]


def fresh(x: np.ndarray, y: np.ndarray, batch_size: int | None, seed: int, steps: int, calls: int) -> Fresh:
    """`calls` blocks of `steps` steps on data of this seed."""
    random = generator(seed, "benchmark", 0)
    scale = random.choice((-1.0, 1.0), x.shape[1]) * random.uniform(1 - STRETCH, 1 + STRETCH, x.shape[1])
    if x.size <= MOST_REORDERED:
        order = random.permutation(len(x))
        x, y = x[order], y[order]
    return Fresh(x * scale, y, batches(len(x), batch_size, seed, steps, calls))


def batches(samples: int, batch_size: int | None, seed: int, steps: int, calls: int) -> list[Block]:
    """`calls` blocks of `steps` steps. Batches are whole: an epoch's ragged last one is left out."""
    random, blocks = generator(seed, "benchmark", 1), []
    for call in range(calls):
        rows = None
        if batch_size is not None:
            used = samples // batch_size * batch_size
            epochs = -(-steps * batch_size // used)
            rows = np.concatenate([random.permutation(samples)[:used] for _ in range(epochs)]).reshape(-1, batch_size)[:steps]
        blocks.append(Block(call * steps, steps, rows))
    return blocks
