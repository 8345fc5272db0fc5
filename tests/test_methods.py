"""The contract of a method: every implementation of a training step is the same step, to rounding."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import reference_tutorial
import torch
from cases import LOSSES, METHODS, PRECISIONS, chosen

import exp
from exp.activations import ACTIVATIONS
from exp.arrays import Array, Place, get, library, put
from exp.conditions import controlled
from exp.methods import ArrayMethod, Block, Formulas, Method
from exp.methods.function import layer_function
from exp.methods.manual import Manual, NumPy
from exp.network import Network, depth
from exp.optimizers import SGD, Optimizer, stack_constants
from exp.seeds import generator
from exp.state import State, stack_states
from exp.training import Training

EPS = np.finfo(np.float64).eps
ROWS, INPUTS, OUTPUTS, BATCH, STEPS = 11, 7, 3, 4, 13
TOLERANCE = 1e-12
"""13 steps of a hundred roundings each, 1300 EPS = 3e-13, in units of the largest entry of a tensor."""


OPTIMIZERS: dict[str, Optimizer] = {
    **cases.OPTIMIZERS,
    "momentum-nesterov": replace(cases.OPTIMIZERS["momentum"], nesterov=True),  # type: ignore[call-arg]
}
WIDTHS = [5, 4, 6]
NETWORKS: dict[str, Network] = {
    name: replace(network, hidden=WIDTHS[: len(network.hidden)]) for name, network in chosen("network", seed=0).items()
}
NETWORKS["linear"] = Network(hidden=[], bias=True, initial="glorot")
for number, activation in enumerate(ACTIVATIONS):
    for bias in (False, True):
        hidden = WIDTHS[: 1 + (number + bias) % 3]
        name = f"{activation}-{len(hidden)}" + ("-bias" if bias else "")
        NETWORKS[name] = Network(hidden=hidden, activation=activation, bias=bias, initial="glorot")

BLOCKS = list(Training(epochs=None, steps=STEPS, batch_size=BATCH).blocks(ROWS))  # batches of 4, 4 and 3 rows

CPU = {
    name: [
        precision
        for precision in PRECISIONS
        if not method.unsupported(
            device="cpu",
            precision=precision,
            network=NETWORKS["mlp"],
            loss=LOSSES["squared_error"],
            optimizer=OPTIMIZERS["sgd"],
        )
    ]
    for name, method in METHODS.items()
}
"""The precisions of every method on a CPU."""

every_method = pytest.mark.parametrize("method", METHODS)
every_bf16_method = pytest.mark.parametrize("method", [name for name in METHODS if "bf16" in CPU[name]])
every_array_method = pytest.mark.parametrize("method", [name for name in METHODS if isinstance(METHODS[name], ArrayMethod)])
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_network = pytest.mark.parametrize("network", NETWORKS)


@dataclass(frozen=True)
class Case:
    """What is trained, by the names above; `seed` draws weights and data."""

    loss: str = "squared_error"
    optimizer: str = "adam"
    network: str = "mlp"
    precision: str = "fp64"
    seed: int = 0

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(self.seed)
        x = random.standard_normal((ROWS, INPUTS))
        if LOSSES[self.loss].needs_classes:
            return x, np.eye(OUTPUTS)[random.integers(OUTPUTS, size=ROWS)]
        return x, random.standard_normal((ROWS, OUTPUTS))

    def state(self) -> State:
        """Initial weights, biases not zero, and slots that are zero."""
        random = np.random.default_rng(self.seed + 1000)
        params = NETWORKS[self.network].initial_params(INPUTS, OUTPUTS, lambda layer: generator(self.seed, "network", layer))
        params = {key: array if array.any() else random.standard_normal(array.shape) for key, array in params.items()}
        return State(params, OPTIMIZERS[self.optimizer].slots(params), np.array(0, dtype=np.int64))


@dataclass
class Trained:
    """The losses of some blocks, the state after them, the method itself, and the data that it saw, as it left them."""

    losses: np.ndarray
    state: State
    method: Method
    x: Array
    y: Array


def conditions(case: Case) -> AbstractContextManager[Any]:
    """What a step of this case is taken in: fp32 and fp64 on a CPU need nothing."""
    precision = PRECISIONS[case.precision]
    return nullcontext() if precision.operands == precision.dtype else controlled(1, "torch", precision, "cpu")


def started(method: Method, case: Case, state: State | None = None, constants: dict[str, Any] | None = None) -> Place:
    place = Place(method.library, "cpu", PRECISIONS[case.precision].dtype)
    optimizer = OPTIMIZERS[case.optimizer]
    formulas = Formulas(NETWORKS[case.network], LOSSES[case.loss], optimizer, constants or optimizer.constants())
    method.start(formulas, case.state() if state is None else state, place)
    return place


def trained(method: Method, case: Case, blocks: list[Block] = BLOCKS, state: State | None = None) -> Trained:
    place = started(method, case, state)
    x, y = (put(array, place) for array in case.data())
    with conditions(case):
        losses = np.concatenate([get(method.steps(x, y, block, place)) for block in blocks])
    return Trained(losses, method.export(), method, x, y)


@functools.cache
def by(name: str, case: Case) -> Trained:
    """Trained by a method of its own; made once for each case."""
    return trained(type(METHODS[name])(), case)


def deviation(found: Trained, right: Trained) -> float:
    """The largest difference of losses and tensors, in units of the largest entry of each."""
    assert found.state.named().keys() == right.state.named().keys()
    pairs = [
        (found.losses, right.losses),
        *((found.state.named()[key], right.state.named()[key]) for key in right.state.named()),
    ]
    assert all(one.shape == other.shape for one, other in pairs)
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in pairs)


# One step, many implementations


@every_network
@every_optimizer
@every_loss
@every_method
def test_every_method_is_the_same_step(method: str, loss: str, optimizer: str, network: str):
    case = Case(loss, optimizer, network)
    run = by(method, case)
    assert deviation(run, by("numpy", case)) <= TOLERANCE
    for found, given in zip((run.x, run.y), case.data(), strict=True):
        assert np.array_equal(get(found), given)  # a step overwrites neither x nor y


class HalfGradient(Manual):
    """The factor 2 of the squared error forgotten."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        return super().update(state, {name: grad / 2 for name, grad in grads.items()})


