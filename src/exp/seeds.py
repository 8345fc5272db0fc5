"""Random streams on the host: everything random comes from here, by NumPy, from a seed; never from a device."""

import hashlib
from collections.abc import Mapping

import numpy as np

Generator = np.random.Generator

STREAMS = ("problem", "split", "network", "training", "verification", "benchmark")


def generator(seed: int, stream: str, *path: int) -> Generator:
    """The generator of one stream: independent for each `stream` and `path` (a layer, an epoch) of the same `seed`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), *path))
    return Generator(np.random.PCG64(sequence))


def unforeseen() -> Generator:
    """A generator that nobody can repeat: it chooses what is looked at, never what is computed."""
    return Generator(np.random.PCG64())


def digest(arrays: Mapping[str, np.ndarray | None]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of host arrays, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        if (array := arrays[name]) is not None:
            sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
