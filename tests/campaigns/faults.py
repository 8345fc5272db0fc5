"""What a planted fault is: the mutants and the replays of real bugs are lists of these."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from exp.methods import Method

BEATS = ("state", "inputs", "forward", "loss", "backward", "update", "batches")
"""Where a fault can be, in the order in which a verdict names the first.

`state`: what is exported is not what was given or what is trained; `inputs`: x or y was changed; `batches`: the loop's plan.
"""


@dataclass(frozen=True)
class Fault:
    """A fault that a verdict has to see.

    `overrides` are the words of a command line under which it matters. `plant` is a context in which the fault is there,
    with the method to be judged. A verdict is right if it names one of `beats` and one of `tensors` (any, where empty):
    `layer2.output` (a₂) in the forward beat, `loss`, `layer1.weight` (its gradient, or it itself after the update),
    `exp_avg/layer1.weight`, `count`, `x`, `y`. `source` cites where the bug was reported.
    """

    family: str
    beats: tuple[str, ...]
    tensors: tuple[str, ...]
    overrides: tuple[str, ...]
    plant: Callable[[], AbstractContextManager[Method]]
    magnitude: str = ""
    source: str = ""
