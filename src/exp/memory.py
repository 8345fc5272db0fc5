"""The greatest memory that a run took beyond what its process held before: a sweep's runs share one process.

On the host the kernel counts: writing 5 to /proc/self/clear_refs sets the greatest resident size (VmHWM) back to the present
one (VmRSS), see proc_pid_clear_refs(5). The pages of libraries that are read in meanwhile (RssFile) are taken off: they are no
memory of the run. Where that cannot be done, nothing is said. On a GPU torch counts what it allocates.
"""

import ctypes
import gc
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RESET_PEAK = "5"


def measured(torch_device: str | None) -> Callable[[], dict[str, float]]:
    """Begin to measure; the function that is returned gives `memory/host_bytes` and on a GPU `memory/device_bytes`.

    `torch_device` is None for a run that uses no torch. What a library sets up once belongs to the first run that needs it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed would be taken again uncounted
    before = _reset()
    device = torch_device if torch_device and torch_device.startswith("cuda") else None
    on_device = _device_reset(device) if device else 0

    def taken() -> dict[str, float]:
        found: dict[str, float] = {}
        if before is not None and (now := _status()):
            found["memory/host_bytes"] = float(max(now["VmHWM"] - now["RssFile"] - before, 0))
        if device:
            import torch

            found["memory/device_bytes"] = float(torch.cuda.max_memory_allocated(device) - on_device)
        return found

    return taken


def free_bytes(torch_device: str) -> int | None:
    """What is free on a device, "auto" and "cpu" being the host; None where it is not told."""
    if torch_device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch_device)[0]
    if torch_device.startswith("mps"):
        return None
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def release(torch_device: str) -> None:
    """Let go of what a program that did not fit has left."""
    gc.collect()
    if torch_device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _reset() -> int | None:
    """Forget the peak so far; returns the bytes held now, files aside. None where this system cannot do that."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return None
    now = _status()
    return now["VmRSS"] - now["RssFile"] if now else None


def _status() -> dict[str, int] | None:
    """VmHWM, VmRSS and RssFile (the pages of mapped files, such as libraries) in bytes; None where one is not told."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = dict(re.findall(r"^(VmHWM|VmRSS|RssFile):\s*(\d+) kB", text, re.MULTILINE))
    return {name: int(value) * 1024 for name, value in found.items()} if len(found) == 3 else None


def _device_reset(device: str) -> int:
    """Forget the peak of the device; returns the bytes that are allocated now."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
