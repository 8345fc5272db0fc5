"""How far a correct method may be from the reference: the envelope of errors that its arithmetic makes.

The reference step is evaluated DRAWS times with every operand and result multiplied by 1 + δξ, ξ uniform in (−1, 1), and
by plain implementations of the same precision in two orders of summation. E is the largest distance from the exact step,
element by element, at least its own root mean square. A tensor a is different from the right one r if

    max |a − r| / E > FACTOR,

and 3‖E‖ / ‖r‖ is its resolution: the relative fault that would have been seen. δ = u · max(8, √n) for a sum of n terms, u
the unit roundoff (Higham 2002, section 2.2; √n because roundings are independent, ibid. section 2.8); where the operands
of products are rounded further, to TF32 or bfloat16, 2u of that format more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from exp.seeds import Generator
from exp.verification.reference import Tensor

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

    @property
    def largest(self) -> float:
        """A quarter of the largest number, beyond which sums may overflow; and far below that of float64, whose squares may."""
        return min(float(np.finfo(self.dtype).max) / 4, 1e100)

    def summed(self, terms: int) -> float:
        """δ of a sum of `terms` terms in the precision of the storage."""
        return self.storage * max(8.0, sqrt(terms))

    def product(self, terms: int) -> float:
        """δ of the products of a step whose longest sum has `terms` terms."""
        return self.summed(terms) + 2 * OPERANDS.get(self.precision, 0.0)


class Uniform:
    """Relative errors δξ with independent ξ, uniform in (−1, 1): `reference.Noise`."""

    def __init__(self, generator: Generator, arithmetic: Arithmetic):
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
        """What an update rule reads or writes, element by element; counts are as they are."""
        if not value.is_floating_point():
            return value
        return value * self._draw(value, self._arithmetic.summed(1)).add_(1)

    def correction(self, betas: Sequence[float], count: int) -> float:
        """A factor 1 + δξ of Adam's bias corrections at update `count`.

        They divide by 1 − βᵗ, which `torch.optim` too computes as such: in float64, whose roundoff counts 1 / (1 − βᵗ) times.
        """
        delta = self._arithmetic.summed(1)
        for beta, power in zip(betas, (1.0, 0.5), strict=True):
            delta += power * STORAGE["float64"] / (1 - beta ** max(count, 1))
        return 1 + delta * float(self._generator.uniform(-1, 1))

    def _draw(self, like: Tensor, delta: float) -> Tensor:
        import torch

        drawn = torch.from_numpy(np.asarray(self._generator.random(tuple(like.shape), dtype=np.float32)))
        return drawn.to(like.dtype).sub_(0.5).mul_(2 * delta)
