"""Methods that look faster than they are, each by one trick; and the clock that they are timed by in tests."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from exp.arrays import Array, Place
from exp.benchmark import clock
from exp.methods.base import Block, Formulas
from exp.methods.manual import NumPy
from exp.state import State

STEP_SECONDS = 0.001


class Clock:
    """Time that passes only when a method says so."""

    host = 0.0
    processor = 0.0

    @classmethod
    def tick(cls, seconds: float, threads: float = 1.0) -> None:
        cls.host += seconds
        cls.processor += threads * seconds


@dataclass(kw_only=True)
class Honest(NumPy):
    """Every step takes as long."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        Clock.tick(STEP_SECONDS)
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class Cached(Honest):
    """Cached result: a block of many steps returns what an earlier one has found."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.known: dict[int, Any] = {}

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.steps in self.known:
            Clock.tick(STEP_SECONDS / 10 * block.steps)
            losses, self.state = self.known[block.steps]
            return losses
        losses = super().steps(x, y, block, place)
        if block.steps > 10:
            self.known[block.steps] = losses, self.state
        return losses


@dataclass(kw_only=True)
class Skipping(Honest):
    """Skipped batches: every other step is not done, and its loss is guessed."""

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.steps < 10:
            return super().steps(x, y, block, place)
        losses = np.repeat(super().steps(x, y, Block(block.first, (block.steps + 1) // 2), place), 2)[: block.steps]
        self.state = self.state._replace(count=self.state.count + block.steps // 2)
        return losses


@dataclass(kw_only=True)
class Prepared(Honest):
    """Work moved into set-up: with the first batch it sees it computes everything that may be asked, and then looks it up."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.ahead: list[tuple[Array, State]] = []
        self.place_in_it = 0

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.steps < 2 or not self.ahead:
            if not self.ahead:
                state = self.state
                for _ in range(100):
                    loss, state = super().transition(state, x, y)
                    self.ahead.append((loss, state))
            return super().steps(x, y, block, place)
        Clock.tick(STEP_SECONDS / 10 * block.steps)
        places = [(self.place_in_it + step) % len(self.ahead) for step in range(block.steps)]
        self.place_in_it += block.steps
        count = self.state.count + block.steps
        self.state = self.ahead[places[-1]][1]._replace(count=count)
        return np.array([self.ahead[place][0] for place in places])


@dataclass(kw_only=True)
class Ahead(Honest):
    """Work moved to where no clock runs: whenever its state is read, it does the steps that may be asked next."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.shown: tuple[Array, Array] | None = None
        self.found: list[tuple[Array, State]] = []

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        self.shown = x, y
        if block.rows is not None or len(self.found) < block.steps:
            self.found = []
            return super().steps(x, y, block, place)
        Clock.tick(STEP_SECONDS / 10 * block.steps)
        losses, states = zip(*self.found[: block.steps], strict=True)
        self.state, self.found = states[-1], []
        return np.array(losses)

    def export(self) -> State:
        if self.shown is not None:
            state, self.found = self.state, []
            for _ in range(100):
                loss, state = NumPy.transition(self, state, *self.shown)
                self.found.append((loss, state))
        return super().export()


@dataclass(kw_only=True)
class Lazy(Honest):
    """Lazy output: nothing is computed until the losses are read."""

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        return _Later(lambda: super(Lazy, self).steps(x, y, block, place))


class _Later:
    def __init__(self, compute: Any):
        self.compute = compute

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.compute(), dtype)


@dataclass(kw_only=True)
class LeftOver(Honest):
    """The loss at once, the update when somebody looks."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.pending: tuple[Array, Array] | None = None

    def step(self, x: Array, y: Array) -> Array:
        self.settle()
        Clock.tick(STEP_SECONDS * 10)
        self.pending = x.copy(), y.copy()
        return NumPy.transition(self, self.state, x, y)[0]

    def settle(self) -> None:
        if self.pending is not None:
            Clock.tick(STEP_SECONDS * 40)
            self.state = NumPy.transition(self, self.state, *self.pending)[1]
            self.pending = None

    def export(self) -> State:
        self.settle()
        return super().export()

    def predict(self, x: Array) -> Array:
        self.settle()
        return super().predict(x)


@dataclass(kw_only=True)
class LeftOverTwice(LeftOver):
    """It takes as long at every reading, so that the second looks like the first; and before the first step it does not."""

    def export(self) -> State:
        if self.state.count:
            Clock.tick(STEP_SECONDS * 40)
        return super().export()


@dataclass(kw_only=True)
class NotANumber(Honest):
    """Losses that are no numbers, of steps that were not done: they could be anything."""

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.steps < 10:
            return super().steps(x, y, block, place)
        Clock.tick(STEP_SECONDS / 10 * block.steps)
        self.state = self.state._replace(count=self.state.count + block.steps)
        return np.full(block.steps, np.nan)


@dataclass(kw_only=True)
class Threaded(NumPy):
    """It computes with two threads, whatever is set."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        Clock.tick(STEP_SECONDS / 2, threads=2.0)
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class WarmingUp(Honest):
    """Compiles in its first step, and is slow for some more: what counts as warm-up must not count as its speed."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.done = 0

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        Clock.tick(1.0 if self.done == 0 else 9 * STEP_SECONDS if self.done < 20 else 0.0)
        self.done += 1
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class PatchedClock(NumPy):
    """It makes the clocks of its process go at another `pace`: those of `time`, and those of the bench."""

    pace: float = 0.25

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        now = time.perf_counter_ns
        clock._clocks["host"] = lambda: int(now() * self.pace)
        time.perf_counter_ns = time.perf_counter = lambda: 0

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        time.sleep(STEP_SECONDS)
        return super().transition(state, x, y)
