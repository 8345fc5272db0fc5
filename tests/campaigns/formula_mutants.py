"""Mutants of the shared formulas: one planted fault in an activation, a loss, an optimizer, the network or the loop.

Each patches attributes of the package for the duration of its context, and yields a plain method that computes by them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil, log, pi, sqrt
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from campaigns.method_mutants import (
    BATCHED,
    COARSE,
    DECAYED,
    DIGITS,
    EQUAL,
    FINE,
    SQUARE,
    TUTORIAL,
    Grads,
    Mutant,
    half,
    small,
)

from exp import losses, network
from exp.activations import Activation, Gelu, Relu, Tanh
from exp.arrays import Array, cast, library, per_run, product
from exp.losses import CrossEntropy, MeanSquaredError, SquaredError
from exp.methods import Block, Method, autograd, base, manual
from exp.methods.autograd import Autograd
from exp.methods.manual import NumPy, Tensor
from exp.network import depth
from exp.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from exp.seeds import generator
from exp.state import State
from exp.training import Training

Change = tuple[Any, str, Any]
"""An owner, the name of its attribute, and what stands there instead."""


@contextmanager
def planted(kind: type[Method], changes: list[Change]) -> Iterator[Method]:
    """A method while the changes are there."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        yield kind()


def mutant(
    family: str,
    beats: str,
    tensors: str,
    overrides: tuple[str, ...],
    changes: list[Change],
    magnitude: str = "",
    precisions: tuple[str, ...] = COARSE,
    kind: type[Method] = NumPy,
) -> Mutant:
    """An entry; `beats` and `tensors` are words separated by blanks."""
    words = (tuple(beats.split()), tuple(tensors.split()))
    return Mutant(family, *words, overrides, lambda: planted(kind, changes), magnitude, precisions=precisions)


# Activations


def activation(owner: type, name: str, function: Callable[..., Array]) -> list[Change]:
    """A change of `value(z)` or `backward(signal, z, a)` of one activation."""
    return [(owner, name, lambda self, *arrays: function(*arrays))]


def gelu_backward(slope: Callable[[Array, Array, Array], Array]) -> list[Change]:
    """GELU's derivative as `slope(z, t, derivative of u)`, t = tanh u."""

    def backward(self: Any, signal: Array, z: Array, a: Array) -> Array:
        t = library(z).tanh(self._inner(z))
        return signal * slope(z, t, sqrt(2 / pi) * (1 + 3 * 0.044715 * z * z))

    return [(Gelu, "backward", backward)]


def where(condition: Array, one: Any, other: Any) -> Array:
    return library(condition).where(condition, one, other)


RELU, GELU = small(activation="relu"), small(activation="gelu")

ACTIVATIONS = [
    mutant(
        "mask inverted",
        "backward",
        "layer2.weight",
        RELU,
        activation(Relu, "backward", lambda signal, z, a: where(z > 0, 0, signal)),
        "",
        COARSE,
    ),
    *(
        mutant(
            "mask missing", "backward", name, words, activation(Relu, "backward", lambda signal, z, a: signal), m, COARSE, kind
        )
        for name, words, m, kind in (
            ("layer2.weight", RELU, "small", Tensor),
            ("layer1.weight", TUTORIAL, "tutorial", NumPy),
        )
    ),
    mutant(
        "derivative at zero",
        "backward",
        "",
        RELU,
        activation(Relu, "backward", lambda signal, z, a: where(z < 0, 0, signal)),
        "1: >= for >",
    ),
    mutant(
        "derivative at zero",
        "backward",
        "",
        small(activation="relu", loss="squared_error"),
        activation(Relu, "backward", lambda signal, z, a: where(z < 0, 0, where(z > 0, signal, 0.5 * signal))),
        "1/2",
        kind=Tensor,
    ),
    mutant(
        "leaky slope of the derivative",
        "backward",
        "layer2.weight",
        RELU,
        activation(Relu, "backward", lambda signal, z, a: where(z <= 0, 0.01 * signal, signal)),
        "0.01",
        FINE,
    ),
]

