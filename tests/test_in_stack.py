"""What a stack computes is judged as a single run is: right methods are, those that are wrong in a stack alone are not."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from cases import METHODS, OPTIMIZERS, Gradients, case, judged

from exp.arrays import Array, Place
from exp.in_stack import RUNS, InStack, _other
from exp.methods import Method
from exp.methods.base import Formulas
from exp.methods.manual import NumPy
from exp.optimizers import Adam
from exp.state import State

STACKING = [name for name, method in METHODS.items() if method.stacks and name not in ("compiled", "graphed", "numpy")]


@pytest.mark.parametrize(
    ("method", "precision", "optimizer", "batch_size"),
    [
        *((name, "fp32", optimizer, 4) for name, optimizer in zip(STACKING, ["adam", "momentum", "adamw", "sgd"], strict=True)),
        *(("numpy", "fp64", optimizer, None) for optimizer in OPTIMIZERS),
        ("tensor", "bf16", "adam", 4),
    ],
)
def test_a_right_method_is_equivalent_in_a_stack_too(
    method: str, precision: str, optimizer: str, batch_size: int | None
) -> None:
    found, _ = judged(case(InStack(inner=METHODS[method]), precision, optimizer=optimizer, batch_size=batch_size))
    assert found.verdict == "equivalent", found.line


def in_a_stack(state: State) -> bool:
    return bool(np.ndim(state.count))


@dataclass(kw_only=True)
class OfTheFirst(NumPy):
    """A stack knows one value of `number`, that of its first run."""

    number: str

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        if np.ndim(self.constants[self.number]):
            self.constants[self.number] = float(np.asarray(self.constants[self.number])[0])


@dataclass(kw_only=True)
class LastLikeTheFirst(NumPy):
    """The last run of a stack gets the gradients of the first."""

    def update(self, state: State, grads: Gradients) -> State:
        wrong = {name: np.concatenate([grad[:-1], grad[:1]]) for name, grad in grads.items()} if in_a_stack(state) else grads
        return super().update(state, wrong)


@dataclass(kw_only=True)
class TiredLater(NumPy):
    """After thirty steps a stack is updated by half the gradient."""

    taken = 0

    def update(self, state: State, grads: Gradients) -> State:
        self.taken += in_a_stack(state)
        half = np.float32(0.5)
        return super().update(state, {name: half * grad for name, grad in grads.items()} if self.taken > 30 else grads)


@dataclass(kw_only=True)
class PredictsTheMean(NumPy):
    """The predictions of a stack are the mean of all runs'."""

    def predict(self, x: Array) -> Array:
        found = super().predict(x)
        return np.broadcast_to(found.mean(axis=0), found.shape) if found.ndim == 3 else found


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        (OfTheFirst(number="lr"), "sgd"),
        (OfTheFirst(number="weight_decay"), "sgd"),
        (OfTheFirst(number="momentum"), "momentum"),
        (OfTheFirst(number="beta2"), "adam"),
        (LastLikeTheFirst(), "sgd"),
        (TiredLater(), "momentum"),
        (PredictsTheMean(), "sgd"),
    ],
    ids=lambda value: getattr(value, "number", type(value).__name__) if isinstance(value, NumPy) else value,
)
def test_a_method_that_is_wrong_in_a_stack_alone_is_different_there(method: Method, optimizer: str) -> None:
    alone = case(method, optimizer=optimizer)
    assert judged(alone)[0].verdict == "equivalent"
    found, _ = judged(replace(alone, subject=replace(alone.subject, method=InStack(inner=method))))
    assert found.verdict == "different", found.line


def test_the_last_run_has_the_numbers_that_were_asked_for() -> None:
    adam = Adam(lr=0.1, weight_decay=0.2, betas=[0.5, 0.8])
    others = [_other(adam, run) for run in range(RUNS)]
    assert others[-1] == adam
    assert all(one != two for one, two in pairwise(others))
