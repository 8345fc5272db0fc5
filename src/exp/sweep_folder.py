"""What is kept of a sweep: a run folder of its own, with the plan; and which runs belong to it.

status.json of a sweep     task "sweep", status, `command` (the words that were typed)
plan.json                  `factors`: the keys whose values differ; `runs`: key, name, factors, overrides of each
status.json of its runs    `sweep`: the sweep that executed it, `sweeps`: others that reuse it, `key`: which run of a plan it
                           is, `factors`: key to value, `superseded`: an attempt that another one has replaced
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.errors import MISSING, InputError, listed, nearest
from exp.run_folder import RunFolder, run_folders

LATEST = "latest"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep's plan, and its folder once it has begun."""

    name: str
    factors: dict[str, Any]
    overrides: list[str]
    folder: RunFolder | None
    status: dict[str, Any]


def sweeps(runs: Path | str) -> list[RunFolder]:
    """The folders of the sweeps under `runs`, oldest first."""
    return [folder for folder, status in _statuses(runs) if status.get("task") == "sweep"]


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
    latest: dict[str, tuple[RunFolder, dict[str, Any]]] = {}
    for folder, status in _statuses(sweep.path.parent):
        if name in (status.get("sweep"), *status.get("sweeps", ())) and not status.get("superseded"):
            latest[status["key"]] = folder, status
    entries = sweep.read_json("plan.json").get("runs", [])
    found = [(entry, *latest.get(entry["key"], (None, {}))) for entry in entries]
    return [Planned(entry["name"], entry["factors"], entry["overrides"], *rest) for entry, *rest in found]


def _statuses(runs: Path | str) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    yield from ((folder, folder.status()) for folder in run_folders(runs))