SMOOTH_ACTIVATIONS = [
    *(
        mutant("derivative of tanh", "backward", "layer2.weight", words, activation(Tanh, "backward", f), m, COARSE, kind)
        for m, f, words, kind in (
            ("1 - z²", lambda signal, z, a: signal * (1 - z * z), small(), NumPy),
            ("1 - a", lambda signal, z, a: signal * (1 - a), small(optimizer="momentum"), Tensor),
        )
    ),
    mutant(
        "activation rounded",
        "forward",
        "layer1.output",
        small(loss="squared_error"),
        activation(Tanh, "value", lambda z: half(library(z).tanh(z))),
        "float16",
        FINE,
    ),
    mutant(
        "GELU by the error function",
        "forward",
        "layer1.output",
        GELU,
        activation(Gelu, "value", lambda z: 0.5 * z * (1 + torch.erf(z / sqrt(2)))),
        "torch",
        FINE,
        Tensor,
    ),
    mutant(
        "constant of GELU",
        "forward",
        "layer1.output",
        GELU,
        activation(Gelu, "_inner", lambda z: sqrt(2 / pi) * (z + 0.04715 * (z * z * z))),
        "0.04715",
        FINE,
    ),
    *(
        mutant("derivative of GELU", "backward", "layer2.weight", GELU, gelu_backward(slope), magnitude, COARSE, kind)
        for magnitude, slope, kind in (
            ("second term missing", lambda z, t, u: 0.5 * (1 + t), NumPy),
            ("u' missing", lambda z, t, u: 0.5 * (1 + t) + 0.5 * z * (1 - t * t), Tensor),
        )
    ),
]


# The forward pass


def forward(
    *,
    operand: Callable[[int, Array], Array] = lambda layer, a: a,
    multiplied: Callable[[int, Array, Array], Array] = lambda layer, a, weight: product(a, weight),
    bias: Callable[[int, dict[str, Array]], Array | None] = lambda layer, params: params.get(f"layer{layer}.bias"),
    active: Callable[[int, int], bool] = lambda layer, layers: layer < layers,
    output: Callable[[int, Array], Array] = lambda layer, a: a,
) -> list[Change]:
    """The forward pass with some of its parts changed, wherever its name was imported."""

    def changed(params: dict[str, Array], x: Array, activation: Activation) -> tuple[list[Array], list[Array]]:
        pre, outputs = [], [x]
        layers = depth(params)
        for layer in range(1, layers + 1):
            z = multiplied(layer, operand(layer, outputs[-1]), params[f"layer{layer}.weight"])
            if (added := bias(layer, params)) is not None:
                z = z + added[..., None, :]
            pre.append(z)
            outputs.append(output(layer, activation.value(z) if active(layer, layers) else z))
        return pre, outputs

    return [(module, "forward", changed) for module in (network, base, manual, autograd)]


def without_bias(wrong: int) -> list[Change]:
    return forward(bias=lambda layer, params: None if layer == wrong else params[f"layer{layer}.bias"])


def copied_row(z: Array) -> Array:
    """The last row is that before it."""
    return library(z).concatenate([z[..., :-1, :], z[..., -2:-1, :]], axis=-2) if z.shape[-2] > 1 else z


FORWARD = [
    mutant("bias forgotten", "forward", "layer2.output", small(), without_bias(2), "layer 2, formula"),
    mutant("bias forgotten", "forward", "layer3.output", RELU, without_bias(3), "layer 3, formula", kind=Tensor),
    mutant(
        "bias of another layer",
        "forward",
        "layer3.output",
        small(hidden=EQUAL),
        forward(bias=lambda layer, params: params[f"layer{2 if layer == 3 else layer}.bias"]),
        "",
        COARSE,
        Tensor,
    ),
    mutant(
        "operands in lower precision",
        "forward",
        "layer2.output",
        GELU,
        forward(multiplied=lambda layer, a, weight: half(a) @ half(weight) if layer == 2 else a @ weight),
        "float16, layer 2",
        FINE,
    ),
    mutant(
        "residual unasked",
        "forward",
        "layer2.output",
        small(hidden=SQUARE),
        forward(multiplied=lambda layer, a, weight: product(a, weight) + (a if layer == 2 else 0)),
        "",
        COARSE,
        Tensor,
    ),
    mutant(
        "last row copied",
        "forward",
        "layer2.output",
        small(optimizer="momentum"),
        forward(output=lambda layer, a: copied_row(a) if layer == 2 else a),
        "layer 2",
    ),
    mutant(
        "prediction scaled",
        "forward",
        "layer3.output",
        small(loss="squared_error"),
        forward(output=lambda layer, a: 1.001 * a if layer == 3 else a),
        "1.001",
        FINE,
        Autograd,
    ),
]


