"""method=compiled: the step of another torch method as one program that torch.compile's Inductor has made of it.

A pure `transition` is traced with forward, backward and update together (`make_fx` records what autograd does too), so that
nothing is left to Python but one call. Numbers of the optimizer are inputs: another learning rate is the same program.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from exp.arrays import Array, Place
from exp.methods.base import ArrayMethod, Formulas, Wrapper
from exp.state import State

COMPILERS = ("g++", "clang++", "c++")

Executable = Callable[..., Any]

_executables: dict[Any, Executable] = {}
"""What this process has compiled, by what they compute: the trace itself, and the form of its arguments."""


@dataclass(kw_only=True)
class Compiled(Wrapper):
    """The steps of `inner`, compiled at the first of each batch shape; the second compiles nothing."""

    @property
    def pure(self) -> bool:
        return isinstance(self.inner, ArrayMethod)

    @property
    def state(self) -> State:
        """The state that the program has reached, on the device."""
        return State.from_named(dict(zip(self.names, self.arrays, strict=True)))

    def unsupported(self, *, device: str, **chosen: Any) -> str | None:
        if device == "cpu" and not _has_compiler():
            return "torch.compile needs a C++ compiler on a CPU and finds none; install g++, or choose the inner method itself"
        return super().unsupported(device=device, **chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.executables: dict[tuple[int, ...], Executable] = {}
        if isinstance(self.running, ArrayMethod):
            self.names, self.arrays = list(self.running.state.named()), list(self.running.state.named().values())
            self.numbers = self.running.numbers(place)

    def step(self, x: Array, y: Array) -> Array:
        if not isinstance(self.running, ArrayMethod):
            return self._step_of_its_own(x, y)
        loss, *self.arrays = self._executable(self.running, x, y)(*self.arrays, *self.numbers.values(), x, y)
        return loss

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        """The loss of a state on (x, y), and the state after one update, where that of `inner` is pure."""
        named = state.named()
        executable = self._executable(cast(ArrayMethod, self.running), x, y)
        loss, *after = executable(*(named[name] for name in self.names), *self.numbers.values(), x, y)
        return loss, State.from_named(dict(zip(self.names, after, strict=True)))

    def predict(self, x: Array) -> Array:
        return self._current().predict(x)

    def export(self) -> State:
        return self._current().export()

    def _current(self) -> Any:
        """The inner method with the state that the program has reached."""
        if isinstance(self.running, ArrayMethod):
            self.running.state = self.state
        return self.running

    def _executable(self, method: ArrayMethod, x: Array, y: Array) -> Executable:
        """The program of a batch shape, made at its first."""
        shape = (*x.shape, *y.shape)
        if shape not in self.executables:
            self.executables[shape] = self._traced(method, x, y)
        return self.executables[shape]

    def _traced(self, method: ArrayMethod, x: Array, y: Array) -> Executable:
        """The program of a step: from the state, the optimizer's numbers, x and y to the loss and the state after it."""
        import torch
        from torch.fx.experimental.proxy_tensor import make_fx

        names = self.names

        def step(*arrays: Array) -> list[Array]:
            state = State.from_named(dict(zip(names, arrays, strict=False)))
            with method.given(dict(zip(self.numbers, arrays[len(names) :], strict=False))):
                loss, after = method.transition(state, *arrays[-2:])
            return [loss, *(after.named()[name] for name in names)]

        arguments = [*self.arrays, *self.numbers.values(), x, y]
        graph = make_fx(step)(*arguments)
        own = id(graph) if any(node.op == "get_attr" for node in graph.graph.nodes) else None  # it holds arrays itself
        forms = [(each.shape, each.stride(), each.dtype, each.device) for each in arguments]
        asked = repr((graph.code, forms, torch.get_num_threads(), own))
        if asked not in _executables:
            _executables[asked] = lowered(graph, arguments)
        return _executables[asked]

    def _step_of_its_own(self, x: Array, y: Array) -> Array:
        """A step that changes a state of its own, by torch.compile, which compiles it in parts."""
        import torch

        shape = (*x.shape, *y.shape)
        if not self.executables:
            self.compiled = torch.compile(self.running.step, dynamic=False)
        if shape in self.executables:
            return self.compiled(x, y)
        self.executables[shape] = self.compiled
        with _in_this_process(), torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10**6):
            return self.compiled(x, y)


def lowered(graph: Any, arguments: list[Array]) -> Executable:
    """The machine code of a traced graph, for arguments of these shapes."""
    import torch
    import torch._inductor

    with _in_this_process(), torch.no_grad():
        program: Any = torch._inductor.compile(graph, arguments)
        return program


def _in_this_process() -> Any:
    """A step is a kernel or a few: starting processes to compile them takes longer than they do."""
    import torch._inductor.config

    return torch._inductor.config.patch(compile_threads=1)  # type: ignore[attr-defined]


def _has_compiler() -> bool:
    """Whether there is what Inductor would call: $CXX, else one of COMPILERS."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return any(Path(folder, name).is_file() for folder in os.get_exec_path() for name in names)
