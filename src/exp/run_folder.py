"""The run folder: the truth about a run. Everything else, MLflow too, is told from it.

config.yaml          the resolved configuration
status.json          name, status, choices, digests, metrics, where it is tracked; replaced as a whole
curve.npz            `train/loss` of every step, `valid/…`, with times
environment.json     versions, hardware, libraries, commit
problem.json         what turns the user's units into the network's
initial.safetensors, final.safetensors    the state, by canonical names
error.txt            the traceback of a run that failed
benchmark.json       of task=benchmark: every timed block with its times, in which order, and the ceilings
verdict.json, kit.txt    what reference and kit say of the method: of task=verify, and where training.verify=true
tracking.json        what the tracking server already has (kept by the uploader)
.lock                locked while the run is alive, and touched: a heartbeat for where locks do not reach
.owners              of a sweep: locked by all who work on it
"""

import fcntl
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from exp.errors import InputError
from exp.state import State

_LOADER, _DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml where PyYAML was built with it: ten times as fast, and a sweep has hundreds of configurations."""

SWEEPS = "sweeps"
"""The folder of the sweeps, under that of the runs."""

_LOOKS, EXPIRES_SECONDS = 3, 60.0
"""At a lock; and so long without a heartbeat, a run on another machine is taken for dead."""


class RunFolder:
    """One run's folder. The process that creates it holds its lock until `release`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._lock: int | None = None

    @classmethod
    def create(cls, runs: Path | str, name: str) -> "RunFolder":
        """A new locked folder `<time>-<name>-<hex>` under `runs`. Raises `InputError` where it cannot be made."""
        plain = re.sub(r"['\"]|(?<==)\s+", "", name)  # a "-" in their place would be read as a sign
        slug = re.sub(r"[^\w.=+-]+", "-", plain, flags=re.ASCII).strip("-.")[:60] or "run"
        path = Path(runs) / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(3)}"
        try:
            path.mkdir(parents=True)
            folder = cls(path)
            folder._lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise _unwritable(runs, error) from None
        fcntl.flock(folder._lock, fcntl.LOCK_EX)
        os.write(folder._lock, socket.gethostname().encode())
        return folder

    def share(self) -> None:
        """Hold the folder together with other processes, until `release`: it is alive as long as one of them is."""
        shared = os.open(self.path / ".owners", os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(shared, fcntl.LOCK_SH)
        self.release()
        self._lock = shared

    def release(self) -> None:
        """The run is over: its lock is free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock by this object."""
        return self._lock is not None

    @property
    def abandoned(self) -> bool:
        """Whether it says RUNNING though its process is gone; asked twice, for meanwhile it may have ended well."""
        return self.status().get("status") == "RUNNING" and not self.alive and self.status().get("status") == "RUNNING"

    def beat(self) -> None:
        """Say that the run is alive, to machines that do not see its lock."""
        with suppress(OSError):
            os.utime(self.path / ".lock")

    @property
    def alive(self) -> bool:
        """Whether a process holds the lock; of another machine's run, whose lock may not reach here, its heartbeat tells."""
        if (self.path / ".owners").exists():
            return _locked(self.path / ".owners", fcntl.LOCK_EX)
        return _locked(self.path / ".lock", fcntl.LOCK_SH) or self._beats_elsewhere()

    def _beats_elsewhere(self) -> bool:
        lock = self.path / ".lock"
        try:
            if lock.read_text() in ("", socket.gethostname()):
                return False
            with tempfile.TemporaryFile(dir=self.path) as now:  # the file system's own clock
                return os.fstat(now.fileno()).st_mtime - lock.stat().st_mtime < EXPIRES_SECONDS
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        """The content of status.json; empty for a folder that has none (yet)."""
        return _read_json(self.path / "status.json")

    def update_status(self, **changes: Any) -> dict[str, Any]:
        """Replace status.json with these changes; returns it."""
        status = self.status() | changes
        self._replace("status.json", json.dumps(status, indent=2).encode())
        return status

    def revise(self, **changes: Any) -> None:
        """Change the status of what the store may have already: the next upload brings it up to date."""
        self.update_status(**changes, revision=self.status().get("revision", 0) + 1)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=2).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        return _read_json(self.path / name)

    def write_text(self, name: str, text: str) -> None:
        self._replace(name, text.encode())

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._replace("config.yaml", yaml.dump(dict(config), Dumper=_DUMPER, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty for a sweep, which has many."""
        file = self.path / "config.yaml"
        return yaml.load(file.read_bytes(), Loader=_LOADER) if file.exists() else {}

    def write_curve(self, arrays: Mapping[str, np.ndarray]) -> None:
        unfinished = self.path / ".curve.npz"
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        unfinished.replace(self.path / "curve.npz")

    def curve(self) -> dict[str, np.ndarray]:
        """The arrays of curve.npz; empty before the first was written."""
        try:
            with np.load(self.path / "curve.npz", allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except FileNotFoundError:
            return {}

    def curve_changed(self) -> float:
        """When curve.npz was written last, in Unix seconds; 0 before the first time."""
        file = self.path / "curve.npz"
        return file.stat().st_mtime if file.exists() else 0.0

    def write_state(self, name: str, state: State) -> None:
        """`name` is "initial" or "final"."""
        from safetensors.numpy import save

        self._replace(f"{name}.safetensors", save({key: np.array(array, order="C") for key, array in state.named().items()}))

    def state(self, name: str) -> State | None:
        """The state called `name`; None where the run left none (it blew up, or did not finish)."""
        from safetensors.numpy import load_file

        path = self.path / f"{name}.safetensors"
        return State.from_named(load_file(path)) if path.exists() else None

    def _replace(self, name: str, content: bytes) -> None:
        unfinished = self.path / f".{name}.{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.replace(self.path / name)


class Verdicts:
    """Verdicts remembered under `runs`/.verdicts, by the hash of what they depend on."""

    def __init__(self, runs: Path | str):
        self._folder = Path(runs) / ".verdicts"

    def read(self, key: str) -> dict[str, Any] | None:
        return _read_json(self._folder / f"{key}.json") or None

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        RunFolder(self._folder).write_json(f"{key}.json", content)


def _locked(file: Path, how: int) -> bool:
    """Whether another process keeps this one from locking the file. Shared, two that only look do not see each other."""
    try:
        lock = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        for _ in range(_LOOKS):
            with suppress(BlockingIOError):
                fcntl.flock(lock, how | fcntl.LOCK_NB)
                return False
            time.sleep(0.01)  # perhaps it is only another that looks
    finally:
        os.close(lock)
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_folders(runs: Path | str) -> list[RunFolder]:
    """The run folders under `runs`, oldest first."""
    runs = Path(runs)
    folders = [RunFolder(path) for path in sorted(runs.iterdir())] if runs.is_dir() else []
    statuses = [(folder.status(), folder) for folder in folders]
    return [folder for status, folder in sorted(statuses, key=lambda pair: pair[0].get("started", 0.0)) if status]


def mark_killed(runs: Path | str) -> list[RunFolder]:
    """Runs and sweeps that still say RUNNING but whose process is gone are KILLED from now on; returns them."""
    killed = []
    for folder in [*run_folders(runs), *run_folders(Path(runs) / SWEEPS)]:
        if folder.abandoned:
            folder.revise(status="KILLED", ended=time.time(), died=True)
            killed.append(folder)
    return killed


def require_writable(runs: Path | str) -> None:
    """Raise `InputError` unless run folders can be made under `runs`; makes nothing."""
    existing = Path(runs).absolute()
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.is_dir():
        raise InputError("runs", runs, f"{existing} is not a folder; give another with runs=…")
    try:
        _require_writable(existing, *existing.stat()[:2])
    except OSError as error:
        raise _unwritable(runs, error) from None


@cache  # of a sweep every run asks
def _require_writable(folder: Path, mode: int, inode: int) -> None:
    tempfile.TemporaryDirectory(dir=folder).cleanup()  # the only honest test: makes a folder and removes it


def _unwritable(runs: Path | str, error: OSError) -> InputError:
    return InputError("runs", runs, f"cannot be written ({error.strerror}); give another folder with runs=…")
