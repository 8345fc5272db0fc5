"""The environment of a run: versions, hardware, libraries, commits."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController


def environment(torch_device: str | None) -> dict[str, Any]:
    """What a reader needs to judge or repeat a run. `torch_device` is None for a run that uses no torch."""
    packages = ("exp", "hydra-core", "numpy", "torch", "mlflow") if torch_device else ("exp", "hydra-core", "numpy", "mlflow")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": cores(),
        "gpu": _gpu(torch_device),
        "blas": [_library(pool) for pool in thread_pools().info()],
        "git": _git(Path.cwd()),
        "git_of_exp": _git(Path(__file__).parent),
        "command": ["python", "-m", "exp", *sys.argv[1:]] if sys.argv[0].endswith("__main__.py") else sys.argv,
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library(pool: dict[str, Any]) -> dict[str, Any]:
    return {key: pool.get(key) for key in ("user_api", "internal_api", "version", "architecture")}


def thread_pools() -> ThreadpoolController:
    """The loaded libraries with threads of their own. They are looked for again when more has been imported."""
    return _thread_pools(len(sys.modules))


@cache
def _thread_pools(modules: int) -> ThreadpoolController:
    return ThreadpoolController()


@cache
def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu(torch_device: str | None) -> dict[str, Any] | None:
    if torch_device is None or not torch_device.startswith("cuda"):
        return None
    import torch

    properties = torch.cuda.get_device_properties(torch_device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }


def packages(library: str) -> list[str]:
    """The packages whose versions can change what is computed with `library`. The reference needs torch in any case."""
    return list(dict.fromkeys(["exp", "numpy", "torch", library.partition(".")[0]]))


@cache
def version(package: str) -> str:
    """The installed version of a package."""
    return importlib.metadata.version(package)


@cache  # what was imported from there does not change with it
def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and dirtiness (of tracked files) of the repository around `folder`; None outside one."""
    words = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    try:
        told = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = told.splitlines()
    commits = [line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")]
    if commits == ["(initial)"] or not commits:  # no commit yet
        return None
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in lines)}
