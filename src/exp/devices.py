"""Devices: which there are, and why one is absent."""

import abc
from dataclasses import dataclass
from typing import ClassVar

from exp.errors import require


@dataclass(kw_only=True)
class Device(abc.ABC):
    """A device; `name` as the configuration calls it."""

    name: ClassVar[str]

    @property
    def torch_name(self) -> str:
        """The device as torch names it."""
        return self.name

    @abc.abstractmethod
    def absent(self) -> str | None:
        """Why this machine has no such device, in a sentence that names what would do; None where it has one."""


@dataclass(kw_only=True)
class Auto(Device):
    """The best device that the method supports: cuda, else mps, else cpu. Resolved before the run, recorded as resolved."""

    name = "auto"

    def absent(self) -> str | None:
        return None

    def candidates(self, library: str) -> list[Device]:
        """What may be chosen, best first. NumPy has the CPU alone, so that no torch is imported to find out."""
        return [Cpu()] if library == "numpy" else [Cuda(), Mps(), Cpu()]


@dataclass(kw_only=True)
class Cpu(Device):
    """The host's processor."""

    name = "cpu"

    def absent(self) -> str | None:
        return None


@dataclass(kw_only=True)
class Cuda(Device):
    """An NVIDIA (or, in torch built for ROCm, AMD) GPU."""

    name = "cuda"

    index: int = 0

    def __post_init__(self) -> None:
        require(self.index >= 0, "index", self.index, "0 for the first GPU, 1 for the second, …")

    @property
    def torch_name(self) -> str:
        return f"cuda:{self.index}"

    def absent(self) -> str | None:
        import torch

        if torch.version.cuda is None and torch.version.hip is None:
            return f"torch {torch.__version__} is built for the CPU only; use device=cpu, or install a CUDA build of torch"
        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no driver or no GPU (does nvidia-smi list one?); use device=cpu"
        if self.index >= (count := torch.cuda.device_count()):
            found = "device.index=0" if count == 1 else f"device.index=0 to {count - 1}"
            return f"there is no GPU of index {self.index}; use {found}"
        return None


@dataclass(kw_only=True)
class Mps(Device):
    """The GPU of an Apple machine."""

    name = "mps"

    def absent(self) -> str | None:
        import torch

        if not torch.backends.mps.is_built():
            return f"torch {torch.__version__} is built without Apple's Metal; use device=cpu"
        if not torch.backends.mps.is_available():
            return "this machine has no Metal GPU; use device=cpu"
        return None
