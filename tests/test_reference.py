"""The reference of a verdict is right by itself: against finite differences, plain NumPy, and the classes of `torch.optim`."""

import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from commands import clean
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exp.activations import ACTIVATIONS
from exp.losses import CrossEntropy, MeanSquaredError, SquaredError
from exp.optimizers import SGD, Adam, AdamW, Momentum
from exp.state import State
from exp.verification.reference import Reference, Unknown, exact
from exp.verification.rules import Rule

EPS = float(np.finfo(np.float64).eps)
LOSSES = {"squared_error": SquaredError(), "mean_squared_error": MeanSquaredError(), "cross_entropy": CrossEntropy()}


def plain_loss(name: str, prediction: np.ndarray, target: np.ndarray) -> float:
    """The three losses, written out."""
    if name == "cross_entropy":
        largest = prediction.max(axis=1, keepdims=True)
        logarithms = prediction - largest - np.log(np.exp(prediction - largest).sum(axis=1, keepdims=True))
        return float(-(target * logarithms).sum() / len(target))
    total = float(((prediction - target) ** 2).sum())
    return total if name == "squared_error" else total / target.size


def plain_activation(name: str, z: np.ndarray) -> np.ndarray:
    if name == "gelu":
        return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    return {"relu": np.maximum(z, 0), "tanh": np.tanh(z), "identity": z}[name]


