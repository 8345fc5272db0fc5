"""Precisions: the floating-point type that numbers are kept in, and the one that products round their operands to."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class Precision:
    """`name` as the configuration calls it.

    `dtype`, as NumPy and torch name it, is the type of data, weights, slots, losses and everything done element by element;
    `operands` the one that matrix products round their operands to: "float32", "float64", "tfloat32" or "bfloat16".
    """

    name: ClassVar[str]
    dtype: ClassVar[str]
    operands: ClassVar[str]

    def absent(self, device: str) -> str | None:
        """Why `device`, as torch names it, does not compute so, in a sentence that names what would do; None where it does."""
        return None


@dataclass(kw_only=True)
class FP32(Precision):
    """IEEE single precision throughout; TF32 is off."""

    name, dtype, operands = "fp32", "float32", "float32"


@dataclass(kw_only=True)
class FP64(Precision):
    """IEEE double precision throughout."""

    name, dtype, operands = "fp64", "float64", "float64"


@dataclass(kw_only=True)
class TF32(Precision):
    """The operands of products are rounded to 10 bits behind the point, all else is float32: a mode of NVIDIA GPUs."""

    name, dtype, operands = "tf32", "float32", "tfloat32"

    def absent(self, device: str) -> str | None:
        if not device.startswith("cuda"):
            return None
        import torch

        if torch.version.hip is not None:
            return "TF32 is a mode of NVIDIA GPUs, and this torch is built for AMD's; use precision=fp32"
        return _older_than_ampere(device, "TF32")


@dataclass(kw_only=True)
class BF16(Precision):
    """Products in bfloat16, as in `torch.autocast`: operands and results are rounded to 7 bits behind the point.

    Loss, weights and updates are float32; activations too, but for `method=module`, whose layers pass bfloat16 on.
    """

    name, dtype, operands = "bf16", "float32", "bfloat16"

    def absent(self, device: str) -> str | None:
        if device.startswith("cpu"):
            return None
        import torch

        if device.startswith("mps") and not torch.backends.mps.is_macos_or_newer(14, 0):
            return "bfloat16 on mps needs macOS 14; use precision=fp32, or device=cpu"
        if device.startswith("cuda") and torch.version.hip is None:
            return _older_than_ampere(device, "bfloat16")
        return None


def _older_than_ampere(device: str, what: str) -> str | None:
    import torch

    if torch.cuda.get_device_capability(device) >= (8, 0):
        return None
    return f"{torch.cuda.get_device_name(device)} has no {what}, which NVIDIA GPUs have since Ampere; use precision=fp32"
