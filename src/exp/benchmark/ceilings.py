"""What this machine can do, measured in the same run, with the same library, threads, precision and device: its ceilings.

A large matrix product for arithmetic and a large copy for memory: the two roofs of the roofline model (Williams, Waterman &
Patterson, Roofline: an insightful visual performance model, Communications of the ACM 52, 2009). The best of several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from exp.arrays import Place, put
from exp.benchmark import clock

REPEATS = 5
LEAST_SECONDS = 0.01
SMALLEST_PRODUCT, LARGEST_PRODUCT = 512, 8192
COPY_BYTES = 2**27
"""Of the array that is copied: larger than the caches that a core has for itself."""


@dataclass(frozen=True)
class Ceilings:
    """Operations a second of a large product, bytes a second (read and written) of a large copy."""

    operations_per_second: float
    bytes_per_second: float


def ceilings(place: Place, edge: Callable[[], None]) -> Ceilings:
    """Those of a place; `edge` waits for its device. The conditions are set by the caller."""
    size = SMALLEST_PRODUCT
    while True:
        values = put(np.linspace(-1.0, 1.0, size * size).reshape(size, size), place)
        best = _best(lambda square=values: square @ square, edge)
        if best >= LEAST_SECONDS or size == LARGEST_PRODUCT:
            break
        size *= 2
    source = put(np.linspace(-1.0, 1.0, COPY_BYTES // np.dtype(place.dtype).itemsize), place)
    target = put(np.zeros(source.shape), place)

    def copy() -> None:
        target[...] = source

    return Ceilings(2 * size**3 / best, 2 * COPY_BYTES / _best(copy, edge))


def _best(work: Callable[[], Any], edge: Callable[[], None]) -> float:
    """The least seconds of one of several."""
    found = []
    for _ in range(REPEATS):
        edge()
        began = clock.seconds()
        work()
        edge()
        found.append(clock.seconds() - began)
    return min(found)
