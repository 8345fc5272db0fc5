"""Activations, losses and the network's forward and backward pass against torch, autograd and finite differences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from omegaconf import OmegaConf

from exp.activations import ACTIVATIONS
from exp.arrays import cast, get, library
from exp.losses import Loss
from exp.methods.manual import backward
from exp.network import Network, forward
from exp.seeds import generator

CONF = Path(__file__).parents[1] / "conf"
LOSSES: dict[str, Loss] = {path.stem: instantiate(OmegaConf.load(path)) for path in sorted(CONF.glob("loss/*.yaml"))}
LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor}
EPS = np.finfo(np.float64).eps
TINY = np.finfo(np.float64).tiny  # products of subnormal numbers round by more than EPS

steady = settings(deadline=None, derandomize=True, database=None)
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
every_loss = pytest.mark.parametrize("name", LOSSES)
every_library = pytest.mark.parametrize("to", LIBRARIES.values(), ids=LIBRARIES)

EXTREMES = [0.0, -0.0, 5e-324, -1e-300, 1e-8, -1e-8, 1e3, -1e3]
numbers = st.sampled_from(EXTREMES) | st.floats(-1e3, 1e3)


def activation_twin(name: str) -> torch.nn.Module:
    return getattr(torch.nn, ACTIVATIONS[name].torch_name)(**ACTIVATIONS[name].torch_arguments)


def loss_twin(loss: Loss, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return getattr(torch.nn.functional, loss.torch_name)(prediction, target, **loss.torch_arguments)


def gradient_of(function: Any, at: np.ndarray) -> np.ndarray:
    """The gradient of a sum of torch numbers, by autograd."""
    variable = torch.tensor(at, requires_grad=True)
    return torch.autograd.grad(function(variable).sum(), variable)[0].numpy()


def central_differences(function: Any, at: np.ndarray, step: float) -> np.ndarray:
    """∂ function / ∂ at, entry by entry, of a function to one number."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