# The loss

SQUARED, MEAN = small(loss="squared_error"), small(loss="mean_squared_error")


def scaled(owner: type, factor: Callable[[Array], float], *names: str) -> list[Change]:
    """The value, the gradient or both of a loss times `factor(prediction)`."""

    def times(right: Callable[..., Array]) -> Callable[..., Array]:
        return lambda self, prediction, target: factor(prediction) * right(self, prediction, target)

    return [(owner, name, times(getattr(owner, name))) for name in names]


def targeted(owner: type, change: Callable[[Array], Array]) -> list[Change]:
    """A loss of other targets, in value and gradient."""

    def instead(right: Callable[..., Array]) -> Callable[..., Array]:
        return lambda self, prediction, target: right(self, prediction, change(target))

    return [(owner, name, instead(getattr(owner, name))) for name in ("value", "gradient")]


def rows(prediction: Array) -> int:
    return prediction.shape[-2]


def entries(prediction: Array) -> int:
    return prediction.shape[-2] * prediction.shape[-1]


def fixed_rows(prediction: Array) -> float:
    """A mean is divided by 4 rows, however many there are."""
    return rows(prediction) / 4


def fewer_rows(prediction: Array) -> float:
    """A mean is divided by N - 1 rows."""
    return rows(prediction) / max(rows(prediction) - 1, 1)


BOTH = ("value", "gradient")

LOSSES = [
    mutant(
        "factor 2 missing", "backward", "layer3.weight", SQUARED, scaled(SquaredError, lambda p: 0.5, "gradient"), "sum", COARSE
    ),
    mutant(
        "factor 2 missing",
        "backward",
        "layer2.weight",
        TUTORIAL,
        scaled(SquaredError, lambda p: 0.5, "gradient"),
        "tutorial",
        COARSE,
        Tensor,
    ),
    mutant("factor of the loss", "loss", "loss", MEAN, scaled(MeanSquaredError, lambda p: 1.001, "value"), "1.001", FINE),
    mutant(
        "factor of the loss", "loss", "loss", TUTORIAL, scaled(SquaredError, lambda p: 0.5, *BOTH), "0.5, both", COARSE, Tensor
    ),
    mutant(
        "factor of the loss's gradient",
        "backward",
        "layer3.weight",
        MEAN,
        scaled(MeanSquaredError, lambda p: 1.001, "gradient"),
        "1.001",
        FINE,
        Tensor,
    ),
    mutant(
        "mean instead of sum", "loss", "loss", SQUARED, scaled(SquaredError, lambda p: 1 / entries(p), "value"), "value", COARSE
    ),
    mutant(
        "mean instead of sum",
        "backward",
        "layer3.weight",
        SQUARED,
        scaled(SquaredError, lambda p: 1 / entries(p), "gradient"),
        "gradient",
        COARSE,
        Tensor,
    ),
    mutant(
        "mean instead of sum",
        "loss",
        "loss",
        SQUARED,
        scaled(SquaredError, lambda p: 1 / entries(p), *BOTH),
        "both",
        COARSE,
        Autograd,
    ),
    mutant(
        "sum instead of mean",
        "backward",
        "layer3.weight",
        MEAN,
        scaled(MeanSquaredError, entries, "gradient"),
        "gradient",
        COARSE,
    ),
    mutant(
        "sum instead of mean",
        "loss",
        "loss",
        small(optimizer="adam", batch=4),
        scaled(MeanSquaredError, entries, *BOTH),
        "both",
        COARSE,
        Autograd,
    ),
    mutant("mean over rows only", "loss", "loss", MEAN, scaled(MeanSquaredError, lambda p: p.shape[-1], *BOTH), "both", COARSE),
    mutant("divided by N - 1", "loss", "loss", MEAN, scaled(MeanSquaredError, fewer_rows, *BOTH), "both"),
    mutant(
        "divided by N - 1",
        "backward",
        "layer3.weight",
        DIGITS,
        scaled(CrossEntropy, fewer_rows, "gradient"),
        "cross entropy",
        COARSE,
        Tensor,
    ),
    mutant("divided by a fixed batch size", "loss", "loss", BATCHED, scaled(MeanSquaredError, fixed_rows, *BOTH), "both"),
    mutant(
        "targets of the first column",
        "loss",
        "loss",
        MEAN,
        targeted(MeanSquaredError, lambda t: 0 * t + t[..., :1]),
        "broadcast",
        COARSE,
        Autograd,
    ),
]


