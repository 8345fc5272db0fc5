"""The array library of an argument, and the way of arrays between the host and a device.

Formulas are written once, in the vocabulary that NumPy and torch share: operators, `@`, `swapaxes`, `sum(axis=…)`, and
`library(array).where`, `exp`, `log`, `tanh`, … Their leading axes are runs: a stack of K runs is one more axis in front.
"""

import importlib
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
"""A `numpy.ndarray`, a `torch.Tensor` or an array of another library; shapes stand in the docstrings."""


PINNED_BYTES = 2**24
"""Arrays up to this size go to a GPU by way of pinned memory: the host does not wait until the GPU, still busy, takes them."""


@dataclass(frozen=True)
class Place:
    """Where arrays live: the library ("numpy", "torch" or another module of the array API standard), the device as torch
    names it, the floating-point type."""

    library: str
    device: str = "cpu"
    dtype: str = "float32"


def library(array: Array) -> Any:
    """The module that `array` belongs to: `numpy`, `torch`, or what it names itself by the array API standard."""
    package = type(array).__module__.partition(".")[0]
    return sys.modules[package] if package in ("numpy", "torch") else array.__array_namespace__()


def put(values: np.ndarray, place: Place) -> Array:
    """A copy of host `values` at `place`: floating-point numbers in its type, integers as they are."""
    values = np.asarray(values)
    values = values.astype(place.dtype if values.dtype.kind == "f" else values.dtype, copy=True)
    if place.library == "numpy":
        return values
    if place.library != "torch":
        return importlib.import_module(place.library).asarray(values)
    import torch

    array = torch.from_numpy(np.ascontiguousarray(values).reshape(values.shape))
    if place.device.startswith("cuda") and values.nbytes <= PINNED_BYTES:
        with suppress(RuntimeError):  # so much cannot be pinned
            array = array.pin_memory()
        return array.to(place.device, non_blocking=True)
    return array.to(place.device)


def get(array: Array) -> np.ndarray:
    """A copy of `array` on the host. Waits for the device that computes it."""
    if type(array).__module__.startswith("torch"):
        array = array.detach().cpu()
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()  # NumPy has no bfloat16
    return np.array(array)


def stack(arrays: list[Array]) -> Array:
    """Arrays of one shape `s` as one of shape `(len(arrays), *s)`."""
    xp = library(arrays[0])
    return np.array(arrays) if xp is np else xp.stack(arrays)  # np.stack takes a microsecond for each


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Host zeros, float64."""
    return np.zeros(shape)


def cast(array: Array, like: Array) -> Array:
    """`array` in the floating-point type of `like`: `array` itself where it has it."""
    if array.dtype == like.dtype:
        return array
    return array.to(like.dtype) if library(array).__name__ == "torch" else array.astype(like.dtype)


def product(a: Array, b: Array) -> Array:
    """a @ b in the type of a: (…, N, M) and (…, M, P) to (…, N, P).

    In precision=bf16 the operands are rounded to bfloat16, and so is the product (`torch.autocast`); it is then kept in the
    type of a, so that what is done element by element is done in float32.
    """
    if a.ndim == b.ndim == 2 and isinstance(a, np.ndarray):
        return a.dot(b)  # the same product, a microsecond or two before NumPy's @ has begun
    return cast(a @ b, like=a)


def plus_scaled(a: Array, b: Array, by: Array) -> Array:
    """a + by · b, a and b of one shape, `by` a number or an array that broadcasts: one new array and nothing beside it."""
    if not isinstance(a, np.ndarray) and (xp := library(a)).__name__ == "torch":
        # not add: torch.compile (2.13) loses the alpha of what is added to a matrix product
        return xp.sub(a, b, alpha=-by) if isinstance(by, float) else xp.addcmul(a, b, by)
    scaled = by * b
    scaled += a
    return scaled


def total(array: Array) -> Array:
    """The sum over the last two axes: a number, or (K,)."""
    return array.sum() if array.ndim == 2 else array.sum(axis=(-2, -1))


def row_sums(array: Array) -> Array:
    """The sums over the last axis, kept as one of length 1: (…, N, M) to (…, N, 1)."""
    if isinstance(array, np.ndarray):
        return array @ np.ones((array.shape[-1], 1), array.dtype)  # NumPy's sum is slow where rows are short
    return array.sum(axis=-1, keepdims=True)


def row_maxima(array: Array) -> Array:
    """The maxima over the last axis, kept as one of length 1: (…, N, M) to (…, N, 1)."""
    if isinstance(array, np.ndarray):  # of all rows together: faster than one after the other, which are short
        columns = np.ascontiguousarray(array.reshape(-1, array.shape[-1]).T)
        return columns.max(axis=0).reshape(*array.shape[:-1], 1)
    return library(array).amax(array, axis=-1, keepdims=True)


def positive_part(z: Array) -> Array:
    """z where z > 0, else 0; NaN stays NaN. Where autograd asks, its derivative at 0 is 0."""
    if isinstance(z, np.ndarray):
        return np.maximum(z, 0)
    xp = library(z)
    return xp.relu(z) if xp.__name__ == "torch" else xp.where(z <= 0, 0, z)


def where_positive(z: Array, array: Array) -> Array:
    """`array` where z > 0, else 0; `array` where z is NaN. In NumPy an infinite entry of `array` becomes NaN where z <= 0."""
    if isinstance(z, np.ndarray):
        negative = z <= 0
        return array * np.logical_not(negative, out=negative)  # a product is up to ten times as fast as np.where
    xp = library(z)
    if xp.__name__ == "torch":  # one pass, where a comparison and a choice are two
        return xp.ops.aten.threshold_backward(array, z, 0)
    return xp.where(z <= 0, 0, array)


def per_run(value: Array, array: Array) -> Array:
    """A value of each run, (K,), shaped (K, 1, …, 1) to broadcast against `array`, (K, …). One number stays as it is."""
    runs = getattr(value, "shape", ())
    return value.reshape(tuple(runs) + (1,) * (array.ndim - 1)) if len(runs) else value


def gather(array: Array, rows: Array) -> Array:
    """The `rows`, (B,) or (K, B), of `array`, (N, D) or (K, N, D): (B, D), or (K, B, D) where either has K."""
    xp = library(array)
    if array.ndim == 2 or rows.ndim == 1:
        if xp.__name__ != "torch":
            return xp.take(array, rows, axis=-2)
        taken = xp.index_select(array, -2, rows.reshape(-1))
        return taken if rows.ndim == 1 else taken.reshape(*rows.shape, -1)
    take = xp.take_along_dim if xp.__name__ == "torch" else xp.take_along_axis
    return take(array, rows[..., None], -2)