class StaleGradient(Manual):
    """The gradient of the step before."""

    before: dict[str, Array] | None = None

    def update(self, state: State, grads: dict[str, Array]) -> State:
        stale, self.before = self.before or grads, grads
        return super().update(state, stale)


class UpdateBeforeLoss(NumPy):
    """The loss of the updated weights."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        _, after = super().transition(state, x, y)
        return super().transition(after, x, y)[0], after


class BiasOfTheFirstRow(Manual):
    """The gradient of a bias not summed over the batch."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        return super().update(state, {name: grad / BATCH if name.endswith("bias") else grad for name, grad in grads.items()})


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("mutant", [HalfGradient, StaleGradient, UpdateBeforeLoss, BiasOfTheFirstRow])
def test_planted_fault_is_seen(mutant: type[Manual], optimizer: str):
    """Under Adam too, whose update hardly changes with the size of the gradient: its slots tell."""
    case = Case(optimizer=optimizer)
    faulty = type(mutant.__name__, (mutant,), {"library": "numpy"})()
    assert deviation(trained(faulty, case), by("numpy", case)) > 1e6 * TOLERANCE


@every_optimizer
@every_method
def test_export_is_canonical_and_a_copy(method: str, optimizer: str):
    case = Case(optimizer=optimizer, precision="fp32")
    run = trained(type(METHODS[method])(), case)
    start = case.state().named()
    assert list(run.state.named()) == list(start)
    for key, array in run.state.named().items():
        assert isinstance(array, np.ndarray)
        assert array.shape == start[key].shape
        assert array.dtype == (np.int64 if key == "count" else np.float32)
    assert run.state.count == STEPS
    kept = {key: array.copy() for key, array in run.state.named().items()}
    run.method.step(run.x, run.y)
    assert all(np.array_equal(run.state.named()[key], kept[key]) for key in kept)  # the step left it alone
    again, later = run.method.export(), run.method.export()
    for array in again.named().values():
        array[...] = 0
    assert all(np.array_equal(array, run.method.export().named()[key]) for key, array in later.named().items())


