"""A sweep: every combination of what was typed, checked first, then trained one after the other, compared at the end."""

import secrets
import time
from dataclasses import dataclass
from math import inf
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
from exp.summary import cell, valid_columns
from exp.tasks.train import record
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
    if shared := next((key for key in swept if key == "runs" or key.partition(".")[0] == "tracker"), None):
        raise InputError(shared, MISSING, "cannot be swept; the runs of a sweep share one folder and one tracker")
    supported, skipped = _planned(combinations, swept)
    report = Report()
    for name, reason in skipped:
        report.say(f"skipped {name}: {reason}")
    if not supported:
        raise InputError("sweep", f"{len(combinations)} combinations", "none of them can run here; the reasons stand above")
    first = next(iter(supported.values()))[0]
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    report.say(f"sweep {name}: {len(supported)} run{'s' * (len(supported) > 1)}")
    if first.tracker.address():
        shared_uploader()
    mark_killed(first.runs)
    palette = colours([experiment.choices["method"] for experiment, _ in supported.values()])
    folders = []
    for number, ((title, (experiment, data)), colour) in enumerate(zip(supported.items(), palette, strict=True), start=1):
        experiment.name = f"{experiment.name} {title}" if experiment.config["name"] else title
        line = Report(title=f"{number}/{len(supported)} {title}")
        line.begin(experiment, data)
        folders.append(record(experiment, data, line, sweep=name, colour=colour))
    return _compared(first, folders, name, swept, report)


Planned = dict[str, tuple[Experiment, Data]]


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
        if not task.trains:
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
        supported[title] = experiment, data
    return supported, skipped


def _compared(first: Experiment, folders: list[RunFolder], name: str, swept: list[str], report: Report) -> int:
    """Print the ranked table, save the view, say where to look."""
    statuses = [folder.status() for folder in folders]
    finished = [status for status in statuses if status["status"] == "FINISHED"]
    failed = [status for status in statuses if status["status"] == "FAILED"]
    valid = valid_columns(finished)
    columns = ["run", "device", "precision", "first loss", "final loss", *valid, "seconds"]
    rows = [[status["name"], *[cell(status, column) for column in columns[1:]]] for status in _ranked(finished, valid)]
    if rows:
        report.table(columns, rows)
    for status in failed:
        report.say(f"failed {status['name']}: {status['error']}")
    address = first.tracker.address()
    metrics = [f"final/{column.replace(' ', '_')}" for column in valid] + ["final/loss", "time/train_seconds"]
    params = [key.lstrip("+") for key in swept]
    view = address and {**address, "sweep": name, "params": params, "metrics": metrics, "runs": len(folders)}
    for line in follow_up(first, folders, view or None):
        report.say(line)
    return 3 if failed else 0


def _ranked(statuses: list[dict[str, Any]], valid: list[str]) -> list[dict[str, Any]]:
    """Best first: by the validation metric where there is one, else by the final loss; what blew up comes last."""

    def rank(status: dict[str, Any]) -> tuple[bool, float]:
        metrics = status.get("metrics", {})
        name, sign = (f"final/{valid[0].replace(' ', '_')}", -1) if valid else ("final/loss", 1)
        score = sign * metrics[name] if name in metrics else inf
        return status.get("blew_up_at_step") is not None, score

    return sorted(statuses, key=rank)
