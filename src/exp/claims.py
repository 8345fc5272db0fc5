"""Who executes which run of a sweep: at most one process at a time, and nobody what is done already.

`runs`/.claims/<key> holds the name of the folder of the run's latest attempt; a lock is held for as long as it is looked up
and changed. Whether that attempt is still alive its own lock says, or its heartbeat: a dead owner's claim expires by itself.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.run_folder import RunFolder


@dataclass(frozen=True)
class Claim:
    """The right to do one run of a sweep: its folder, and whether this process uploads what it does."""

    folder: RunFolder
    uploads: bool


_held: list[RunFolder] = []


def at_work() -> list[RunFolder]:
    """The runs that this process has claimed and still holds."""
    return [folder for folder in _held if folder.held]


class Claims:
    """The claims under a runs folder."""

    def __init__(self, runs: Path | str):
        self._runs = Path(runs)
        self._folder = self._runs / ".claims"

    def latest(self, key: str) -> RunFolder | None:
        """The folder of the latest attempt at a run; None before the first, or where its folder was removed."""
        try:
            folder = RunFolder(self._runs / (self._folder / key).read_text())
        except FileNotFoundError:
            return None
        return folder if folder.path.is_dir() else None

    def take(self, key: str, begun: dict[str, Any], again: Callable[[dict[str, Any]], bool]) -> RunFolder | None:
        """A new folder for the run, held by this process, its status `begun`; None where another process is faster.

        `again` says of the status of an attempt that is over whether the run is to be done once more.
        """
        with self.alone():
            last = self.latest(key)
            if last is not None and last.status() and not last.abandoned:
                status = last.status()
                if status["status"] == "RUNNING" or not again(status):
                    return None
            folder = RunFolder.create(self._runs, begun["name"])
            _held[:] = [*at_work(), folder]  # before it says that it runs: who is interrupted from now on has to end it
            folder.update_status(**begun)
            unfinished = self._folder / f".{key}"
            unfinished.write_text(folder.path.name)
            unfinished.replace(self._folder / key)
        return folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile no other process claims a run, or opens a sweep."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
