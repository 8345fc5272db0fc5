"""What is kept of a sweep: `runs`/sweeps/<time>-sweep-<hex>, a folder as a run has one; and which runs belong to it.

status.json of a sweep     task "sweep", status, `command` (the words that were typed)
plan.json                  `factors`: the keys whose values differ; `runs`: key, name, factors, overrides of each
status.json of its runs    `sweep`: the sweep that executed it, `sweeps`: others that reuse it, `key`: which run of a plan it
                           is, `factors`: key to value, `superseded`: an attempt that another one has replaced
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.errors import InputError, listed, nearest
from exp.run_folder import SWEEPS, RunFolder, run_folders

LATEST = "latest"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep's plan, and its folder once it has begun."""

    name: str
    factors: dict[str, Any]
    overrides: list[str]
    folder: RunFolder | None
    status: dict[str, Any]


KILLED, UNSTARTED = "killed", "unstarted"
"""What runs are told: to end at once; or not to begin."""


@dataclass(frozen=True)
class Stop:
    """How one invocation of a sweep tells its runs, in whichever process on whichever machine, to stop."""

    sweep: Path
    invocation: str

    def tell(self, how: str) -> None:
        unfinished = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        unfinished.write_text(how)
        unfinished.replace(self._file)

    def told(self) -> str:
        """What was told; empty as long as nothing was."""
        try:
            return self._file.read_text()
        except FileNotFoundError:
            return ""

    def clear(self) -> None:
        """All its runs are over: nothing is left to be told, or to be looked up."""
        for file in (self._file, self.sweep / _orders(self.invocation)):
            file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.sweep / f".stop-{self.invocation}"


def continued(runs: Path | str, keys: list[str]) -> RunFolder | None:
    """The newest sweep all of whose runs are among `keys`: to do these runs is to go on with it, perhaps to widen it."""
    for folder in reversed(sweeps(runs)):
        planned = {entry["key"] for entry in folder.read_json("plan.json").get("runs", [])}
        if planned and planned <= set(keys):
            return folder
    return None


def write_orders(sweep: RunFolder, invocation: str, jobs: list[list[list[dict[str, Any]]]]) -> None:
    """What one invocation plans, in jobs of groups that are done together: another may write the sweep's plan meanwhile."""
    sweep.write_json(_orders(invocation), {"jobs": jobs})


def ordered(sweep: Path | str, invocation: str, overrides: list[str]) -> list[list[dict[str, Any]]]:
    """The groups of the job whose first run has these overrides, as an invocation planned it."""
    jobs = RunFolder(sweep).read_json(_orders(invocation))["jobs"]
    return next(job for job in jobs if job[0][0]["overrides"] == overrides)


def _orders(invocation: str) -> str:
    return f".runs-{invocation}.json"


def begin_sweep(folder: RunFolder, plan: dict[str, Any], **status: Any) -> None:
    """Write the plan, and that somebody works on it."""
    folder.write_json("plan.json", plan)
    begun = {"task": "sweep", "name": folder.path.name, "status": "RUNNING", "ended": None, "choices": {}, "error": None}
    now = time.time()
    folder.revise(**begun, started=folder.status().get("started", now), touched=now, **status)


def sweeps(runs: Path | str) -> list[RunFolder]:
    """The folders of the sweeps under `runs`, that which was worked on last at the end."""
    found = run_folders(Path(runs) / SWEEPS)
    return sorted(found, key=lambda folder: folder.status().get("touched", 0.0))


def new_sweep(runs: Path | str) -> RunFolder:
    """A new folder for a sweep, held by this process."""
    return RunFolder.create(Path(runs) / SWEEPS, "sweep")


def runs_of(sweep: RunFolder) -> Path:
    """The runs folder that a sweep is in."""
    return sweep.path.parent.parent


def find_sweep(runs: Path | str, name: str) -> RunFolder:
    """The sweep called `name`, or the newest for "latest". Raises `InputError` (key "sweep") where there is none."""
    found = sweeps(runs)
    if not found:
        raise InputError("sweep", name, f"there is no sweep in {runs}/ yet; python -m exp -m … makes one")
    if name == LATEST:
        return found[-1]
    for folder in found:
        if folder.path.name == name.rstrip("/").rpartition("/")[2]:
            return folder
    names = nearest(name, [folder.path.name for folder in found])
    raise InputError("sweep", name, f"no such sweep in {runs}/; choose {LATEST}, {listed(names[:3])}")


def plan_of(sweep: RunFolder) -> list[Planned]:
    """The runs of a sweep in the order of its plan, each with its latest folder and status (empty where it has not begun)."""
    name = sweep.path.name
    attempts: dict[str, tuple[RunFolder | None, dict[str, Any]]] = {}
    for folder, status in _statuses(runs_of(sweep)):
        if name in (status.get("sweep"), *status.get("sweeps", ())):
            attempts[status["key"]] = folder, status  # the latest, for they come oldest first
    found = []
    for entry in sweep.read_json("plan.json").get("runs", []):
        folder, status = attempts.get(entry["key"], (None, {}))
        found.append(Planned(entry["name"], entry["factors"], entry["overrides"], folder, status))
    return found


def attempts_of(sweep: RunFolder) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Every attempt at a run that this sweep itself has made, oldest first."""
    return [(folder, status) for folder, status in _statuses(runs_of(sweep)) if status.get("sweep") == sweep.path.name]


def _statuses(runs: Path | str) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    yield from ((folder, folder.status()) for folder in run_folders(runs))
