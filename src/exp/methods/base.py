"""The contract of a method: one training step, that is forward, loss, backward and update.

A method never synchronises, never draws a random number, and knows no loop, no tracker and no other method. Its torch
is imported where it is used, so that choosing and checking a method stays fast.
"""

import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from exp.activations import ACTIVATIONS, Activation
from exp.arrays import Array, Place, cast, gather, get, put, stack
from exp.errors import InputError
from exp.losses import Loss
from exp.network import Network, forward
from exp.optimizers import Optimizer
from exp.state import State


@dataclass(frozen=True)
class Block:
    """Steps `first` … `first + steps − 1`. `rows` are their mini-batches, (steps, B) or (K, steps, B); None: all rows.

    Where some of K runs have the same, `rows` has them once, (U, steps, B), and `of`, (K,), says which each run has.
    """

    first: int
    steps: int
    rows: np.ndarray | None = None
    of: np.ndarray | None = None

    def placed(self, place: Place) -> Array | None:
        """The rows of every step at a place, (steps, B) or (steps, K, B)."""
        if self.rows is None:
            return None
        rows = put(self.rows, place).swapaxes(0, -2)
        return rows if self.of is None else gather(rows, put(self.of, place))


@dataclass(frozen=True)
class Formulas:
    """What a step computes. `constants` are the optimizer's numbers, or (K,) each for a stack of K runs."""

    network: Network
    loss: Loss
    optimizer: Optimizer
    constants: Mapping[str, Any]


@dataclass(kw_only=True)
class Method(abc.ABC):
    """One implementation of a training step. `library` says whose arrays it computes with: "numpy", "torch" or another
    module that keeps the array API standard."""

    library: ClassVar[str] = "torch"

    @property
    def stacks(self) -> bool:
        """Whether it trains a stack of K runs as one program, each as if it were alone."""
        return False

    @property
    def pure(self) -> bool:
        """Whether a step is a pure function of arrays, `transition`, from a state to the next; `state` is the present one."""
        return False

    def unsupported(self, *, device: str, precision: str, network: Network, loss: Loss, optimizer: Optimizer) -> str | None:
        """Why this combination cannot run, in a sentence that names what would; None where it can.

        `device` is "cpu", "cuda" or "mps", `precision` "fp32", "fp64", "tf32" or "bf16".
        """
        if self.library == "numpy" and device != "cpu":
            return "NumPy computes on the CPU; use device=cpu, or method=tensor for the same step on this device"
        if self.library == "numpy" and precision == "bf16":
            return "NumPy has no bfloat16; use precision=fp32, or method=tensor for the same step in bf16"
        if self.library == "numpy" and precision == "tf32":
            return "NumPy has no TF32; use precision=fp32, or method=tensor and device=cuda for the same step in tf32"
        if device != "cuda" and precision == "tf32":
            return "TF32 is a mode of NVIDIA GPUs; use device=cuda, or precision=fp32"
        if device == "mps" and precision == "fp64":
            return "mps has no float64; use precision=fp32 or device=cpu"
        return None

    @abc.abstractmethod
    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        """Take over a canonical host `state`, to train it at `place`."""

    @abc.abstractmethod
    def step(self, x: Array, y: Array) -> Array:
        """One training step on x, (N, inputs), and y, (N, outputs): the loss before the update, on the device.

        May overwrite the method's own state, never x or y.
        """

    @abc.abstractmethod
    def predict(self, x: Array) -> Array:
        """The network's output for x, (N, inputs): (N, outputs), on the device."""

    @abc.abstractmethod
    def export(self) -> State:
        """The canonical state: NumPy arrays on the host, a copy."""

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        """The losses of a block of steps, (steps,) or (steps, K), on the device. x and y are all rows, at `place`.

        The batches of every step are `block.placed(place)`: `block.rows` has those that several runs share once.
        """
        if (rows := block.placed(place)) is None:
            return stack([self.step(x, y) for _ in range(block.steps)])
        return stack([self.step(gather(x, batch), gather(y, batch)) for batch in rows])


@dataclass(kw_only=True)
class ArrayMethod(Method):
    """A method that is one pure function on arrays: `transition`.

    `leading_axes` says that it acts on the last two axes only, so that leading axes are runs: K states train K runs.
    """

    leading_axes: ClassVar[bool] = False

    @property
    def stacks(self) -> bool:
        return self.leading_axes

    @property
    def pure(self) -> bool:
        return True

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        self.activation: Activation = ACTIVATIONS[formulas.network.activation]
        self.loss, self.optimizer = formulas.loss, formulas.optimizer
        self.constants = {
            key: float(value) if np.ndim(value) == 0 else put(np.asarray(value), place)
            for key, value in formulas.constants.items()
        }
        self.state = state.map(lambda array: put(array, place))

    @abc.abstractmethod
    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        """The loss of this state on (x, y), and the state after one update."""

    def numbers(self, place: Place) -> dict[str, Array]:
        """The constants as arrays: a step compiled with them as inputs is the same program for others.

        0 stays out: what is left undone for it stays so.
        """
        constants = {key: value for key, value in self.constants.items() if not (isinstance(value, float) and value == 0)}
        return {key: put(np.asarray(value), place) if isinstance(value, float) else value for key, value in constants.items()}

    @contextmanager
    def given(self, numbers: Mapping[str, Array]) -> Iterator[None]:
        """Inside, these constants hold."""
        own = self.constants
        self.constants = {**own, **numbers}
        try:
            yield
        finally:
            self.constants = own

    def update(self, state: State, grads: dict[str, Array]) -> State:
        """The state after one update by the optimizer, given the gradient of every parameter, in whatever precision."""
        grads = {name: cast(grad, like=state.params[name]) for name, grad in grads.items()}
        return self.optimizer.update(state, grads, self.constants)

    def step(self, x: Array, y: Array) -> Array:
        loss, self.state = self.transition(self.state, x, y)
        return loss

    def predict(self, x: Array) -> Array:
        return forward(self.state.params, x, self.activation)[1][-1]

    def export(self) -> State:
        return self.state.map(get)


@dataclass(kw_only=True)
class Wrapper(Method):
    """A method that takes the steps of another one, `inner`, in its own way: formulas and state are the inner's.

    On the command line, in YAML and in every record `inner` is the name of a choice of `method`.
    """

    takes_wrappers: ClassVar[bool] = False
    """Whether `inner` may be a wrapper itself, if its step is pure."""

    inner: Method

    def __post_init__(self) -> None:
        name = type(self.inner).__name__.lower()
        if self.inner.library != "torch":
            raise InputError("inner", name, "computes without torch; give a method that has it, such as autograd or tensor")
        if isinstance(self.inner, Wrapper) and not (self.takes_wrappers and self.inner.pure):
            raise InputError("inner", name, "takes another method's steps itself; give that one, such as autograd or tensor")

    @property
    def stacks(self) -> bool:
        return self.inner.stacks

    def unsupported(self, **chosen: Any) -> str | None:
        return self.inner.unsupported(**chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        self.running = replace(self.inner)  # type: ignore[type-var]  # every method is a dataclass
        self.running.start(formulas, state, place)

    def predict(self, x: Array) -> Array:
        return self.running.predict(x)

    def export(self) -> State:
        return self.running.export()