def plain_pass(activation: str, params: dict[str, np.ndarray], x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The pre-activations of the hidden layers, and the prediction."""
    hidden, a = [], x
    layers = sum(name.endswith("weight") for name in params)
    for layer in range(1, layers + 1):
        z = a @ params[f"layer{layer}.weight"] + params.get(f"layer{layer}.bias", 0.0)
        if layer < layers:
            hidden.append(z)
            a = plain_activation(activation, z)
        else:
            a = z
    return hidden, a


@dataclass(frozen=True)
class Problem:
    activation: str
    loss: str
    params: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray

    def value(self, params: dict[str, np.ndarray]) -> float:
        return plain_loss(self.loss, plain_pass(self.activation, params, self.x)[1], self.y)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Networks of one to four layers, whose widths and rows are pairwise different: a transposed matrix does not fit."""
    depth = draw(st.integers(1, 4))
    rows, *widths = draw(st.lists(st.integers(2, 8), min_size=depth + 2, max_size=depth + 2, unique=True))
    activation, loss = draw(st.sampled_from(sorted(ACTIVATIONS))), draw(st.sampled_from(sorted(LOSSES)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    params = {}
    for layer in range(1, depth + 1):
        params[f"layer{layer}.weight"] = random.standard_normal(widths[layer - 1 : layer + 1]) / np.sqrt(widths[layer - 1])
        if draw(st.booleans()):  # a layer without a bias beside one with it
            params[f"layer{layer}.bias"] = random.standard_normal(widths[layer])
    x = random.standard_normal((rows, widths[0]))
    y = random.standard_normal((rows, widths[-1]))
    if loss == "cross_entropy":
        y = np.eye(widths[-1])[random.integers(widths[-1], size=rows)]
    return Problem(activation, loss, params, x, y)


STEP = 1e-5
"""The error of a central difference is about STEP² and EPS / STEP, both 1e-10 times the size of the loss and a derivative."""


def differences(problem: Problem, name: str) -> np.ndarray:
    """The gradient by central differences, entry by entry."""
    found = np.zeros_like(problem.params[name])
    for index in np.ndindex(*found.shape):
        values = []
        for sign in (1, -1):
            moved = problem.params[name].copy()
            moved[index] += sign * STEP
            values.append(problem.value({**problem.params, name: moved}))
        found[index] = (values[0] - values[1]) / (2 * STEP)
    return found


def evaluated(problem: Problem) -> Any:
    params = {name: exact(value) for name, value in problem.params.items()}
    return Reference(problem.activation, LOSSES[problem.loss]).evaluate(params, exact(problem.x), exact(problem.y))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_gradient_is_that_of_finite_differences(problem: Problem) -> None:
    hidden, prediction = plain_pass(problem.activation, problem.params, problem.x)
    assume(problem.activation != "relu" or all(np.abs(z).min() > 1e-3 for z in hidden))
    found, loss = evaluated(problem), problem.value(problem.params)
    assert found.grads.keys() == problem.params.keys()
    np.testing.assert_allclose(found.outputs[-1].numpy(), prediction, rtol=0, atol=1e-13 * np.abs(prediction).max())
    np.testing.assert_allclose(found.loss.numpy(), loss, rtol=1e-13)
    for name, grad in found.grads.items():
        right = differences(problem, name)
        np.testing.assert_allclose(grad.numpy(), right, rtol=0, atol=1e-8 * (loss + np.abs(right).max()))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_the_formula_written_out(loss: str) -> None:
    random = np.random.default_rng(0)
    prediction, target = random.standard_normal((7, 3)), np.eye(3)[random.integers(3, size=7)]
    found = Reference("relu", LOSSES[loss]).loss_function()(exact(prediction), exact(target))
    assert found == pytest.approx(plain_loss(loss, prediction, target), rel=8 * EPS)
    others = {plain_loss(other, prediction, target) for other in LOSSES if other != loss}
    assert all(abs(float(found) - other) > 1e-3 for other in others)


def test_the_derivative_of_relu_at_exactly_zero_is_zero() -> None:
    params = {"layer1.weight": np.array([[1.0, 0.0]]), "layer2.weight": np.array([[1.0], [1.0]])}
    found = evaluated(Problem("relu", "squared_error", params, np.array([[2.0]]), np.array([[5.0]])))
    assert found.pre[0].tolist() == [[2.0, 0.0]]
    assert found.grads["layer1.weight"].tolist() == [[2.0 * (2.0 - 5.0) * 2.0, 0.0]]


def test_cross_entropy_is_finite_where_an_exponential_overflows() -> None:
    x, target = np.array([[1000.0, -1000.0], [1000.0, -1000.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    found = evaluated(Problem("identity", "cross_entropy", {"layer1.weight": np.eye(2)}, x, target))
    assert float(found.loss) == 1000.0  # (2000 + 0) / 2
    assert found.grads["layer1.weight"].tolist() == [[500.0, -500.0], [-500.0, 500.0]]


class Hinge:
    """A loss that torch has not."""


def test_what_torch_has_not_is_unknown() -> None:
    with pytest.raises(Unknown, match="the reference has no Hinge; it has SquaredError, MeanSquaredError, CrossEntropy"):
        Reference("relu", Hinge())

    with pytest.raises(Unknown, match="the reference has no activation swish; it has relu, tanh, gelu, identity"):
        Reference("swish", SquaredError())

    class Muon(SGD):
        torch_name = "Muon"

    with pytest.raises(Unknown, match="the reference has no Muon; it has SGD, Adam and AdamW"):
        Rule(Muon(lr=0.1))


def test_a_loss_of_the_users_is_the_twin_that_it_names() -> None:
    @dataclass(kw_only=True)
    class Absolute(SquaredError):
        torch_name, torch_arguments = "l1_loss", {"reduction": "sum"}

    found = Reference("relu", Absolute()).loss_function()(exact(np.array([[1.0, -2.0]])), exact(np.array([[0.0, 1.0]])))
    assert float(found) == 4.0


# Update rules

OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD(lr=0.07),
    "sgd with decay": SGD(lr=0.07, weight_decay=0.3),
    "momentum": Momentum(lr=0.07, momentum=0.8),
    "momentum with decay": Momentum(lr=0.07, momentum=0.8, weight_decay=0.3),
    "nesterov": Momentum(lr=0.07, momentum=0.8, nesterov=True),
    "nesterov with decay": Momentum(lr=0.07, momentum=0.8, nesterov=True, weight_decay=0.3),
    "adam": Adam(lr=0.07),
    "adam with decay": Adam(lr=0.07, betas=[0.7, 0.95], eps=1e-3, weight_decay=0.3),
    "adam without memory": Adam(lr=0.07, betas=[0.0, 0.0]),
    "adamw": AdamW(lr=0.07),
    "adamw with decay": AdamW(lr=0.07, betas=[0.7, 0.95], eps=1e-3, weight_decay=0.3),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def by_rule(optimizer: Any, steps: int = 5) -> tuple[list[State], list[dict[str, torch.Tensor]]]:
    """The states before and after every step, and the gradients, of sizes over four powers of ten."""
    random = np.random.default_rng(3)
    params = {"layer1.weight": exact(random.standard_normal((3, 2))), "layer1.bias": exact(random.standard_normal(2))}
    slots = {slot: {name: torch.zeros_like(value) for name, value in params.items()} for slot in optimizer.slot_names}
    states = [State(params, slots, torch.tensor(0))]
    grads = []
    for step in range(steps):
        grads.append({name: exact(10.0 ** (step - 2) * random.standard_normal(value.shape)) for name, value in params.items()})
        states.append(Rule(optimizer).updated(states[-1], grads[-1]))
    return states, grads


@every_optimizer
def test_an_update_is_that_of_the_class_in_torch(optimizer: Any) -> None:
    states, grads = by_rule(optimizer)
    leaves = {name: value.clone().requires_grad_() for name, value in states[0].params.items()}
    twin = getattr(torch.optim, optimizer.torch_name)(leaves.values(), **optimizer.torch_arguments())
    for state, given_grads in zip(states[1:], grads, strict=True):
        for name, leaf in leaves.items():
            leaf.grad = given_grads[name].clone()
        twin.step()
        for name, leaf in leaves.items():
            found = {"params": state.params[name], **{slot: state.slots[slot][name] for slot in optimizer.slot_names}}
            right = {"params": leaf.detach(), **{slot: twin.state[leaf][slot] for slot in optimizer.slot_names}}
            for kind in found:
                torch.testing.assert_close(found[kind], right[kind], rtol=1e-15, atol=0.0, msg=f"{kind} of {name}")
    assert [int(state.count) for state in states] == [0, 1, 2, 3, 4, 5]


@every_optimizer
def test_an_update_leaves_what_it_was_given_alone(optimizer: Any) -> None:
    states, grads = by_rule(optimizer, steps=1)
    before, kept = states[0].map(torch.clone), {name: grad.clone() for name, grad in grads[0].items()}
    Rule(optimizer).updated(states[0], grads[0])
    pairs = zip(states[0].named().values(), before.named().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert all(torch.equal(grads[0][name], kept[name]) for name in kept)


with_slots = pytest.mark.parametrize(
    "optimizer",
    [each for each in OPTIMIZERS.values() if each.slot_names],
    ids=[k for k, o in OPTIMIZERS.items() if o.slot_names],
)


@with_slots
def test_parameters_follow_from_the_new_slots(optimizer: Any) -> None:
    states, _ = by_rule(optimizer)
    for before, after in pairwise(states):
        found = Rule(optimizer).updated_by_slots(before, after)
        for name, value in after.params.items():
            moved = max(float((value - before.params[name]).abs().max()), float(value.abs().max()))
            torch.testing.assert_close(found[name], value, rtol=0.0, atol=32 * EPS * moved)


def test_parameters_follow_from_a_velocity_that_nearly_cancels() -> None:
    """What is left of the old velocity and the gradient is the method's own rounding, not the reference's."""
    [optimizer] = [each for each in OPTIMIZERS.values() if each.slot_names == ("momentum_buffer",) and not each.nesterov][:1]
    velocity = torch.tensor([[1.2345678901234567e-17, -3e-13]], dtype=torch.float64)

    def state(velocity: torch.Tensor) -> State:
        return State({"w": torch.zeros_like(velocity)}, {"momentum_buffer": {"w": velocity}}, torch.tensor(3))

    found = Rule(optimizer).updated_by_slots(state(torch.full_like(velocity, 0.7)), state(velocity))["w"]
    torch.testing.assert_close(found, -optimizer.lr * velocity, rtol=2 * EPS, atol=0.0)


@with_slots
def test_other_slots_give_other_parameters(optimizer: Any) -> None:
    states, _ = by_rule(optimizer)
    for slot in optimizer.slot_names:
        arrays = {name: value * 1.001 for name, value in states[3].slots[slot].items()}
        changed = states[3]._replace(slots={**states[3].slots, slot: arrays})
        found = Rule(optimizer).updated_by_slots(states[2], changed)
        assert all(float((found[name] - states[3].params[name]).abs().max()) > 1e-8 for name in found), slot


@pytest.mark.parametrize("changed", [{"lr": 0.071}, {"weight_decay": 0.31}, {"eps": 1.1e-3}, {"betas": [0.7, 0.951]}], ids=str)
@pytest.mark.parametrize("kind", ["adam with decay", "adamw with decay"])
def test_every_number_of_an_optimizer_counts(kind: str, changed: dict[str, Any]) -> None:
    right, other = (by_rule(each)[0][-1].params for each in (OPTIMIZERS[kind], replace(OPTIMIZERS[kind], **changed)))
    assert all(not torch.allclose(right[name], other[name], rtol=1e-9) for name in right)


def test_a_verdict_does_without_what_makes_torch_slow_to_start() -> None:
    """The classes of `torch.optim` import torch._dynamo, which takes a second."""
    judge = """
import sys
from exp.composition import compose
from exp.configuration import instantiate
from exp.judgement import judged
typed = ["method=numpy", "problem=diabetes", "loss=mean_squared_error", "optimizer=adam", "training.steps=3"]
experiment, _ = instantiate(*compose(typed))
print(judged(experiment, experiment.check(), "cpu").verdict, "torch._dynamo" in sys.modules, "torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", judge], env=clean(), capture_output=True, text=True, timeout=120)
    assert found.stdout.split() == ["equivalent", "False", "True"], found.stderr
