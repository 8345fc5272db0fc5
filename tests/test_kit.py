"""The conformance kit: each check sees the method that breaks it, and every shipped method keeps all that it can."""

import os
from dataclasses import dataclass, field
from typing import Any

import cases
import numpy as np
import pytest
from cases import METHODS, Gradients, case, judged

from exp.arrays import Array, Place, library
from exp.conditions import controlled
from exp.methods import Formulas
from exp.methods.manual import NumPy, Tensor
from exp.state import State
from exp.verification import contract
from exp.verification.case import Case
from exp.verification.contract import CHECKS
from exp.verification.kit import conformance
from exp.verification.verdict import Verdict


class SameProcess:
    """In the place of another process: what is pickled is unpickled here, which takes no seconds."""

    def __init__(self, *workers: Any, **context: Any):
        self._found: Any = None

    def __enter__(self) -> "SameProcess":
        return self

    def __exit__(self, *error: Any) -> None: ...

    def submit(self, work: Any, *arguments: Any) -> "SameProcess":
        self._found = work(*arguments)
        return self

    def result(self) -> Any:
        return self._found


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "ProcessPoolExecutor", SameProcess)


def reported(asked: Case, verdict: Verdict | None = None) -> Verdict:
    with controlled(*cases.conditions(asked)):
        return conformance(asked, verdict or Verdict("equivalent"), cases.conditions(asked))


def not_kept(verdict: Verdict) -> dict[str, bool | None]:
    """False: broken; None: not done."""
    return {name: item["kept"] for name, item in verdict.kit["items"].items() if item["kept"] is not True}


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_every_shipped_method_keeps_the_contract(method: str, optimizer: str) -> None:
    found = reported(case(METHODS[method], optimizer=optimizer))
    assert [*found.kit["items"]] == [*CHECKS]
    assert found.verdict == "equivalent"
    assert found.kit["smallest_example"] is None
    lines = found.kit["report"].splitlines()
    assert len(lines) == len(CHECKS)
    if method != "module":
        assert not_kept(found) == {}, found.kit["report"]
    else:
        assert not_kept(found) == {"stacked runs": None}, found.kit["report"]
        assert "not done  stacked runs: has a state of its own, so it trains one run at a time" in lines


@pytest.mark.parametrize(("method", "precision"), [("tensor", "bf16"), ("numpy", "fp64")])
def test_another_process_gives_the_same_bits(method: str, precision: str) -> None:
    found = reported(case(METHODS[method], precision, optimizer="momentum", batch_size=None))
    assert not_kept(found) == {}, found.kit["report"]
    assert found.kit["items"]["worker process"]["seen"] == "another process gives the same bits"


# Methods that break one check each; an error of one roundoff, where a check wants the same bits


def nearly(array: Array) -> Array:
    return array * (1 + 2.0**-22)


@dataclass(kw_only=True)
class Fickle(NumPy):
    """The second start of all is another one."""

    started: list[int] = field(default_factory=list)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.started.append(len(self.started))
        self.number = len(self.started)

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, after = super().transition(state, x, y)
        return nearly(loss) if self.number == 2 else loss, after


@dataclass(kw_only=True)
class Overwriting(NumPy):
    """x is one roundoff off after a step."""

    def step(self, x: Array, y: Array) -> Array:
        loss = super().step(x, y)
        x[...] = nearly(x)
        return loss


@dataclass(kw_only=True)
class Widening(NumPy):
    """A loss in float64."""

    def step(self, x: Array, y: Array) -> Array:
        return super().step(x, y).astype(np.float64)


@dataclass(kw_only=True)
class LossAfterUpdate(NumPy):
    """The loss of the updated weights."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        _, after = super().transition(state, x, y)
        return super().transition(after, x, y)[0], after


@dataclass(kw_only=True)
class FixedBatch(NumPy):
    """Averages over the batch by a size that is that of whole batches only."""

    def update(self, state: State, grads: Gradients) -> State:
        return super().update(state, {name: grad * (self.rows / cases.BATCH) for name, grad in grads.items()})

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        self.rows = len(x) if len(x) < cases.BATCH else cases.BATCH
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class Remembering(NumPy):
    """The third step after a start is another one: something is not exported."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.steps_done = 0

    def step(self, x: Array, y: Array) -> Array:
        self.steps_done += 1
        loss = super().step(x, y)
        return nearly(loss) if self.steps_done == 3 else loss


@dataclass(kw_only=True)
class Mixing(NumPy):
    """The runs of a stack get each other's gradients."""

    def update(self, state: State, grads: Gradients) -> State:
        return super().update(state, {name: grad[::-1] if state.count.ndim else grad for name, grad in grads.items()})


@dataclass(kw_only=True)
class Alone(NumPy):
    """One run at a time, which it says by raising."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        if state.count.ndim:
            raise NotImplementedError
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class Claiming(NumPy):
    """It says that it trains stacks."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        if state.count.ndim:
            raise ValueError("only one")
        return super().transition(state, x, y)


