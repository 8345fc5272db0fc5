"""A GPU for each worker process of a sweep, round robin, without a process that hands them out."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

_held: dict[Path, tuple[int, IO[str]]] = {}
"""The slots of this process: their numbers, and the open files that lock them. The kernel frees them when it ends, however."""


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them. Leaves CUDA uninitialised."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        return [str(index) for index in range(torch.cuda.device_count())]
    gpus: list[str] = []
    for name in (part.strip() for part in named.split(",")):
        if not name or name.startswith("-") or name in gpus:
            break  # as CUDA reads it: what follows an invalid name does not count
        gpus.append(name)
    return gpus


def assign_gpu(slots: Path, visible: list[str]) -> str | None:
    """The one of `visible` that this process shall compute on, the same at every call; None where there is none.

    Every process takes the first slot that no living process of this machine holds, and keeps it until it ends; `slots` is a
    folder that they share. So the successor of a worker that died gets its GPU, and n workers are spread evenly. To be put
    into `CUDA_VISIBLE_DEVICES` before CUDA is first asked for anything.
    """
    return visible[_slot(slots) % len(visible)] if visible else None


def _slot(slots: Path) -> int:
    slots = slots.absolute()
    if slots not in _held:
        slots.mkdir(parents=True, exist_ok=True)
        number = 0
        while (file := _locked(slots / f"{socket.gethostname()}-{number}")) is None:
            number += 1
        _held[slots] = number, file
    return _held[slots][0]


def _locked(path: Path) -> IO[str] | None:
    """The file, open and locked; None where another process holds it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
