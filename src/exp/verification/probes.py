"""The states and batches at which a method is judged.

Along a training run hidden units settle on the kink of ReLU, where two correct implementations may take a pre-activation
for one of the other sign. Probes are free of that by construction: the row n of x is tₙ·|N(0, 1)|, the weight from unit i
to unit k is sᵢ·sₖ·|N(0, 1)| with random signs t, s, so that the pre-activation of unit k has the sign tₙ·sₖ in every layer,
far from zero, while every unit is on for some rows and off for others. Nothing cancels in forward or backward either.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from exp.seeds import Generator

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Probe:
    """A state's parameters and step count, and the rows it is judged on: x (N, inputs), y (N, outputs), float64.

    `conditioned` is kink-free by construction, so that it decides in every precision. `decays`: weight decay is raised
    until it shows.
    """

    name: str
    params: Params
    count: int
    x: np.ndarray
    y: np.ndarray
    conditioned: bool = True
    decays: bool = False


@dataclass(frozen=True)
class Shape:
    """Of the network and of a batch. `classes`: targets are one-hot rows. `whole`: rows of a batch of the training."""

    widths: tuple[int, ...]
    bias: bool
    relu: bool
    classes: bool
    rows: int
    whole: int = 0


def probes(shape: Shape, generator: Generator, *, overflowing: float) -> Iterator[Probe]:
    """Conditioned, degenerate and random states. `overflowing` are logits whose exponential overflows."""
    one = replace(shape, rows=1)
    yield _probe("signed 1", shape, generator, 0)
    yield replace(_probe("signed 2", shape, generator, 3, mixed=True), decays=True)
    if shape.whole > shape.rows:
        yield _probe("whole batch", replace(shape, rows=shape.whole), generator, 1)
    yield _probe("one row", one, generator, 1)
    yield _with_zeros(_probe("zeros", shape, generator, 1000), shape, generator)
    yield _probe("saturated", shape, generator, 2, gain=12.0, logits=overflowing)
    for number, count in enumerate((0, 12)):
        yield _random(f"random {number + 1}", shape, generator, count)


def signed(shape: Shape, generator: Generator) -> Probe:
    """One more conditioned probe."""
    return _probe("chain", shape, generator, 1)


def _signs(generator: Generator, size: int) -> np.ndarray:
    """Random signs, both of them where there are two or more; + for one, that what is on in a layer may be on in the next."""
    if size == 1:
        return np.ones(1)
    signs = np.where(np.arange(size) % 2 == 0, 1.0, -1.0)
    return generator.permutation(signs) * generator.choice([-1.0, 1.0])


def _probe(
    name: str,
    shape: Shape,
    generator: Generator,
    count: int,
    *,
    gain: float = 1.5,
    logits: float = 2.0,
    mixed: bool = False,
) -> Probe:
    """Pre-activations of about `gain`, outputs of about `logits` for classes. `mixed`: targets on both sides of the outputs."""
    x = _signs(generator, shape.rows)[:, None] * np.abs(generator.standard_normal((shape.rows, shape.widths[0])))
    params: Params = {}
    z = a = x
    signs = np.ones(shape.widths[0])
    last = len(shape.widths) - 1
    for layer, (inputs, outputs) in enumerate(pairwise(shape.widths), start=1):
        own = _signs(generator, outputs)
        weight = (signs[:, None] if layer < last else 1.0) * own * np.abs(generator.standard_normal((inputs, outputs)))
        z = a @ weight
        size = (logits if layer == last and shape.classes else gain) / np.sqrt(np.mean(z**2))
        params[f"layer{layer}.weight"] = weight * size
        z = z * size
        if shape.bias:
            bias = own * generator.choice([-1.0, 1.0], outputs) * generator.uniform(0.2, 0.5, outputs) * np.abs(z).min(axis=0)
            params[f"layer{layer}.bias"] = bias
            z = z + bias
        a, signs = (np.maximum(z, 0) if shape.relu else np.tanh(z)), own
    return Probe(name, params, count, x, _targets(z, shape, generator, mixed=mixed))


def _targets(prediction: np.ndarray, shape: Shape, generator: Generator, *, mixed: bool) -> np.ndarray:
    """One-hot rows, or numbers of the size of the predictions and, unless `mixed`, of the other sign."""
    rows, outputs = prediction.shape
    if shape.classes:
        return np.eye(outputs)[generator.integers(outputs, size=rows)]
    size = np.sqrt(np.mean(prediction**2)) * np.abs(generator.standard_normal((rows, outputs)))
    return size * (generator.choice([-1.0, 1.0], (rows, outputs)) if mixed else -np.sign(prediction))


def _with_zeros(probe: Probe, shape: Shape, generator: Generator) -> Probe:
    """Exact zeros: of a third of the hidden units all incoming weights, of a third of the inputs all values, one row.

    There the pre-activation is 0 in every order of summation, and the gradient too: the derivative of ReLU at 0 is 0.
    """
    params = {name: value.copy() for name, value in probe.params.items()}
    for layer, width in enumerate(shape.widths[1:-1], start=1):
        dead = generator.permutation(width)[: width // 3 if width > 2 else width - 1]
        params[f"layer{layer}.weight"][:, dead] = 0
        if shape.bias:
            params[f"layer{layer}.bias"][dead] = 0
    x = probe.x.copy()
    x[:, generator.permutation(shape.widths[0])[: shape.widths[0] // 3]] = 0
    if shape.rows > 2:
        x[generator.integers(shape.rows)] = 0
    return Probe(probe.name, params, probe.count, x, probe.y)


def _random(name: str, shape: Shape, generator: Generator, count: int) -> Probe:
    """Weights and data of both signs, as in training."""
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(shape.widths), start=1):
        params[f"layer{layer}.weight"] = generator.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        if shape.bias:
            params[f"layer{layer}.bias"] = 0.3 * generator.standard_normal(outputs)
    x = generator.standard_normal((shape.rows, shape.widths[0]))
    unit = generator.standard_normal((shape.rows, shape.widths[-1]))
    return Probe(name, params, count, x, _targets(unit, shape, generator, mixed=True), conditioned=False)


def slots(names: tuple[str, ...], grads: Params, generator: Generator, *, smallest: float) -> dict[str, Params]:
    """Optimizer slots of the size that gradients of this size leave, over three powers of ten.

    Where a gradient is exactly 0, exp_avg_sq is about `smallest`², so that the ε of Adam counts.
    """

    def slot(name: str, grad: np.ndarray) -> np.ndarray:
        size = np.sqrt(np.mean(grad**2)) or 1.0
        still = grad == 0
        if name == "exp_avg_sq":
            return np.where(still, smallest * 10 ** generator.uniform(-1, 1, grad.shape), 0.0) ** 2 + np.where(
                still, 0.0, size**2 * 10 ** generator.uniform(-2, 1, grad.shape)
            )
        return np.where(still, smallest, size) * generator.standard_normal(grad.shape)

    return {name: {key: slot(name, grad) for key, grad in grads.items()} for name in names}
