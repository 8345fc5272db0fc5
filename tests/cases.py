"""Methods to be judged: those of `conf/`, small networks for them, and methods with a fault of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from exp.activations import Relu
from exp.arrays import Array, Place
from exp.conditions import controlled
from exp.judgement import READERS
from exp.losses import Loss
from exp.methods import Formulas, Method
from exp.methods.manual import NumPy, Tensor
from exp.network import Network
from exp.optimizers import Optimizer
from exp.precisions import Precision
from exp.seeds import generator
from exp.state import State
from exp.verification.case import Case, judge_method
from exp.verification.judge import Judge
from exp.verification.subject import Subject
from exp.verification.verdict import Verdict, concluded

CONF = Path(__file__).parents[1] / "conf"
WIDTHS, SAMPLES, BATCH = (6, 5, 4, 3), 11, 4


IN_THEIR_OWN_WAY = {"compiled", "graphed", "jax"}
"""Methods that compile: seconds each, so tests of their own stand for the product of everything with everything."""


def chosen(group: str, **changes: Any) -> dict[str, Any]:
    """Every choice of a group of `conf/`, with these changes; of the methods those that need no time to compile."""
    paths = sorted(path for path in (CONF / group).glob("*.yaml") if path.stem not in IN_THEIR_OWN_WAY)
    return {path.stem: instantiate(OmegaConf.load(path), **changes, _convert_="all") for path in paths}


METHODS: dict[str, Method] = chosen("method")
PRECISIONS: dict[str, Precision] = chosen("precision")
LOSSES: dict[str, Loss] = chosen("loss")
# Rates at which 13 steps move the weights by a few per cent, and a decay that shows.
OPTIMIZERS: dict[str, Optimizer] = chosen("optimizer", lr=1e-3, weight_decay=0.02)


def case(
    method: Method,
    precision: str = "fp32",
    *,
    loss: str = "squared_error",
    optimizer: str = "sgd",
    activation: str = "relu",
    bias: bool = True,
    widths: tuple[int, ...] = WIDTHS,
    batch_size: int | None = BATCH,
) -> Case:
    """A method for a small network on a CPU."""
    network = Network(hidden=list(widths[1:-1]), activation=activation, bias=bias)
    place = Place(method.library, "cpu", PRECISIONS[precision].dtype)
    subject = Subject(method, network, LOSSES[loss], OPTIMIZERS[optimizer], place)
    return Case(subject, precision, widths, LOSSES[loss].needs_classes, batch_size, SAMPLES, 0, READERS)


def conditions(case: Case) -> tuple[Any, ...]:
    """Those of a run, for `controlled`."""
    return 1, "torch", PRECISIONS[case.precision], "cpu"


def judged(case: Case) -> tuple[Verdict, Judge]:
    with controlled(*conditions(case)):
        judge = case.judge(generator(case.seed, "verification"))
        judge_method(case, judge)
        return concluded(case, judge), judge


def supported(method: Method, precision: str) -> bool:
    """Whether the method computes in this precision on a CPU, as far as it says."""
    parts: Mapping[str, Any] = {"network": Network(), "loss": LOSSES["squared_error"], "optimizer": OPTIMIZERS["sgd"]}
    return method.unsupported(device="cpu", precision=precision, **parts) is None


# Faults

Gradients = dict[str, Array]


@dataclass(kw_only=True)
class Altered(NumPy):
    """The hand-written step with its gradients altered."""

    altered: Callable[[Gradients], Gradients]

    def update(self, state: State, grads: Gradients) -> State:
        return super().update(state, self.altered(grads))


@dataclass(kw_only=True)
class HalfLoss(NumPy):
    """A loss that is half of what it should be; the gradient is right."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, after = super().transition(state, x, y)
        return loss / 2, after


@dataclass(kw_only=True)
class DoubleRate(NumPy):
    """An update at twice the rate."""

    def update(self, state: State, grads: Gradients) -> State:
        after = super().update(state, grads)
        params = {name: 2 * value - state.params[name] for name, value in after.params.items()}
        return after._replace(params=params)


@dataclass(kw_only=True)
class ForgottenCount(NumPy):
    """The steps are not counted."""

    def update(self, state: State, grads: Gradients) -> State:
        return super().update(state, grads)._replace(count=state.count)


class Leaky(Relu):
    """ReLU that lets a little of the negative through."""

    def value(self, z: Array) -> Array:
        return super().value(z) + 0.01 * z * (z < 0)


@dataclass(kw_only=True)
class OtherActivation(NumPy):
    """Another activation, whose backward pass is as it was."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.activation = Leaky()


@dataclass(kw_only=True)
class Raising(Tensor):
    """A step that does not run."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        raise ZeroDivisionError("nothing to divide by")
