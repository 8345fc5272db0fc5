"""One combination on the bench: started, warmed up, and timed block by block. Wherever it runs, this is what runs.

A timed block is `calls` calls of the method's `steps`, as the training loop makes them. The device is waited for at its edges
only: all its streams, so that work elsewhere on it counts. Losses are read inside, as the loop reads them; the state is read
before the new data are where the method finds them, and after the block: what a method has left to do then shows in that it
takes longer than to read the state once more, or than it took before the first step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, log2
from typing import Any

import numpy as np

from exp.arrays import Array, Place, get, put
from exp.benchmark import clock
from exp.benchmark.ceilings import Ceilings, ceilings
from exp.benchmark.fresh import Fresh, batches, fresh
from exp.benchmark.warming import MOST_SECONDS, is_warm
from exp.clock import settled
from exp.experiment import Experiment
from exp.memory import measured
from exp.methods.base import Block
from exp.problems import Data
from exp.program import Program
from exp.state import State
from exp.training import LONGEST_BLOCK

BLOCK_SECONDS = 0.04
"""What a timed block is to take: long beside an exchange with the parent, short beside what disturbs a machine."""

WARMING_BLOCK_SECONDS = 0.005
MOST_CALLS = 50

IN_PLACE = ("numpy", "torch")
"""Libraries whose arrays can be overwritten."""


@dataclass(frozen=True)
class Started:
    """Host seconds of `start` and of the first step, which compiles what is compiled; `loss` before that step."""

    start_seconds: float
    first_step_seconds: float
    loss: float


@dataclass(frozen=True)
class Warm:
    """How a method warmed up, and of how many steps and calls its timed blocks are to be."""

    steps: int
    seconds: float
    stable: bool
    step_seconds: float
    block_steps: int
    block_calls: int


@dataclass(frozen=True)
class Timed:
    """A timed block. `seconds` by the worker's own clock, `outside_seconds` by that of whoever ordered the block.

    `device_seconds` between events on a GPU; `left_seconds` is what reading the state took beyond what it takes; `counted` how
    many steps the state says were done; `exchange_seconds` what an order took that asks for nothing. `losses` are (steps,).
    """

    seed: int
    steps: int
    calls: int
    seconds: float
    device_seconds: float | None
    processor_seconds: float
    left_seconds: float
    counted: int
    losses: np.ndarray
    outside_seconds: float = float("nan")
    exchange_seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.steps


class Bench:
    """A method of an experiment, in this process. The conditions are set by whoever makes it."""

    def __init__(self, experiment: Experiment, data: Data):
        self._experiment, self._data = experiment, data
        self._size = experiment.training.batch_size
        self.place = Place(experiment.method.library, experiment.device.torch_name, experiment.precision.dtype)
        self._memory: Callable[[], dict[str, float]] = dict
        self._states: tuple[State, State] | None = None

    def start(self) -> Started:
        """Start the method and do its first step, on the training split as it is."""
        self._memory = measured(self.place.device if self.place.library == "torch" else None)
        self.edge()
        began = clock.seconds()
        program = Program([self._experiment], [self._data])
        program.start(self._experiment.device)
        self._method = program.method
        self.edge()
        start_seconds = clock.seconds() - began
        self._method.export()
        self._read_seconds, _ = self._read()
        split = self._data.train
        self._x, self._y = put(split.inputs, self.place), put(split.targets, self.place)
        first = self._batches(0, 1, 1)[0]
        self.edge()
        began = clock.seconds()
        loss = float(self._run([first])[0])
        return Started(start_seconds, clock.seconds() - began, loss)

    def ceilings(self) -> Ceilings:
        """Those of the place, by NumPy or torch where the library is another one."""
        usual = "numpy" if self.place.device == "cpu" else "torch"
        known = self.place.library if self.place.library in IN_PLACE else usual
        return ceilings(replace(self.place, library=known), self.edge)

    def warm(self, seed: int) -> Warm:
        """Do blocks until they are as fast as the ones before: see `warming`."""
        self._show(*self._placed(self._fresh(seed, 1, 1)))
        found: list[float] = []
        steps, done, began = 1, 0, clock.seconds()
        while True:
            blocks = self._batches(seed + 1 + done, steps, 1)
            before = clock.seconds()
            self._run(blocks)
            now = clock.seconds()
            done += steps
            step_seconds = (now - before) / steps
            if now - before > WARMING_BLOCK_SECONDS / 4 or 2 * steps > LONGEST_BLOCK:
                found.append(step_seconds)
            stable = is_warm(found, now - began)
            if stable or now - began > MOST_SECONDS:
                break
            wanted = min(max(WARMING_BLOCK_SECONDS / step_seconds, 1), LONGEST_BLOCK)
            steps = 2 ** floor(log2(wanted))  # few lengths: some methods compile each
        step_seconds = float(np.median(found[-5:])) if found else step_seconds
        block_steps = min(max(round(BLOCK_SECONDS / step_seconds), 1), LONGEST_BLOCK)
        calls = min(max(round(BLOCK_SECONDS / step_seconds / block_steps), 1), MOST_CALLS)
        self._run(self._batches(seed, block_steps, 1))  # what is done once for this length is done
        return Warm(done + block_steps, now - began, stable, step_seconds, block_steps, calls)

    def prepare(self, seed: int, steps: int, calls: int) -> None:
        """Have everything ready for a timed block: a step or two to warm the caches, and new data, not yet shown."""
        self._run(self._batches(seed + 1, 1, 2))
        self._before = self._method.export()
        data = self._fresh(seed, steps, calls)
        self._next, self._hidden = (seed, steps, calls, data.blocks), self._placed(data)
        self.edge()

    def ready(self) -> None:
        """The new data where the method finds them: from now on nothing of it runs but the timed block."""
        self._show(*self._hidden)
        self.edge()

    def go(self, done: Callable[[], Any]) -> Timed:
        """The timed block itself; `done` is called at its end, before anything else."""
        seed, steps, calls, blocks = self._next
        events = _Events(self.place.device if self.place.library == "torch" else "cpu")
        self.edge()
        computed, began = clock.processor_seconds(), clock.seconds()
        events.first()
        losses = self._run(blocks, events)
        seconds, computed = clock.seconds() - began, clock.processor_seconds() - computed
        done()
        read_seconds, after = self._read()
        again_seconds, _ = self._read()
        left = read_seconds - min(again_seconds, 2 * self._read_seconds)  # twice: a machine's moods are no work
        self._states = self._before, after
        counted = int(after.count) - int(self._before.count)
        return Timed(seed, steps * calls, calls, seconds, events.seconds(), computed, left, counted, losses)

    def states(self) -> tuple[State, State]:
        """Before and after the latest timed block."""
        assert self._states is not None
        return self._states

    def finish(self) -> dict[str, float]:
        """The greatest memory taken since the start."""
        return self._memory()

    def _fresh(self, seed: int, steps: int, calls: int) -> Fresh:
        return fresh(self._data.train.inputs, self._data.train.targets, self._size, seed, steps, calls)

    def _batches(self, seed: int, steps: int, calls: int) -> list[Block]:
        return batches(len(self._data.train.inputs), self._size, seed, steps, calls)

    def _placed(self, data: Fresh) -> tuple[Array, Array]:
        return settled(put(data.x, self.place)), settled(put(data.y, self.place))

    def _show(self, x: Array, y: Array) -> None:
        """New numbers, at the same addresses where the library lets arrays change: what is captured reads them there."""
        if self.place.library in IN_PLACE:
            self._x[...], self._y[...] = x, y
        else:
            self._x, self._y = x, y

    def _run(self, blocks: list[Block], events: "_Events | None" = None) -> np.ndarray:
        """The losses of these blocks, read: when this returns, the device has nothing more to do."""
        found = [self._method.steps(self._x, self._y, block, self.place) for block in blocks]
        losses = [get(each) for each in found]
        if events:
            events.last()
        self.edge()
        return np.concatenate([np.atleast_1d(each) for each in losses]).astype(np.float64)

    def _read(self) -> tuple[float, State]:
        """What reading the state takes, and the state."""
        began = clock.seconds()
        state = self._method.export()
        self.edge()
        return clock.seconds() - began, state

    def edge(self) -> None:
        """Wait for the whole device, whatever the stream."""
        if not self.place.device.startswith("cpu"):
            import torch

            kind = self.place.device.partition(":")[0]
            torch.cuda.synchronize(self.place.device) if kind == "cuda" else getattr(torch, kind).synchronize()


class _Events:
    """CUDA's own clock at the edges of a block; nothing on other devices."""

    def __init__(self, device: str):
        self._events: list[Any] = []
        if device.startswith("cuda"):
            import torch

            self._stream = torch.cuda.current_stream(device)
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def first(self) -> None:
        if self._events:
            self._events[0].record(self._stream)

    def last(self) -> None:
        if self._events:
            self._events[1].record(self._stream)

    def seconds(self) -> float | None:
        """Between the two, once the device has passed both."""
        return self._events[0].elapsed_time(self._events[1]) / 1000 if self._events else None