@dataclass(kw_only=True)
class Waiting(Tensor):
    """Looks at its loss."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, after = super().transition(state, x, y)
        if not loss.ndim and loss.item() < 0:
            raise AssertionError
        return loss, after


@dataclass(kw_only=True)
class Masking(Tensor):
    """Chooses by a mask, whose number of entries is known to the device only."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, after = super().transition(state, x, y)
        return loss + 0 * x[x > 0].sum(), after


@dataclass(kw_only=True)
class AtHome(NumPy):
    """Another step in another process."""

    home: int = field(default_factory=os.getpid)

    def step(self, x: Array, y: Array) -> Array:
        loss = super().step(x, y)
        return loss if os.getpid() == self.home else nearly(loss)


BREAKING = [
    (Fickle, {"determinism"}, "loss differs when the same 4 steps are repeated"),
    (Overwriting, {"inputs untouched"}, "x was changed by a step"),
    (Widening, {"type kept"}, "loss is float64, not float32"),
    # A wrong loss is a wrong number too.
    (LossAfterUpdate, {"loss before update", "ragged batch", "stacked runs"}, "that of the updated weights; before"),
    (FixedBatch, {"ragged batch", "stacked runs"}, "is wrong at step 2, of 2 rows"),
    (Remembering, {"stop and continue"}, "loss differs when a run is stopped after 2 steps and continued"),
    (Mixing, {"stacked runs"}, "of run 0 in a stack of 3 is"),
    (Waiting, {"no synchronisation"}, "a step reads values from the device (_local_scalar_dense)"),
    (Masking, {"no synchronisation"}, "a step reads values from the device (index)"),
]


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(("kind", "broken", "seen"), BREAKING, ids=[kind.__name__ for kind, _, _ in BREAKING])
def test_a_method_that_breaks_the_contract_is_different(kind: Any, broken: set[str], seen: str) -> None:
    found = reported(case(kind()))
    assert not_kept(found) == dict.fromkeys(broken, False), found.kit["report"]
    first = next(name for name in CHECKS if name in broken)
    assert found.verdict == "different"
    assert found.reason.startswith(f"{first}: ")
    assert seen in found.reason
    assert found.first is not None
    assert (found.first.beat, found.first.tensor) == ("contract", first)
    assert seen in found.line
    assert f"broken    {first}: " in found.kit["report"]


def test_every_check_has_a_method_that_breaks_it() -> None:
    assert {*CHECKS} - {check for _, broken, _ in BREAKING for check in broken} == {"worker process"}  # below


def test_a_method_that_is_another_in_another_process_is_different() -> None:
    found = reported(case(AtHome()))
    assert not_kept(found) == {"worker process": False}
    assert "loss differs when the same steps are done in another process" in found.line


def test_a_method_that_cannot_be_pickled_is_different() -> None:
    found = reported(case(cases.Altered(altered=lambda grads: grads)))
    assert not_kept(found) == {"worker process": False}
    assert "worker process: cannot be pickled" in found.reason


@pytest.mark.usefixtures("same_process")
def test_a_method_that_says_what_it_does_not_is_not_broken() -> None:
    found = reported(case(Alone()))
    assert not_kept(found) == {"stacked runs": None}
    assert found.verdict == "equivalent"
    assert "not done  stacked runs: trains one run at a time: a stack raises NotImplementedError" in found.kit["report"]


@pytest.mark.usefixtures("same_process")
def test_a_method_that_claims_stacks_and_cannot_do_them_is_broken() -> None:
    found = reported(case(Claiming()))
    assert not_kept(found) == {"stacked runs": False}
    assert "says that it trains stacks, and one raises ValueError: only one" in found.line


# The smallest example


@dataclass(kw_only=True)
class FirstRow(NumPy):
    """The gradient of a bias is that of the first row."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        self.rows = x.shape[-2]
        return super().transition(state, x, y)

    def update(self, state: State, grads: Gradients) -> State:
        return super().update(state, {name: grad / self.rows if "bias" in name else grad for name, grad in grads.items()})


@dataclass(kw_only=True)
class Transposed(NumPy):
    """Square gradients of weights are transposed."""

    def update(self, state: State, grads: Gradients) -> State:
        def wrong(grad: Array) -> Array:
            return grad.swapaxes(-1, -2) if grad.ndim > 1 and grad.shape[-1] == grad.shape[-2] else grad

        return super().update(state, {name: library(grad).asarray(wrong(grad)) for name, grad in grads.items()})


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    ("method", "smallest"),
    [
        (cases.HalfLoss(), "1 × 1 → 1 → 1: loss, loss"),
        (FirstRow(), "2 × 1 → 1 → 1: backward, layer2.bias"),
        (Transposed(), "1 × 2 → 2 → 2: backward, layer2.weight"),
    ],
    ids=["half the loss", "bias of one row", "transposed"],
)
def test_the_smallest_failing_example_is_reported(method: NumPy, smallest: str) -> None:
    asked = case(method, widths=(5, 5, 3))
    verdict, _ = judged(asked)
    assert verdict.verdict == "different"
    found = reported(asked, verdict)
    first, *numbers = found.kit["smallest_example"]
    assert first.startswith(f"smallest failing example: {smallest}")
    assert [line.split()[0] for line in numbers] == ["layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias", "x", "y"]
    assert found.kit["report"].endswith("\n".join(found.kit["smallest_example"]) + "\n")
