"""A run of a stack, driven as a method of its own: what a program computes is judged as a single run is."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exp.arrays import Array, Place, gather, put, stack
from exp.methods.base import Block, Formulas, Method
from exp.optimizers import NUMBERS, Optimizer, shared, stack_constants
from exp.state import State, stack_states

RUNS = 3


@dataclass(kw_only=True)
class InStack(Method):
    """The last of RUNS runs that `inner` trains as one; the others have weights, rows and numbers of their own."""

    inner: Method

    def __post_init__(self) -> None:
        self.library = self.inner.library  # pyright: ignore[reportAttributeAccessIssue]  # of the one that it drives

    def unsupported(self, **chosen: Any) -> str | None:
        return self.inner.unsupported(**chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        optimizers = [_other(formulas.optimizer, run) for run in range(RUNS)]
        states = [state.map(lambda array, run=run: scaled(array, 1 + (RUNS - 1 - run) / 64)) for run in range(RUNS)]
        self.place, self.running = place, replace(self.inner)  # type: ignore[type-var]  # every method is a dataclass
        self.running.start(replace(formulas, constants=shared(stack_constants(optimizers))), stack_states(states), place)

    def step(self, x: Array, y: Array) -> Array:
        return self.running.step(self._of_each(x), self._of_each(y))[-1]

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.rows is None:
            return self.running.steps(self._of_each(x), self._of_each(y), block, place)[..., -1]
        rows = [(block.rows + (RUNS - 1 - run)) % len(x) for run in range(RUNS)]
        return self.running.steps(x, y, replace(block, rows=np.stack(rows)), place)[..., -1]

    def predict(self, x: Array) -> Array:
        return self.running.predict(x)[-1]

    def export(self) -> State:
        return self.running.export().map(lambda array: np.array(array[-1]))

    def _of_each(self, array: Array) -> Array:
        """The rows of each run, (RUNS, N, D), those of the others in another order."""
        orders = [put(np.roll(np.arange(len(array)), RUNS - 1 - run), self.place) for run in range(RUNS)]
        return stack([gather(array, order) for order in orders])


def _other(optimizer: Optimizer, run: int) -> Optimizer:
    """The optimizer of a run of the stack: its own numbers for the last one, smaller ones for the others."""
    share = 1 - (RUNS - 1 - run) / 8
    own = {name: getattr(optimizer, name) for name in NUMBERS if hasattr(optimizer, name)}
    return replace(optimizer, **{n: [share * v for v in value] if n == "betas" else share * value for n, value in own.items()})


def scaled(array: np.ndarray, by: float) -> np.ndarray:
    """Floating-point numbers times `by`, in their type; integers as they are."""
    return array if array.dtype.kind != "f" else array * array.dtype.type(by)
