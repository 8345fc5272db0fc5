"""On what a campaign was measured, as its printed result states it."""

import os
import platform
from datetime import date
from importlib.metadata import version

from exp.environment import processor


def machine(threads: str) -> str:
    """Processor, threads, versions and date in one line; no names of hosts or folders."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, {threads}; Python {platform.python_version()}, {versions}; {date.today()}"
