"""A sweep: every combination of what was typed, checked first, then trained one after the other, compared at the end."""

import time
from dataclasses import dataclass
from typing import Any

from exp.colours import colours
from exp.config_errors import as_typed
from exp.configuration import instantiate
from exp.errors import MISSING, InputError
from exp.experiment import Experiment, Unsupported
from exp.naming import labels
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import RunTask
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader


@dataclass(frozen=True)
class Combination:
    """One composed configuration of a sweep, the choices of its groups, and its overrides."""

    config: Any
    choices: dict[str, Any]
    overrides: list[str]


def sweep(combinations: list[Combination], swept: list[str]) -> int:
    """Train all combinations; `swept` are the keys with several values. Returns the exit code.

    Raises `InputError`, before anything is created, if one of them is invalid or none can run here.
    """
    if shared := next((key for key in swept if key in ("runs", "task") or key.partition(".")[0] == "tracker"), None):
        raise InputError(shared, MISSING, "cannot be swept; the runs of a sweep share one folder, one tracker and one task")
    supported, skipped = _planned(combinations, swept)
    report = Report()
    for name, reason in skipped:
        report.say(f"skipped {name}: {reason}")
    if not supported:
        raise InputError("sweep", f"{len(combinations)} combinations", "none of them can run here; the reasons stand above")
    first, task, _ = next(iter(supported.values()))
    sweep_folder = RunFolder.create(first.runs, "sweep")
    name = sweep_folder.path.name
    plan = [
        {"key": title, "name": title, "factors": _factors(experiment, swept), "overrides": []}
        for title, (experiment, _, _) in supported.items()
    ]
    sweep_folder.write_json("plan.json", {"factors": swept, "runs": plan})
    sweep_folder.update_status(task="sweep", name=name, status="RUNNING", started=time.time(), ended=None, choices={})
    report.say(f"sweep {name}: {len(supported)} run{'s' * (len(supported) > 1)}")
    if first.tracker.address():
        shared_uploader()
    mark_killed(first.runs)
    palette = colours([experiment.choices["method"] for experiment, _, _ in supported.values()])
    folders = []
    for number, ((title, (experiment, task, data)), colour) in enumerate(zip(supported.items(), palette, strict=True), start=1):
        experiment.name = f"{experiment.name} {title}" if experiment.config["name"] else title
        line = Report(title=f"{number}/{len(supported)} {title}")
        line.begin(experiment, data)
        also = {"key": title, "factors": _factors(experiment, swept)}
        folders.append(task.record(experiment, data, line, sweep=name, colour=colour, **also))
    sweep_folder.update_status(status="FINISHED", ended=time.time())
    sweep_folder.release()
    return _compared(first, task, folders, name, swept, report)


def _factors(experiment: Experiment, swept: list[str]) -> dict[str, Any]:
    """The value of each swept key: a choice by its name."""
    found = {}
    for key in swept:
        node: Any = experiment.choices.get(key, experiment.config)
        for part in key.split(".") if isinstance(node, dict) else ():
            node = node.get(part) if isinstance(node, dict) else None
        found[key] = node
    return found


Planned = dict[str, tuple[Experiment, RunTask, Data]]


def _planned(combinations: list[Combination], swept: list[str]) -> tuple[Planned, list[tuple[str, str]]]:
    """The experiments that can run, by name, with their data, and the names and reasons of those that cannot.

    Runs of one problem share its data. Invalid combinations raise.
    """
    supported: Planned = {}
    loaded: dict[str, Data] = {}
    skipped = []
    for combination in combinations:
        differing = [override for override in combination.overrides if override.lstrip("+").partition("=")[0] in swept]
        title = " ".join(labels(differing, swept)) or " ".join(labels(combination.overrides)) or combination.choices["method"]
        experiment, task = instantiate(combination.config, combination.choices, combination.overrides)
        if not isinstance(task, RunTask):
            raise InputError("task", combination.choices["task"], "cannot be swept; leave -m out")
        try:
            with as_typed(combination.overrides):
                problem = repr(experiment.problem)
                loaded[problem] = data = experiment.check(loaded.get(problem))
        except Unsupported as reason:
            skipped.append((title, reason.problem))
            continue
        if title in supported:
            raise InputError("sweep", title, "stands for two runs; give every combination once")
        supported[title] = experiment, task, data
    return supported, skipped


def _compared(first: Experiment, task: RunTask, folders: list[RunFolder], name: str, swept: list[str], report: Report) -> int:
    """Print the ranked table, save the view, say where to look."""
    statuses = [folder.status() for folder in folders]
    finished = [status for status in statuses if status["status"] == "FINISHED"]
    failed = [status for status in statuses if status["status"] == "FAILED"]
    table = task.table(finished, ("run",))
    if table.rows:
        report.table(table.columns, table.rows)
    for line in [*table.notes, *(f"failed {status['name']}: {status['error']}" for status in failed)]:
        report.say(line)
    address = first.tracker.address()
    params = [key.lstrip("+") for key in swept]
    view = address and {**address, "sweep": name, "params": params, "metrics": table.metrics, "runs": len(folders)}
    for line in follow_up(first, folders, view or None):
        report.say(line)
    return task.exit_code(finished) or (3 if failed else 0)
