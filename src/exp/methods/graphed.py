"""method=graphed: the steps of another torch method as CUDA graphs, many steps a replay: the host has little to launch.

A graph reads and writes fixed memory: the state, x and y, the rows of its batches, its losses. It is captured once for each
batch shape and number of steps, and gathers its batches itself.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from exp.arrays import Array, Place, gather, stack
from exp.methods.base import Block, Formulas, Wrapper
from exp.state import State

STEPS_PER_REPLAY = 20
"""Steps of one graph; what is left of a block is replayed step by step."""

WARM_UPS = 2
"""Steps taken before a capture, for what libraries set up at their first call; CUDA's own advice is a few."""


@cache
def _side_stream(device: str) -> Any:
    """Where graphs are captured, which the default stream does not allow: one for all, as cuBLAS keeps memory for each."""
    import torch

    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class Captured:
    """A CUDA graph with the memory that it reads, `rows`, (steps, B), and that it writes, `losses`, (steps,) or (steps, K)."""

    graph: Any
    x: Array
    y: Array
    rows: Array | None
    losses: Array


@dataclass(kw_only=True)
class Graphed(Wrapper):
    """The steps of `inner`, captured at the first of each batch shape and replayed from then on."""

    takes_wrappers = True

    def unsupported(self, *, device: str, **chosen: Any) -> str | None:
        if not self.inner.pure:
            return "a graph holds a step that is a pure function of arrays; use method.inner=autograd, tensor or compiled"
        if device != "cuda":
            return "CUDA graphs are a thing of NVIDIA GPUs; use device=cuda, or method=compiled"
        return super().unsupported(device=device, **chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.captured: dict[tuple[Any, ...], Captured] = {}

    def step(self, x: Array, y: Array) -> Array:
        """A batch of its own is copied to where the graph reads it."""
        key = (tuple(x.shape), tuple(y.shape))
        if key not in self.captured:
            self.captured[key] = self._capture(x.clone(), y.clone(), None, 1)
        found = self.captured[key]
        found.x.copy_(x)
        found.y.copy_(y)
        return self._replayed(found, None)[0]

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        rows = block.placed(place)
        losses = []
        done = 0
        while done < block.steps:
            count = STEPS_PER_REPLAY if block.steps - done >= STEPS_PER_REPLAY else 1
            batches = None if rows is None else rows[done : done + count]
            losses.extend(self._replayed(self._of_block(x, y, batches, count), batches))
            done += count
        return stack(losses)

    def _of_block(self, x: Array, y: Array, rows: Array | None, count: int) -> Captured:
        """The graph of `count` steps in batches of all rows x and y, which it reads where they are."""
        key = (x.data_ptr(), y.data_ptr(), None if rows is None else tuple(rows.shape[1:]), count)
        if key not in self.captured:
            self.captured[key] = self._capture(x, y, None if rows is None else rows.clone(), count)
        return self.captured[key]

    def _replayed(self, captured: Captured, rows: Array | None) -> Array:
        """The losses of a replay, copied from where the next one will write."""
        if captured.rows is not None:
            captured.rows.copy_(rows)
        captured.graph.replay()
        return captured.losses.clone()

    def _capture(self, x: Array, y: Array, rows: Array | None, count: int) -> Captured:
        import torch

        method: Any = self.running
        fixed = method.state  # where every graph of this run finds the state and leaves it

        def steps(count: int) -> Array:
            losses, state = [], fixed
            for step in range(count):
                batch = (x, y) if rows is None else (gather(x, rows[step]), gather(y, rows[step]))
                loss, state = method.transition(state, *batch)
                losses.append(loss)
            for old, new in zip(fixed.named().values(), state.named().values(), strict=True):
                old.copy_(new)
            return stack(losses)

        before = fixed.map(lambda array: array.clone())
        stream = _side_stream(str(x.device))
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                steps(1)
            for old, kept in zip(fixed.named().values(), before.named().values(), strict=True):
                old.copy_(kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, and computes nothing
            losses = steps(count)
        return Captured(graph, x, y, rows, losses)