@every_method
def test_dtype_is_kept(method: str):
    for precision in CPU[method]:
        case, dtype = Case(precision=precision), PRECISIONS[precision].dtype
        run = by(method, case)
        with conditions(case):
            prediction = run.method.predict(run.x)
        assert {array.dtype for name, array in run.state.named().items() if name != "count"} == {np.dtype(dtype)}
        assert library(prediction).__name__ == run.method.library
        assert str(prediction.dtype).removeprefix("torch.") == run.losses.dtype == dtype


@every_optimizer
@every_method
def test_start_leaves_the_given_state_alone(method: str, optimizer: str):
    case = Case(optimizer=optimizer)
    state = case.state()
    trained(type(METHODS[method])(), case, state=state)
    assert all(np.array_equal(array, case.state().named()[key]) for key, array in state.named().items())


@every_optimizer
@every_method
def test_repeating_gives_the_same_bits(method: str, optimizer: str):
    for precision in CPU[method]:
        case = Case(optimizer=optimizer, precision=precision)
        again = trained(METHODS[method], case)  # whatever the instance did before
        assert deviation(again, by(method, case)) == 0


@every_loss
@every_method
def test_loss_is_that_before_the_update(method: str, loss: str):
    twin = functools.partial(getattr(torch.nn.functional, LOSSES[loss].torch_name), **LOSSES[loss].torch_arguments)
    for precision in CPU[method]:
        case = Case(loss, precision=precision)
        step = type(METHODS[method])()
        place = started(step, case)
        x, y = (put(array, place) for array in case.data())
        for _ in range(5):
            with conditions(case):
                prediction, found = get(step.predict(x)), get(step.step(x, y))
            right = twin(torch.tensor(prediction), torch.tensor(case.data()[1], dtype=getattr(torch, place.dtype)))
            # One forward pass, the same in the same precision, and one sum apart.
            np.testing.assert_allclose(found, right, rtol=100 * float(np.finfo(place.dtype).eps))


@every_method
def test_predict_is_the_network_of_the_exported_weights(method: str):
    run = by(method, Case(network="relu-2-bias"))
    *hidden, last = [(run.state.params[f"layer{n}.weight"], run.state.params[f"layer{n}.bias"]) for n in (1, 2, 3)]
    values = get(run.x)
    for weight, bias in hidden:
        values = np.maximum(values @ weight + bias, 0)
    right = values @ last[0] + last[1]
    # Three products of sums of at most 7.
    np.testing.assert_allclose(get(run.method.predict(run.x)), right, rtol=0, atol=100 * EPS * np.abs(right).max())


# Stop and go on

HALF = 6


@every_optimizer
@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_stopped_and_continued_is_uninterrupted(first: str, second: str, optimizer: str):
    case = Case(optimizer=optimizer)
    rows = [batch for block in BLOCKS if block.rows is not None for batch in block.rows]
    blocks = [Block(step, 1, batch[None]) for step, batch in enumerate(rows)]
    before = trained(type(METHODS[first])(), case, blocks[:HALF])
    after = trained(type(METHODS[second])(), case, blocks[HALF:], before.state)
    assert after.state.count == STEPS
    whole = by(first, case)
    joined = replace(after, losses=np.concatenate([before.losses, after.losses]))
    if first == second:
        assert deviation(joined, whole) == 0  # the state is all there is
    assert deviation(joined, whole) <= TOLERANCE


@every_optimizer
@every_method
def test_state_of_no_steps_is_the_state_given(method: str, optimizer: str):
    step = type(METHODS[method])()
    started(step, Case(optimizer=optimizer))
    given = Case(optimizer=optimizer).state().named()
    assert all(np.array_equal(array, given[key]) for key, array in step.export().named().items())


# Stacks of runs

RUNS = 2
OWN = {
    "lr": [1e-3, 3e-3],
    "weight_decay": [0.0, 0.02],
    "momentum": [0.9, 0.5],
    "betas": [[0.9, 0.999], [0.0, 0.9]],
    "eps": [1e-8, 1e-6],
}


