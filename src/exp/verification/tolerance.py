"""How far a correct method may be from the reference: the envelope of errors that its arithmetic makes.

The reference step is evaluated DRAWS times with every operand and result multiplied by 1 + δξ, ξ uniform in (−1, 1), and
by plain implementations of the same precision in two orders of summation. E is the largest distance from the exact step,
element by element, at least its own root mean square. A tensor a is different from the right one r if

    max(‖a − r‖ / ‖E‖, max |a − r| / E) > FACTOR,

and 3‖E‖ / ‖r‖ is its resolution: the relative fault that would have been seen. δ = u · max(8, √n) for a sum of n terms, u
the unit roundoff (Higham 2002, section 2.2; √n because roundings are independent, ibid. section 2.8); where the operands
of products are rounded further, to TF32 or bfloat16, 2u of that format more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import numpy as np

from exp.verification.reference import Evaluation, Reference, Tensor

FACTOR = 3.0
DRAWS = 8

STORAGE = {"float32": 2.0**-24, "float64": 2.0**-53}
"""Unit roundoff of what is stored: half the distance from 1 to the next number."""

OPERANDS = {"tf32": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff of the operands of products, where it is not that of the storage."""


@dataclass(frozen=True)
class Arithmetic:
    """The roundings of a precision. `coarse` says that the operands of products are rounded further than the storage."""

    precision: str
    dtype: str

    @property
    def storage(self) -> float:
        return STORAGE[self.dtype]

    @property
    def coarse(self) -> bool:
        return self.precision in OPERANDS

    @property
    def smallest(self) -> float:
        """The smallest normal number: below it, numbers may be flushed to zero."""
        return float(np.finfo(self.dtype).tiny)

    def summed(self, terms: int) -> float:
        """δ of a sum of `terms` terms in the precision of the storage."""
        return self.storage * max(8.0, sqrt(terms))

    def product(self, terms: int) -> float:
        """δ of the products of a step whose longest sum has `terms` terms."""
        return self.summed(terms) + 2 * OPERANDS.get(self.precision, 0.0)


class Uniform:
    """Relative errors δξ with independent ξ, uniform in (−1, 1): `reference.Noise`."""

    def __init__(self, generator: np.random.Generator, arithmetic: Arithmetic):
        self._generator, self._arithmetic = generator, arithmetic

    def operand(self, value: Tensor, terms: int) -> Tensor:
        return value * self._draw(value, self._arithmetic.product(terms)).add_(1)

    def absolute(self, size: Tensor) -> Tensor:
        return size * self._draw(size, self._arithmetic.product(1))

    def loss(self, value: Tensor, terms: int, floor: Tensor) -> Tensor:
        summed, floor_error = self._arithmetic.summed(terms), floor * self._draw(floor, 2 * self._arithmetic.storage)
        return value * (1 + self._draw(value, summed)) + floor_error

    def softmax(self, size: Tensor) -> Tensor:
        return size * self._draw(size, 2 * self._arithmetic.storage)

    def of_size(self, size: Tensor) -> Tensor:
        """An error of this size at most."""
        return size * self._draw(size, 1.0)

    def update(self, value: Tensor) -> Tensor:
        """What an update rule reads or writes, element by element."""
        return value * self._draw(value, self._arithmetic.summed(1)).add_(1)

    def rate(self, optimizer: Any, count: int) -> float:
        """A factor 1 + δξ of the rate of update `count`.

        Adam divides by 1 − βᵗ, which `torch.optim` too computes as such: in float64, whose roundoff counts 1 / (1 − βᵗ) times.
        """
        delta = self._arithmetic.summed(1)
        for beta, power in zip(getattr(optimizer, "betas", ()), (1.0, 0.5), strict=False):
            delta += power * STORAGE["float64"] / (1 - beta**count)
        return 1 + delta * float(self._generator.uniform(-1, 1))

    def _draw(self, like: Tensor, delta: float) -> Tensor:
        import torch

        drawn = torch.from_numpy(np.asarray(self._generator.random(tuple(like.shape), dtype=np.float32)))
        return drawn.to(like.dtype).sub_(0.5).mul_(2 * delta)


@dataclass
class Envelope:
    """What is right, and how far from it each element may be: E, by key. `pre` are the pre-activations, by layer."""

    right: dict[str, Tensor]
    spread: dict[str, Tensor] = field(default_factory=dict)
    smallest: float = 0.0
    rows: int = 0

    def widen(self, found: Mapping[str, Tensor]) -> None:
        """Take in one more way of computing it."""
        for key, right in self.right.items():
            distance = (found[key] - right).abs()
            self.spread[key] = distance.maximum(self.spread[key]) if key in self.spread else distance

    def allowed(self, key: str, *, floor: bool = True) -> Tensor:
        """E; `floor` False for what is computed element by element, where one element says nothing of another."""
        spread = self.spread[key].clamp(min=self.smallest)
        return spread.maximum(spread.square().mean().sqrt()) if floor else spread

    @property
    def finite(self) -> bool:
        tensors = [*self.right.values(), *self.spread.values()]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)


