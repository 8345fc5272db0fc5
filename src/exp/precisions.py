"""Precisions: the floating-point type of data, weights and arithmetic."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class Precision:
    """`name` as the configuration calls it, `dtype` as NumPy and torch do."""

    name: ClassVar[str]
    dtype: ClassVar[str]


@dataclass(kw_only=True)
class FP32(Precision):
    """IEEE single precision throughout; TF32 is off."""

    name, dtype = "fp32", "float32"


@dataclass(kw_only=True)
class FP64(Precision):
    """IEEE double precision throughout."""

    name, dtype = "fp64", "float64"