@pytest.mark.parametrize("batches", ["all rows", "shared batches", "own batches"])
@pytest.mark.parametrize("data", ["shared data", "own data"])
@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [("squared_error", name) for name in OPTIMIZERS] + [(name, "sgd") for name in LOSSES if name != "squared_error"],
)
@every_array_method
def test_stack_of_runs_is_the_single_runs(method: str, optimizer: str, loss: str, data: str, batches: str):
    assert METHODS[method].stacks
    stack_is_its_runs(type(METHODS[method]), optimizer, loss, data, batches)


def stack_is_its_runs(new: Callable[[], Method], optimizer: str, loss: str, data: str, batches: str) -> None:
    """Rates, decays, seeds of their own; data and batches shared or not."""
    cases = [Case(loss, optimizer, seed=seed) for seed in range(RUNS)]
    kinds = [{key: OWN[key][run] for key in OWN if hasattr(OPTIMIZERS[optimizer], key)} for run in range(RUNS)]
    optimizers = [replace(OPTIMIZERS[optimizer], **changes) for changes in kinds]
    trainings = [Training(steps=STEPS, batch_size=None if batches == "all rows" else BATCH, seed=seed) for seed in range(RUNS)]
    each = [list(training.blocks(ROWS)) for training in trainings]
    pairs = [case.data() for case in cases]
    if data == "shared data":
        pairs = pairs[:1] * RUNS
    if batches != "own batches":
        each = each[:1] * RUNS

    stack = new()
    constants = {key: np.array(values) for key, values in stack_constants(optimizers).items()}
    place = started(stack, cases[0], stack_states([case.state() for case in cases]), constants)
    x, y = (put(array[0] if data == "shared data" else np.stack(array), place) for array in zip(*pairs, strict=True))
    losses = []
    for blocks in zip(*each, strict=True):
        rows = blocks[0].rows
        if batches == "own batches":
            rows = np.stack([block.rows for block in blocks])
        losses.append(get(stack.steps(x, y, replace(blocks[0], rows=rows), place)))
    state = stack.export()
    assert state.count.tolist() == [STEPS] * RUNS

    for run in range(RUNS):
        member = Trained(np.concatenate(losses)[:, run], state.map(lambda array, run=run: array[run]), stack, x, y)
        single = new()
        started(single, cases[run], constants=optimizers[run].constants())
        own_x, own_y = (put(array, place) for array in pairs[run])
        right = np.concatenate([get(single.steps(own_x, own_y, block, place)) for block in each[run]])
        assert deviation(member, Trained(right, single.export(), single, own_x, own_y)) <= TOLERANCE


# bfloat16

ROUNDINGS = 4 * 2.0**-8
"""A number of 8 bits is rounded by 2⁻⁸ of itself at most; on the way to a gradient that happens a few times, at random."""

RATE_ONE = SGD(lr=1.0)


def signs(size: int) -> np.ndarray:
    """+ − + + + + − …: fewer − than +, so that the gradient of a bias, a sum over the batch, does not cancel either."""
    return np.where(np.arange(size) % 5 == 1, -1.0, 1.0)


def one_step(method: Method, precision: str, activation: str, bias: bool, seed: int) -> dict[str, np.ndarray]:
    """Loss, prediction and every gradient (before − after at rate 1) of one step in which nothing cancels.

    Every row of the batch and every unit has a sign, and a weight that of its two units: so have all terms of a
    pre-activation, of a residual and of a gradient, and no unit is near the kink. A product that cancels would be ill
    conditioned, and the more so the fewer its bits. Biases are zero; means rather than sums keep tanh from saturating.
    """
    random = np.random.default_rng(seed)
    x = signs(ROWS)[:, None] * np.abs(random.standard_normal((ROWS, INPUTS)))
    y = -signs(ROWS)[:, None] * signs(OUTPUTS) * np.abs(random.standard_normal((ROWS, OUTPUTS)))
    network = Network(hidden=[5, 4], activation=activation, bias=bias)
    params = network.initial_params(INPUTS, OUTPUTS, lambda layer: generator(seed, "network", layer))
    for name, array in params.items():
        if name.endswith(".weight"):
            rows = np.ones(INPUTS) if name == "layer1.weight" else signs(len(array))
            params[name] = rows[:, None] * signs(array.shape[1]) * np.abs(array) / len(array)
    place = Place(method.library, "cpu", PRECISIONS[precision].dtype)
    state = State(params, {}, np.array(0, dtype=np.int64))
    method.start(Formulas(network, LOSSES["squared_error"], RATE_ONE, RATE_ONE.constants()), state, place)
    with conditions(Case(precision=precision)):
        prediction = get(method.predict(put(x, place)))
        loss = get(method.step(put(x, place), put(y, place)))
    after = method.export().params
    return {"loss": loss, "prediction": prediction} | {name: params[name] - after[name] for name in params}