def log_softmax(function: Callable[[Array, Any], Array]) -> list[Change]:
    """The logarithm of the softmax as `function(logits, library)`."""
    return [(losses, "_log_softmax", lambda logits: function(logits, library(logits)))]


def _stable(logits: Array, axis: int) -> Array:
    xp = library(logits)
    shifted = logits - xp.amax(logits, axis=axis, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


def smoothed(amount: float) -> Callable[[Array], Array]:
    """Targets with label smoothing."""
    return lambda target: (1 - amount) * target + amount / target.shape[-1]


def _value_with_epsilon(self: Any, prediction: Array, target: Array) -> Array:
    """The logarithm of a probability and a bit more."""
    xp = library(prediction)
    return -(target * xp.log(xp.exp(_stable(prediction, -1)) + 1e-3)).sum(axis=(-2, -1)) / rows(prediction)


def _gradient_without_target(self: Any, prediction: Array, target: Array) -> Array:
    return library(prediction).exp(_stable(prediction, -1)) / rows(prediction)


CROSS_ENTROPY = [
    mutant(
        "no maximum subtracted",
        "loss",
        "loss",
        DIGITS,
        log_softmax(lambda logits, xp: logits - xp.log(xp.exp(logits).sum(axis=-1, keepdims=True))),
        "logarithm of the sum",
        COARSE,
        Tensor,
    ),
    mutant(
        "no maximum subtracted",
        "loss",
        "loss",
        DIGITS,
        log_softmax(lambda logits, xp: xp.log(xp.exp(logits) / xp.exp(logits).sum(axis=-1, keepdims=True))),
        "logarithm of the quotient",
        COARSE,
        Autograd,
    ),
    mutant("softmax over the wrong axis", "loss", "loss", DIGITS, log_softmax(lambda z, xp: _stable(z, -2)), "rows"),
    mutant("label smoothing", "loss", "loss", DIGITS, targeted(CrossEntropy, smoothed(0.1)), "0.1"),
    mutant(
        "logarithm to base 2", "loss", "loss", DIGITS, scaled(CrossEntropy, lambda p: 1 / log(2), "value"), "", COARSE, Tensor
    ),
    mutant("epsilon in the logarithm", "loss", "loss", DIGITS, [(CrossEntropy, "value", _value_with_epsilon)], "1e-3"),
    mutant(
        "target missing in the gradient",
        "backward",
        "layer3.weight",
        DIGITS,
        [(CrossEntropy, "gradient", _gradient_without_target)],
        "",
        COARSE,
    ),
]


# The backward pass


def backward(
    *,
    inputs: Callable[[int, list[Array], list[Array]], Array] = lambda layer, pre, outputs: outputs[layer - 1],
    weight_gradient: Callable[[Array, Array], Array] = lambda a, signal: product(a.swapaxes(-1, -2), signal),
    bias_gradient: Callable[[int, Array], Array] = lambda layer, signal: signal.sum(axis=-2),
    through: Callable[[int, dict[str, Array]], Array] = lambda layer, params: params[f"layer{layer}.weight"].swapaxes(-1, -2),
    mask: Callable[[int], int | None] = lambda layer: layer - 2,
    passed: Callable[[int, Array], Array] = lambda layer, signal: signal,
) -> list[Change]:
    """The backward pass by hand with some of its parts changed. `mask` is the index of the pre-activation; None: no mask."""

    def changed(params: Any, pre: list[Array], outputs: list[Array], signal: Array, activation: Activation) -> Grads:
        grads = {}
        for layer in range(depth(params), 0, -1):
            grads[f"layer{layer}.weight"] = weight_gradient(inputs(layer, pre, outputs), signal)
            if f"layer{layer}.bias" in params:
                grads[f"layer{layer}.bias"] = bias_gradient(layer, signal)
            if layer > 1:
                signal = product(signal, through(layer, params))
                index = mask(layer)
                signal = signal if index is None else activation.backward(signal, pre[index], outputs[index + 1])
                signal = passed(layer, signal)
        return grads

    return [(manual, "backward", changed)]


BACKWARD = [
    mutant(
        "mask of the wrong layer",
        "backward",
        "layer3.weight",
        small(hidden=EQUAL, activation="relu"),
        backward(mask=lambda layer: max(layer - 3, 0)),
        "one too early",
        COARSE,
    ),
    mutant(
        "mask missing",
        "backward",
        "layer1.weight",
        RELU,
        backward(mask=lambda layer: None if layer == 2 else layer - 2),
        "layer 1",
        COARSE,
    ),
    mutant(
        "bias gradient of one row",
        "backward",
        "layer3.bias",
        MEAN,
        backward(bias_gradient=lambda layer, signal: signal[..., 0, :]),
        "first",
        COARSE,
    ),
    mutant(
        "bias gradient a mean",
        "backward",
        "layer3.bias",
        SQUARED,
        backward(bias_gradient=lambda layer, signal: signal.mean(axis=-2)),
        "all",
        COARSE,
        Tensor,
    ),
    mutant(
        "gradient by the pre-activation",
        "backward",
        "layer3.weight",
        small(optimizer="adam"),
        backward(inputs=lambda layer, pre, outputs: pre[layer - 2] if layer > 1 else outputs[0]),
        "tanh",
    ),
    mutant(
        "signal through the transposed weight",
        "backward",
        "layer1.weight",
        small(hidden=SQUARE),
        backward(through=lambda layer, p: p["layer2.weight"] if layer == 2 else p[f"layer{layer}.weight"].swapaxes(-1, -2)),
        "square layer",
        COARSE,
    ),
    mutant(
        "signal in lower precision",
        "backward",
        "layer2.weight",
        small(activation="identity"),
        backward(passed=lambda layer, signal: half(signal, "bfloat16")),
        "bfloat16",
        FINE,
        Tensor,
    ),
    mutant(
        "last row dropped in the gradient",
        "backward",
        "layer3.weight",
        small(optimizer="momentum", batch=4),
        backward(weight_gradient=lambda a, signal: a[..., :-1, :].swapaxes(-1, -2) @ signal[..., :-1, :]),
        "of weights",
    ),
]


# The optimizers

Updated = tuple[Array, dict[str, Array]]


def rule(owner: type, function: Callable[..., Updated]) -> list[Change]:
    """A rule as `function(p, g, slots, c)`."""
    return [(owner, "rule", lambda self, p, g, slots, c: function(p, g, slots, c))]


def adam(
    *,
    first: Callable[[Array, Array, Any], Array] = lambda m, g, c: c["beta1"] * m + c["one_minus_beta1"] * g,
    second: Callable[[Array, Array, Any], Array] = lambda v, g, c: c["beta2"] * v + c["one_minus_beta2"] * (g * g),
    step: Callable[[Array, Array, Array, Any], Array] = lambda m, v, g, c: (
        c["corrected_lr"] * m / (library(m).sqrt(v) * c["corrected_root"] + c["eps"])
    ),
) -> list[Change]:
    """Adam's rule with some of its parts changed."""

    def changed(self: Any, p: Array, g: Array, slots: dict[str, Array], c: Any) -> Updated:
        p, g = self.decay(p, g, c)
        m, v = first(slots["exp_avg"], g, c), second(slots["exp_avg_sq"], g, c)
        return p - step(m, v, g, c), {"exp_avg": m, "exp_avg_sq": v}

    return [(Adam, "rule", changed)]


def momentum(function: Callable[[Array, Array, Array, Any], tuple[Array, Array]]) -> list[Change]:
    """The rule of momentum as `function(p, g, buffer, c)`: the new p and the new buffer."""

    def changed(self: Any, p: Array, g: Array, slots: dict[str, Array], c: Any) -> Updated:
        p, buffer = function(p, g + c["weight_decay"] * p, slots["momentum_buffer"], c)
        return p, {"momentum_buffer": buffer}

    return [(Momentum, "rule", changed)]


def corrections(change: Callable[[dict[str, Any], Any, Any], dict[str, Any]]) -> list[Change]:
    """Adam's scalars with `change(scalars, count, library)` for some of them."""
    right = Adam.scalars

    def scalars(self: Any, count: Array, constants: Any) -> dict[str, Any]:
        found = dict(right(self, count, constants))
        return {**found, **change(found, count, library(count))}

    return [(Adam, "scalars", scalars)]


def counted(shift: int) -> list[Change]:
    """Adam's corrections by another count than is kept."""
    right = Adam.scalars
    return [(Adam, "scalars", lambda self, count, constants: right(self, count + shift, constants))]


def update(change: Callable[[State, State], State]) -> list[Change]:
    """`Optimizer.update` with `change(before, after)`."""
    right = Optimizer.update
    return [(Optimizer, "update", lambda self, state, grads, constants: change(state, right(self, state, grads, constants)))]


def _slots_of_first(self: Any, state: State, grads: Any, constants: Any) -> State:
    """Slots are kept by shape: parameters of one shape share them, one after the other."""
    count = state.count + 1
    scalars = self.scalars(cast(count, like=next(iter(state.params.values()))), constants)
    params, shared = {}, {}
    for name, param in state.params.items():
        values = {key: per_run(value, param) for key, value in scalars.items()}
        key = tuple(param.shape)
        old = shared.get(key, {slot: state.slots[slot][name] for slot in self.slot_names})
        params[name], shared[key] = self.rule(param, grads[name], old, values)
    slots = {slot: {name: shared[tuple(param.shape)][slot] for name, param in params.items()} for slot in self.slot_names}
    return State(params, slots, count)


MOMENTUM, ADAM = small(optimizer="momentum"), small(optimizer="adam")
ADAMW = small("optimizer.weight_decay=0.5", optimizer="adamw")


def sgd_rule(function: Callable[[Array, Array, Any], Array]) -> list[Change]:
    return rule(SGD, lambda p, g, slots, c: (function(p, g, c), {}))


DESCENT = [
    mutant("rate halved", "update", "", SQUARED, sgd_rule(lambda p, g, c: p - 0.5 * c["lr"] * g), "rule", COARSE),
    mutant("ascent", "update", "", MEAN, sgd_rule(lambda p, g, c: p + c["lr"] * g), "", COARSE, Autograd),
    mutant(
        "decay with the wrong sign",
        "update",
        "",
        small(DECAYED),
        sgd_rule(lambda p, g, c: p - c["lr"] * (g - c["weight_decay"] * p)),
        "sgd",
    ),
    mutant(
        "momentum dampened",
        "update",
        "",
        MOMENTUM,
        momentum(lambda p, g, v, c: (p - c["lr"] * (n := c["momentum"] * v + (1 - c["momentum"]) * g), n)),
        "1 - μ",
        COARSE,
    ),
    mutant(
        "momentum dampened",
        "update",
        "",
        MOMENTUM,
        momentum(lambda p, g, v, c: (p - c["lr"] * (n := c["momentum"] * v + 0.99 * g), n)),
        "0.99",
        FINE,
        Tensor,
    ),
    mutant(
        "step by the old buffer",
        "update",
        "",
        MOMENTUM,
        momentum(lambda p, g, v, c: (p - c["lr"] * v, c["momentum"] * v + g)),
        "",
        COARSE,
        Autograd,
    ),
    mutant(
        "Nesterov without the gradient",
        "update",
        "",
        small("optimizer.nesterov=true", optimizer="momentum"),
        momentum(lambda p, g, v, c: (p - c["lr"] * c["momentum"] * (n := c["momentum"] * v + g), n)),
        "",
        COARSE,
    ),
    mutant(
        "buffer shared",
        "update",
        "",
        small(hidden=EQUAL, optimizer="momentum"),
        [(Momentum, "update", _slots_of_first)],
        "by shape",
        COARSE,
        Tensor,
    ),
]

ADAPTIVE = [
    mutant(
        "bias corrections missing", "update", "", ADAM, corrections(lambda s, t, xp: {"corrected_lr": s["lr"]}), "first", COARSE
    ),
    mutant(
        "bias corrections missing",
        "update",
        "",
        ADAM,
        corrections(lambda s, t, xp: {"corrected_root": 1.0}),
        "second",
        COARSE,
        Tensor,
    ),
    mutant("count of the corrections", "update", "", ADAM, counted(1), "one more", COARSE),
    mutant("count of the corrections", "update", "", ADAM, counted(-1), "one less", COARSE, Tensor),
    mutant(
        "betas swapped",
        "update",
        "",
        ADAM,
        corrections(lambda s, t, xp: {"corrected_lr": s["lr"] / -xp.expm1(t * s["log_beta2"])}),
        "in a correction",
        COARSE,
    ),
    mutant(
        "epsilon inside the root",
        "update",
        "",
        small("optimizer.eps=1e-3", optimizer="adam"),
        adam(step=lambda m, v, g, c: c["corrected_lr"] * m / library(m).sqrt(v * c["corrected_root"] ** 2 + c["eps"])),
        "1e-3",
    ),
    mutant(
        "epsilon inside the root",
        "update",
        "",
        ADAM,
        adam(step=lambda m, v, g, c: c["corrected_lr"] * m / library(m).sqrt(v * c["corrected_root"] ** 2 + c["eps"])),
        "1e-8",
        COARSE,
        Tensor,
    ),
    mutant(
        "epsilon missing",
        "update",
        "",
        small("optimizer.eps=1e-3", optimizer="adam"),
        adam(step=lambda m, v, g, c: c["corrected_lr"] * m / (library(m).sqrt(v) * c["corrected_root"] + 1e-20)),
        "1e-3",
    ),
    mutant(
        "epsilon missing",
        "update",
        "",
        ADAM,
        adam(step=lambda m, v, g, c: c["corrected_lr"] * m / (library(m).sqrt(v) * c["corrected_root"] + 1e-20)),
        "1e-8",
        COARSE,
        Tensor,
    ),
    mutant(
        "second moment of the modulus",
        "update",
        "",
        ADAM,
        adam(second=lambda v, g, c: c["beta2"] * v + c["one_minus_beta2"] * abs(g)),
        "",
        COARSE,
    ),
    mutant(
        "maximum for the running second moment",
        "update",
        "",
        ADAM,
        adam(second=lambda v, g, c: library(g).maximum(c["beta2"] * v, g * g)),
        "",
        COARSE,
        Autograd,
    ),
    mutant(
        "Nesterov in Adam",
        "update",
        "",
        ADAM,
        adam(
            step=lambda m, v, g, c: (
                c["corrected_lr"]
                * (c["beta1"] * m + c["one_minus_beta1"] * g)
                / (library(m).sqrt(v) * c["corrected_root"] + c["eps"])
            )
        ),
        "",
        COARSE,
        Tensor,
    ),
    mutant(
        "decay not times the rate",
        "update",
        "",
        small("optimizer.weight_decay=0.01", optimizer="adamw"),
        [(AdamW, "decay", lambda self, p, g, c: (p - c["weight_decay"] * p, g))],
        "adamw",
        COARSE,
        Tensor,
    ),
]


# The loop


def batches(function: Callable[[Training, int, int], Iterator[np.ndarray]]) -> list[Change]:
    """The batches of each epoch as `function(training, samples, epoch)`."""
    right = Training.batches

    def changed(self: Training, samples: int) -> Iterator[np.ndarray | None]:
        if self.batch_size is None:
            yield from right(self, samples)
        epoch = 0
        while True:
            yield from function(self, samples, epoch)
            epoch += 1

    return [(Training, "batches", changed)]


def _order(training: Training, samples: int, epoch: int) -> np.ndarray:
    return generator(training.seed, "training", epoch).permutation(samples)


def _cut(training: Training, order: np.ndarray) -> list[np.ndarray]:
    assert training.batch_size is not None
    return np.split(order, range(training.batch_size, len(order), training.batch_size))


def reordered(order: Callable[[Training, int, int], np.ndarray]) -> list[Change]:
    """Epochs in another order."""
    return batches(lambda training, samples, epoch: iter(_cut(training, order(training, samples, epoch))))


def recut(change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> list[Change]:
    """The right order, and other batches of an epoch."""
    return batches(lambda training, samples, epoch: iter(change(_cut(training, _order(training, samples, epoch)))))


def _padded(parts: list[np.ndarray]) -> list[np.ndarray]:
    missing = len(parts[0]) - len(parts[-1])
    return [*parts[:-1], np.concatenate([parts[-1], parts[0][:missing]])]


def blocks(change: Callable[[Block], Block]) -> list[Change]:
    """`Training.blocks` with every block changed."""
    right = Training.blocks
    return [(Training, "blocks", lambda self, samples: (change(block) for block in right(self, samples)))]


def _with_rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Block], Block]:
    return lambda block: block if block.rows is None else Block(block.first, block.steps, change(block.rows))