def batch(loss: Loss, *shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a target that this loss takes, (…, N, outputs)."""
    random = np.random.default_rng(seed)
    prediction = random.standard_normal(shape)
    if loss.needs_classes:
        return prediction, np.eye(shape[-1])[random.integers(shape[-1], size=shape[:-1])]
    return prediction, random.standard_normal(shape)


# Activations


@every_activation
@steady
@given(z=arrays(np.float64, array_shapes(max_dims=3, max_side=5), elements=numbers))
def test_activation_value_is_that_of_torch(name: str, z: np.ndarray):
    expected = activation_twin(name)(torch.tensor(z)).numpy()
    for to in LIBRARIES.values():
        # Each is z times a factor from 0 to 1 that two tanh, a few units in the last place apart, and 1 + tanh make.
        assert np.all(np.abs(get(ACTIVATIONS[name].value(to(z))) - expected) <= 16 * EPS * np.abs(z) + TINY)


@every_activation
@steady
@given(z=arrays(np.float64, array_shapes(max_dims=3, max_side=5), elements=numbers), slope=st.floats(-3, 3))
def test_activation_backward_is_autograd(name: str, z: np.ndarray, slope: float):
    activation = ACTIVATIONS[name]
    expected = gradient_of(lambda variable: slope * activation_twin(name)(variable), z)
    own = gradient_of(lambda variable: slope * activation.value(variable), z)
    for to in LIBRARIES.values():
        signal, array = to(np.full_like(z, slope)), to(z)
        found = get(activation.backward(signal, array, activation.value(array)))
        # GELU multiplies 1 − tanh², wrong by a few EPS until tanh is 1, by z u′/2 <= 30.
        tolerance = 256 * EPS * abs(slope) + TINY
        assert np.all(np.abs(found - expected) <= tolerance)
        assert np.all(np.abs(found - own) <= tolerance)


@every_activation
def test_activation_backward_is_the_slope_of_its_value(name: str):
    activation, h = ACTIVATIONS[name], 1e-5
    z = np.concatenate([np.linspace(-4, 4, 36), [1e-3, -1e-3]])  # ReLU has a kink at 0, farther than h away
    slope = (activation.value(z + h) - activation.value(z - h)) / (2 * h)
    found = activation.backward(np.ones_like(z), z, activation.value(z))
    # |f‴| <= 4: a truncation of h²; |f| <= 4: a rounding of 4 EPS / h.
    np.testing.assert_allclose(found, slope, rtol=0, atol=h**2 + 8 * EPS / h)


@every_library
def test_relu_has_slope_zero_at_zero(to: Any):
    z = to(np.array([0.0, -0.0, 5e-324, -5e-324]))
    relu = ACTIVATIONS["relu"]
    assert get(relu.backward(to(np.full(4, 7.0)), z, relu.value(z))).tolist() == [0, 0, 7, 0]


@every_library
@every_activation
def test_activation_passes_on_what_is_not_a_number(name: str, to: Any):
    """A run that blew up must be seen: torch's functions return NaN for NaN, and the tutorial's np.maximum too."""
    assert np.isnan(get(ACTIVATIONS[name].value(to(np.array([np.nan])))))


@every_library
@every_activation
def test_activation_keeps_float32(name: str, to: Any):
    z = to(np.linspace(-2, 2, 5, dtype=np.float32))
    value = ACTIVATIONS[name].value(z)
    assert value.dtype == ACTIVATIONS[name].backward(z, z, value).dtype == z.dtype


# Losses


@every_loss
@steady
@given(data=st.data(), rows=st.integers(1, 7), outputs=st.integers(1, 5))
def test_loss_and_gradient_are_those_of_torch(name: str, data: st.DataObject, rows: int, outputs: int):
    loss = LOSSES[name]
    logits = st.sampled_from([*EXTREMES, 1e4, -1e4]) | st.floats(-1e4, 1e4)
    prediction = data.draw(arrays(np.float64, (rows, outputs), elements=logits))
    _, target = batch(loss, rows, outputs)
    expected = loss_twin(loss, torch.tensor(prediction), torch.tensor(target)).item()
    gradient = gradient_of(lambda variable: loss_twin(loss, variable, torch.tensor(target)), prediction)
    own_gradient = gradient_of(lambda variable: loss.value(variable, torch.tensor(target)), prediction)
    scale = max(1.0, np.abs(prediction).max())  # a log-softmax rounds in units of its largest logit
    for to in LIBRARIES.values():
        # At most 35 numbers of one sign are summed, in two orders.
        np.testing.assert_allclose(get(loss.value(to(prediction), to(target))), expected, rtol=64 * EPS, atol=64 * EPS * scale)
        found = get(loss.gradient(to(prediction), to(target)))
        np.testing.assert_allclose(found, gradient, rtol=64 * EPS, atol=64 * EPS * scale)
        np.testing.assert_allclose(found, own_gradient, rtol=64 * EPS, atol=64 * EPS * scale)


@every_loss
def test_loss_gradient_is_the_slope_of_its_value(name: str):
    loss, h = LOSSES[name], 1e-5
    prediction, target = batch(loss, 7, 3)
    slope = central_differences(lambda p: loss.value(p, target), prediction, h)
    # Quadratic, or |f‴| <= 1: a truncation below h²; a value below 64 rounds by 64 EPS / h.
    np.testing.assert_allclose(loss.gradient(prediction, target), slope, rtol=0, atol=h**2 + 64 * EPS / h)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.needs_classes])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_library
def test_large_logits_do_not_overflow(name: str, dtype: str, to: Any):
    loss = LOSSES[name]
    logits = to(np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype=dtype))
    right, wrong = (to(np.eye(3, dtype=dtype)[labels]) for labels in ([0, 1], [1, 0]))
    assert loss.value(logits, right) == 0
    assert loss.value(logits, wrong) == 2e4
    assert get(loss.gradient(logits, wrong)).tolist() == [[0.5, -0.5, 0], [-0.5, 0.5, 0]]


@every_library
@every_loss
def test_leading_axis_of_a_loss_is_runs(name: str, to: Any):
    loss = LOSSES[name]
    prediction, target = (to(array) for array in batch(loss, 4, 7, 3))
    for targets in (target, target[0]):  # each run its own, or shared
        value, gradient = loss.value(prediction, targets), loss.gradient(prediction, targets)
        assert value.shape == (4,)
        assert gradient.shape == (4, 7, 3)
        for run in range(4):
            own = targets[run] if targets.ndim == 3 else targets
            # The same 21 numbers, perhaps summed in another order.
            np.testing.assert_allclose(value[run], loss.value(prediction[run], own), rtol=32 * EPS)
            np.testing.assert_allclose(gradient[run], loss.gradient(prediction[run], own), rtol=32 * EPS)


@every_library
@every_loss
def test_loss_keeps_float32(name: str, to: Any):
    prediction, target = (to(array.astype(np.float32)) for array in batch(LOSSES[name], 7, 3))
    value, gradient = LOSSES[name].value(prediction, target), LOSSES[name].gradient(prediction, target)
    assert library(gradient).__name__ == library(prediction).__name__
    assert value.dtype == gradient.dtype == prediction.dtype


@every_loss
def test_loss_of_a_bfloat16_prediction_is_computed_in_the_targets_type(name: str):
    prediction, target = (torch.tensor(array, dtype=torch.float32) for array in batch(LOSSES[name], 7, 3))
    rounded = prediction.bfloat16()
    for formula in (LOSSES[name].value, LOSSES[name].gradient):
        assert formula(rounded, target).dtype == torch.float32
        assert torch.equal(formula(rounded, target), formula(rounded.float(), target))


@every_library
def test_cast_to_the_type_that_it_has_is_the_array_itself(to: Any):
    array = to(np.zeros(3))
    assert cast(array, like=array) is array
    assert cast(to(np.zeros(3, dtype=np.float32)), like=array).dtype == array.dtype


# The network

INPUTS, HIDDEN, OUTPUTS, ROWS = 7, [5, 4, 6], 3, 8
every_depth = pytest.mark.parametrize("depth", [1, 2, 3, 4])
with_and_without_bias = pytest.mark.parametrize("bias", [False, True])


def parameters(depth: int, bias: bool, *runs: int) -> dict[str, np.ndarray]:
    """Random parameters, biases too, of `depth` layers; `runs` in front of every shape."""
    random = np.random.default_rng(depth)
    network = Network(hidden=HIDDEN[: depth - 1], bias=bias)
    shapes = {name: array.shape for name, array in network.initial_params(INPUTS, OUTPUTS, lambda _: random).items()}
    return {name: random.standard_normal((*runs, *shape)) for name, shape in shapes.items()}


def torch_prediction(params: dict[str, torch.Tensor], x: torch.Tensor, activation: str) -> torch.Tensor:
    """The same network of torch's own parts."""
    layers = sum(name.endswith("weight") for name in params)
    for layer in range(1, layers + 1):
        x = torch.nn.functional.linear(x, params[f"layer{layer}.weight"].T, params.get(f"layer{layer}.bias"))
        x = activation_twin(activation)(x) if layer < layers else x
    return x


@with_and_without_bias
@every_depth
@every_activation
def test_forward_and_backward_are_those_of_torch(name: str, depth: int, bias: bool):
    random = np.random.default_rng(1)
    params, x = parameters(depth, bias), random.standard_normal((ROWS, INPUTS))
    signal = random.standard_normal((ROWS, OUTPUTS))
    twins = {key: torch.tensor(array, requires_grad=True) for key, array in params.items()}
    prediction = torch_prediction(twins, torch.tensor(x), name)
    expected = torch.autograd.grad(prediction, list(twins.values()), torch.tensor(signal))
    for to in LIBRARIES.values():
        arrays = {key: to(array) for key, array in params.items()}
        pre, outputs = forward(arrays, to(x), ACTIVATIONS[name])
        assert len(pre) == depth and len(outputs) == depth + 1
        assert outputs[-1] is pre[-1]
        grads = backward(arrays, pre, outputs, to(signal), ACTIVATIONS[name])
        assert grads.keys() == params.keys()
        pairs = [(outputs[-1], prediction), *zip([grads[key] for key in params], expected, strict=True)]
        for found, right in pairs:
            right = get(right)
            # Up to 4 products forward and 4 back, of sums of at most 8: rounding in units of the largest entry.
            np.testing.assert_allclose(get(found), right, rtol=0, atol=256 * EPS * np.abs(right).max())


@with_and_without_bias
@every_depth
@every_library
def test_leading_axis_of_the_network_is_runs(depth: int, bias: bool, to: Any):
    random, runs = np.random.default_rng(2), 2
    params = {key: to(array) for key, array in parameters(depth, bias, runs).items()}
    signal = to(random.standard_normal((runs, ROWS, OUTPUTS)))
    for shape in ((ROWS, INPUTS), (runs, ROWS, INPUTS)):
        x = to(random.standard_normal(shape))
        pre, outputs = forward(params, x, ACTIVATIONS["tanh"])
        grads = backward(params, pre, outputs, signal, ACTIVATIONS["tanh"])
        for run in range(runs):
            member = {key: array[run] for key, array in params.items()}
            single = forward(member, x if x.ndim == 2 else x[run], ACTIVATIONS["tanh"])
            right = backward(member, *single, signal[run], ACTIVATIONS["tanh"])
            for key, array in right.items():
                assert grads[key].shape == (runs, *array.shape)
                # As above: the products are summed in another order.
                np.testing.assert_allclose(grads[key][run], array, rtol=0, atol=256 * EPS * np.abs(get(array)).max())


@every_activation
def test_swapped_derivative_would_be_seen(name: str):
    """The comparison above is no tautology: the backward pass of any other activation is far off."""
    random = np.random.default_rng(3)
    params, x, signal = parameters(3, True), random.standard_normal((ROWS, INPUTS)), random.standard_normal((ROWS, OUTPUTS))
    passes = forward(params, x, ACTIVATIONS[name])
    right = backward(params, *passes, signal, ACTIVATIONS[name])["layer1.weight"]
    for other in ACTIVATIONS.keys() - {name}:
        wrong = backward(params, *passes, signal, ACTIVATIONS[other])["layer1.weight"]
        assert np.abs(wrong - right).max() > 1e-3 * np.abs(right).max()  # 1e10 times the tolerance


# Initial weights

VARIANCE = {
    "standard_normal": lambda rows, columns: 1.0,
    "he": lambda rows, columns: 2 / rows,
    "glorot": lambda rows, columns: 2 / (rows + columns),
}
every_initial = pytest.mark.parametrize("initial", VARIANCE)


def initial_params(
    initial: str, seed: int = 0, inputs: int = 300, hidden: tuple[int, ...] = (200, 100)
) -> dict[str, np.ndarray]:
    network = Network(hidden=list(hidden), bias=True, initial=initial)
    return network.initial_params(inputs, 10, lambda layer: generator(seed, "network", layer))


@every_initial
def test_initial_weights_have_the_stated_distribution(initial: str):
    for name, array in initial_params(initial).items():
        assert array.dtype == np.float64
        if name.endswith("bias"):
            assert not array.any()
            continue
        variance = VARIANCE[initial](*array.shape)
        # Six standard errors: of a mean √(variance / n), of a normal sample's variance √(2 / n).
        assert abs(array.mean()) < 6 * np.sqrt(variance / array.size)
        assert abs(array.var() / variance - 1) < 6 * np.sqrt(2 / array.size)
        if initial == "glorot":
            bound = np.sqrt(6 / sum(array.shape))
            assert 0.98 * bound < np.abs(array).max() <= bound  # of 1,000 uniform draws none in the last 2 %: 1e-9


@every_initial
def test_initial_weights_are_the_seeds_and_each_layers_own(initial: str):
    first, again, other = (initial_params(initial, seed) for seed in (0, 0, 1))
    weights = [name for name in first if name.endswith("weight")]
    for name in weights:
        assert np.array_equal(first[name], again[name])
        assert not np.isclose(first[name], other[name]).all()
    square = initial_params(initial, inputs=50, hidden=(50, 50, 50))
    layers = [square[f"layer{layer}.weight"].ravel() for layer in (1, 2, 3)]
    # Six standard errors of a correlation that is 0.
    assert np.abs(np.corrcoef(layers) - np.eye(3)).max() < 6 / np.sqrt(layers[0].size)
    shallow = initial_params(initial, inputs=50, hidden=(50,))
    assert np.array_equal(shallow["layer1.weight"], square["layer1.weight"])  # whatever layers follow
