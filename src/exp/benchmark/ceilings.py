"""What this machine can do, measured in the same run, with the same library, threads, precision and device: its ceilings.

Matrix products for arithmetic and a large copy for memory: the two roofs of the roofline model (Williams, Waterman &
Patterson, Roofline: an insightful visual performance model, Communications of the ACM 52, 2009). The best of several.

A library has other kernels for other shapes, and for operands that are transposed, as they are in a step's backward pass: of
bfloat16 on a CPU one may be twenty times as fast as another. The ceiling is that of the fastest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from exp.arrays import Place, put
from exp.benchmark import clock

REPEATS, LEAST_REPEATS = 5, 2
ENOUGH_SECONDS = 0.1
"""Of repeats of one product: those that are slow are not the ceiling."""

LEAST_SECONDS = 0.01
"""Of the fastest square product: a larger one would be no faster."""

SMALLEST_PRODUCT, LARGEST_PRODUCT = 256, 8192
FLAT = (64, 1024, 1024)
"""Rows, inputs and outputs of a product as a layer has it: few rows, many weights."""

COPY_BYTES = 2**27
"""Of the array that is copied: larger than the caches that a core has for itself."""


@dataclass(frozen=True)
class Ceilings:
    """Operations a second of the fastest product, bytes a second (read and written) of a large copy."""

    operations_per_second: float
    bytes_per_second: float


def ceilings(place: Place, edge: Callable[[], None]) -> Ceilings:
    """Those of a place; `edge` waits for its device. The conditions are set by the caller."""
    rate, size = _rate(*FLAT, place, edge), SMALLEST_PRODUCT
    while True:
        square = _rate(size, size, size, place, edge)
        rate = max(rate, square)
        if 2 * size**3 / square >= LEAST_SECONDS or size >= LARGEST_PRODUCT:
            break
        size *= 2
    source = put(np.linspace(-1.0, 1.0, COPY_BYTES // np.dtype(place.dtype).itemsize), place)
    target = put(np.zeros(source.shape), place)

    def copy() -> None:
        target[...] = source

    return Ceilings(rate, 2 * COPY_BYTES / _best(copy, edge))


def _rate(rows: int, inputs: int, outputs: int, place: Place, edge: Callable[[], None]) -> float:
    """Operations a second of a product of this shape, the operands as they lie or one of them transposed."""

    def matrix(height: int, width: int) -> Any:
        return put(np.linspace(-1.0, 1.0, height * width).reshape(height, width), place)

    left, right = matrix(rows, inputs), matrix(inputs, outputs)
    other_left, other_right = matrix(inputs, rows), matrix(outputs, inputs)
    products = (lambda: left @ right, lambda: left @ other_right.T, lambda: other_left.T @ right)
    return 2 * rows * inputs * outputs / min(_best(product, edge, ENOUGH_SECONDS) for product in products)


def _best(work: Callable[[], Any], edge: Callable[[], None], enough: float = inf) -> float:
    """The least seconds of one of several; of fewer once they have taken `enough`."""
    found: list[float] = []
    while len(found) < LEAST_REPEATS or (len(found) < REPEATS and sum(found) < enough):
        edge()
        began = clock.seconds()
        work()
        edge()
        found.append(clock.seconds() - began)
    return min(found)