@dataclass(frozen=True)
class Comparison:
    """One tensor against what is right: the score of the tolerance, and its worst element."""

    score: float
    index: tuple[int, ...]
    found: float
    expected: float
    resolution: float

    @property
    def ratio(self) -> float:
        """The distance in units of the tolerance: above 1 is different."""
        return self.score / FACTOR


def compare(found: np.ndarray, right: Tensor, allowed: Tensor) -> Comparison:
    """`found` against `right`, where each element may be FACTOR · `allowed` off. Another shape is infinitely far."""
    expected = right.numpy()
    found = np.asarray(found, dtype=np.float64)
    norm, size = float(np.linalg.norm(allowed.numpy())), float(np.linalg.norm(expected))
    resolution = FACTOR * norm / size if size > 0 else inf
    if found.shape != expected.shape:
        return Comparison(inf, (), float("nan"), float("nan"), resolution)
    with np.errstate(all="ignore"):
        distance = np.abs(found - expected)
        ratio = np.where(distance == 0, 0.0, distance / allowed.numpy())
        ratio[np.isnan(ratio)] = inf
        worst = np.unravel_index(int(ratio.argmax()), ratio.shape) if ratio.size else ()
        whole = float(np.linalg.norm(distance)) / norm if norm > 0 else 0.0
    index = tuple(int(place) for place in worst)
    score = max(float(ratio.max()) if ratio.size else 0.0, whole if np.isfinite(whole) else inf)
    return Comparison(score, index, float(found[index]), float(expected[index]), resolution)


def evaluated(evaluation: Evaluation) -> dict[str, Tensor]:
    """What of a step can be seen from outside, by `beat/tensor` in the order of computation, and the z of each layer."""
    layers = len(evaluation.outputs)
    found = {f"forward/layer{layers}.output": evaluation.outputs[-1], "loss/loss": evaluation.loss}
    for layer in range(layers, 0, -1):
        names = [f"layer{layer}.weight", f"layer{layer}.bias"]
        found |= {f"backward/{name}": evaluation.grads[name] for name in names if name in evaluation.grads}
    return found | {f"pre/layer{layer}": z for layer, z in enumerate(evaluation.pre[:-1], start=1)}


Plain = Callable[[Mapping[str, Tensor], Tensor, Tensor], list[dict[str, Tensor]]]


def envelope(
    reference: Reference,
    arithmetic: Arithmetic,
    generator: np.random.Generator,
    params: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    plain: Plain,
) -> tuple[Envelope, list[Evaluation]]:
    """The right step at float64 `params` on x, y, and its envelope; beside it the perturbed evaluations themselves."""
    right = reference.evaluate(params, x, y)
    found = Envelope(evaluated(right), smallest=arithmetic.smallest, rows=len(x))
    noise = Uniform(generator, arithmetic)
    perturbed = [reference.evaluate(params, x, y, noise) for _ in range(DRAWS)]
    for one in [*map(evaluated, perturbed), *plain(params, x, y)]:
        found.widen(one)
    return found, [right, *perturbed]


def near_kink(found: Envelope, layers: int) -> np.ndarray:
    """The rows, (N,), of which a pre-activation is so near 0 that a correct method may take it for one of the other sign.

    One that is 0 in every order of summation is not: there the derivative is 0.
    """
    rows = np.zeros(found.rows, dtype=bool)
    for layer in range(1, layers):
        key = f"pre/layer{layer}"
        spread, z = found.spread[key], found.right[key].abs()
        near = (z <= (FACTOR + 1) * found.allowed(key)) & (spread > 0)
        rows |= near.any(dim=-1).numpy()
    return rows


class PlainSteps:
    """Plain implementations: `torch.nn.functional` in the precision itself, summed forwards and backwards."""

    def __init__(self, reference: Reference, device: str, dtype: str):
        self._reference, self._device, self._dtype = reference, device, dtype

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> list[dict[str, Tensor]]:
        import torch

        dtype = getattr(torch, self._dtype)
        params = {name: value.to(self._device, dtype) for name, value in params.items()}
        x, y = x.to(self._device, dtype), y.to(self._device, dtype)
        layers = sum(name.endswith(".weight") for name in params)

        def flipped(name: str, value: Tensor) -> Tensor:
            """Inputs and hidden units in reverse, the outputs as they are."""
            last = name.startswith(f"layer{layers}.")
            dims = [dim for dim in range(value.ndim) if not (last and dim == value.ndim - 1)]
            return value.flip(dims) if dims else value

        forwards = evaluated(self._reference.evaluate(params, x, y))
        reversed_ = {name: flipped(name, value).contiguous() for name, value in params.items()}
        backwards = evaluated(self._reference.evaluate(reversed_, x.flip((0, 1)), y.flip(0)))
        for key, value in backwards.items():
            beat, _, name = key.partition("/")
            if beat == "backward":
                backwards[key] = flipped(name, value)
            elif beat in ("forward", "pre"):
                backwards[key] = value.flip((0,) if beat == "forward" else (0, 1))
        return [{key: value.to("cpu", torch.float64) for key, value in each.items()} for each in (forwards, backwards)]