def distances(found: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> dict[str, float]:
    """‖found − right‖ / ‖right‖ of every tensor."""
    return {name: float(np.linalg.norm(found[name] - right[name]) / np.linalg.norm(right[name])) for name in right}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@every_bf16_method
def test_bf16_rounds_the_operands_of_products(method: str, activation: str, bias: bool):
    """No less, or it would not be bf16, and no more, or it would be wrong."""
    for seed in range(5):
        right = one_step(NumPy(), "fp64", activation, bias, seed)
        near = distances(one_step(type(METHODS[method])(), "fp32", activation, bias, seed), right)
        far = distances(one_step(type(METHODS[method])(), "bf16", activation, bias, seed), right)
        assert max(near.values()) <= 1e-5  # a hundred roundings
        assert max(far.values()) <= ROUNDINGS, far
        assert min(far[name] for name in far if name != "loss") >= 1e-5, far  # a single number may be right by chance


@every_loss
@every_bf16_method
def test_bf16_leaves_what_is_done_element_by_element_in_float32(method: str, loss: str, monkeypatch: pytest.MonkeyPatch):
    seen: set[torch.dtype] = set()
    step = type(METHODS[method])()
    if isinstance(step, ArrayMethod):
        update = step.update

        def watched(state: State, grads: dict[str, Array]) -> State:
            seen.update(array.dtype for array in (*state.params.values(), *grads.values()))
            return update(state, grads)

        monkeypatch.setattr(step, "update", watched)
    run = trained(step, Case(loss, network="relu-2-bias", precision="bf16"))
    assert run.losses.dtype == np.float32
    assert seen <= {torch.float32} and bool(seen) == isinstance(step, ArrayMethod)


@every_optimizer
@every_bf16_method
def test_bf16_sees_the_weights_of_the_step_before(method: str, optimizer: str):
    """The cast of a weight that is updated in place must not be kept."""
    case = Case(optimizer=optimizer, precision="bf16")
    whole = trained(type(METHODS[method])(), case, [Block(0, 3)])
    parts = [trained(type(METHODS[method])(), case, [Block(0, 1)])]
    for step in (1, 2):
        parts.append(trained(type(METHODS[method])(), case, [Block(step, 1)], parts[-1].state))
    assert deviation(replace(parts[-1], losses=np.concatenate([part.losses for part in parts])), whole) == 0
    assert len(set(whole.losses.tolist())) == 3


def test_planted_stale_casts_are_seen():
    """What autocast does with its cache on: the second loss is that of the first weights."""
    case = Case(precision="fp32")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run = trained(type(METHODS["module"])(), case, [Block(0, 3)])
    assert len(set(run.losses.tolist())) == 1


class Plain(ArrayMethod):
    """A step as a user writes it, who knows nothing of bfloat16."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        outputs = [x]
        for layer in range(1, depth(state.params) + 1):
            outputs.append(outputs[-1] @ state.params[f"layer{layer}.weight"])
        grads, signal = {}, self.loss.gradient(outputs[-1], y)
        for layer in range(len(outputs) - 1, 0, -1):
            grads[f"layer{layer}.weight"] = outputs[layer - 1].T @ signal
            signal = signal @ state.params[f"layer{layer}.weight"].T
        return self.loss.value(outputs[-1], y), self.update(state, grads)


@every_loss
def test_a_plain_step_computes_in_bf16_too(loss: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NETWORKS, "plain", Network(hidden=[5], activation="identity", initial="glorot"))
    case = Case(loss=loss, network="plain", precision="bf16")
    run = trained(Plain(), case)
    assert {array.dtype for name, array in run.state.named().items() if name != "count"} == {np.dtype("float32")}
    assert run.losses.dtype == np.float32
    # 13 steps of Adam at rate 1e-3: the losses are those of weights that differ by 0.01 at most.
    assert deviation(run, trained(Plain(), replace(case, precision="fp32"))) > 0
    np.testing.assert_allclose(run.losses, by("tensor", replace(case, precision="fp64")).losses, rtol=0.05)


def test_an_update_takes_bfloat16_gradients_as_float32():
    """g² and (1 − β) g would be rounded once more."""
    step = Plain()
    place = started(step, Case(optimizer="adamw", precision="fp32"))  # whose decay leaves g alone
    random = np.random.default_rng(0)
    grads = {name: put(random.standard_normal(param.shape), place).bfloat16() for name, param in step.state.params.items()}
    found = step.update(step.state, grads).map(get).named()
    right = step.update(step.state, {name: grad.float() for name, grad in grads.items()}).map(get).named()
    assert all(np.array_equal(found[name], right[name]) for name in right)


def test_a_layers_backward_pass_is_in_the_precision_of_its_forward_pass():
    """Wherever it is called from: on a GPU a thread of autograd's own calls it."""
    random = np.random.default_rng(0)
    weight = torch.tensor(random.standard_normal((5, 4)), dtype=torch.float32, requires_grad=True)
    x, signal = (torch.tensor(random.standard_normal((7, width)), dtype=torch.float32) for width in (5, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        output = layer_function("cpu", autocast=True).apply(x, weight, None, ACTIVATIONS["identity"])
    (grad,) = torch.autograd.grad(output, weight, signal)
    assert torch.equal(grad, (x.bfloat16().T @ signal.bfloat16()).float())
    assert not torch.equal(grad, x.T @ signal)


# The tutorial


@pytest.mark.parametrize("method", ["numpy", "tensor", "autograd"])
def test_the_tutorials_own_script_gives_the_same_curve(method: str, tmp_path: Path):
    script: Callable[..., tuple[np.ndarray, ...]] = getattr(reference_tutorial, method)
    run = exp.run(f"method={method}", "precision=fp64", "training.steps=300", "tracker=none", "device=cpu", f"runs={tmp_path}")
    data, weights = exp.data("problem=random").train, run.initial_weights
    x, y, w1, w2 = data.x, data.y, weights["layer1.weight"], weights["layer2.weight"]
    assert [array.shape for array in (x, y, w1, w2)] == [(64, 1000), (64, 10), (1000, 100), (100, 10)]
    losses, *expected = script(x, y, w1, w2, 300, 1e-6)
    # 300 steps of sums of 1,000 products, 300 · √1000 EPS = 2e-12; the loss falls by 1e5 and with it its residuals.
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    for found, right in zip((run.weights["layer1.weight"], run.weights["layer2.weight"]), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-10 * np.abs(right).max())


def test_sgd_of_rate_one_shows_the_gradient(monkeypatch: pytest.MonkeyPatch):
    """before − after of one step of SGD at rate 1 is the gradient that autograd finds in torch's own parts."""
    monkeypatch.setitem(OPTIMIZERS, "rate one", SGD(lr=1.0))
    case = Case(optimizer="rate one", network="tanh-2")
    x, y = (torch.tensor(array) for array in case.data())
    before = case.state().params
    weights = [torch.tensor(array, requires_grad=True) for array in before.values()]
    loss = torch.nn.functional.mse_loss(torch.tanh(torch.tanh(x @ weights[0]) @ weights[1]) @ weights[2], y, reduction="sum")
    for method in METHODS:
        after = trained(type(METHODS[method])(), case, [Block(0, 1)]).state.params
        for name, grad in zip(before, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
            # Two weights of size 1 and a gradient of size 10 or so are added and subtracted.
            np.testing.assert_allclose(before[name] - after[name], grad, rtol=0, atol=100 * EPS * float(grad.abs().max()))