def steps_in_all(function: Callable[[Training, int], int]) -> list[Change]:
    """`Training.total_steps`."""
    return [(Training, "total_steps", function)]


EPOCHS = ("training=epochs", "training.epochs=4", "training.batch_size=4")
LOOP = small(*EPOCHS)

LOOPS = [
    mutant("ragged batch dropped", "batches", "", LOOP, recut(lambda parts: parts[:-1]), "every epoch", COARSE),
    mutant("ragged batch padded", "batches", "", LOOP, recut(_padded), "with the first rows", COARSE, Autograd),
    mutant("one order for all epochs", "batches", "", LOOP, reordered(lambda t, n, epoch: _order(t, n, 0)), "", COARSE, Tensor),
    mutant("not shuffled", "batches", "", LOOP, reordered(lambda t, n, epoch: np.arange(n))),
    mutant(
        "drawn with replacement",
        "batches",
        "",
        LOOP,
        reordered(lambda t, n, epoch: generator(t.seed, "training", epoch).integers(n, size=n)),
        "",
        COARSE,
        Autograd,
    ),
    mutant(
        "last row never drawn",
        "batches",
        "",
        small(batch=5),
        reordered(lambda t, n, epoch: _order(t, n - 1, epoch)),
        "",
        COARSE,
        Tensor,
    ),
    mutant(
        "steps of a block reversed", "batches", "", small(batch=4), blocks(_with_rows(lambda rows: rows[::-1].copy())), "plan"
    ),
    mutant(
        "steps in all",
        "batches",
        "",
        LOOP,
        steps_in_all(lambda self, n: self.steps or (self.epochs or 0) * (n // (self.batch_size or n))),
        "rounded down",
    ),
    mutant(
        "steps in all",
        "batches",
        "",
        LOOP,
        steps_in_all(lambda self, n: (self.steps or (self.epochs or 0) * ceil(n / (self.batch_size or n))) - 1),
        "one less",
        COARSE,
        Tensor,
    ),
]

MUTANTS: list[Mutant] = [
    *ACTIVATIONS,
    *SMOOTH_ACTIVATIONS,
    *FORWARD,
    *LOSSES,
    *CROSS_ENTROPY,
    *BACKWARD,
    *DESCENT,
    *ADAPTIVE,
    *LOOPS,
]
