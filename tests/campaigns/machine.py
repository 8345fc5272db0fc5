"""On what a campaign was measured, as its printed result states it."""

import os
import platform
from datetime import date
from importlib.metadata import version

from exp.environment import processor


def machine(threads: str) -> str:
    """Processor, threads, GPU where there is one, versions and date in one line; no names of hosts or folders."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, {threads}{gpu}; Python {platform.python_version()}, {versions}; {date.today()}"
