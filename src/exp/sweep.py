"""A sweep: every combination of what was typed, checked first, then trained one after the other, compared at the end."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from exp.colours import colours
from exp.config_errors import as_typed
from exp.configuration import instantiate
from exp.errors import InputError
from exp.experiment import Experiment, Unsupported
from exp.naming import labels
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.train import record, status_cell, valid_columns
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
    supported, skipped = _planned(combinations, swept)
    report = Report()
    for name, reason in skipped:
        report.say(f"skipped {name}: {reason}")
    if not supported:
        raise InputError("sweep", f"{len(combinations)} combinations", "none of them can run here; the reasons stand above")
    first = next(iter(supported.values()))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    report.say(f"sweep {name}: {len(supported)} runs")
    if first.tracker.address():
        shared_uploader()
    mark_killed(first.runs)
    palette = colours([experiment.choices["method"] for experiment in supported.values()])
    folders = []
    for number, ((title, experiment), colour) in enumerate(zip(supported.items(), palette, strict=True), start=1):
        experiment.name = f"{experiment.name} {title}" if experiment.config["name"] else title
        folders.append(_one(experiment, f"{number}/{len(supported)} {title}", sweep=name, colour=colour))
    return _compared(first, folders, name, swept, report)


def _planned(combinations: list[Combination], swept: list[str]) -> tuple[dict[str, Experiment], list[tuple[str, str]]]:
    """The experiments that can run, by name, and the names and reasons of those that cannot. Invalid ones raise."""
    supported: dict[str, Experiment] = {}
    skipped = []
    for combination in combinations:
        differing = [override for override in combination.overrides if override.lstrip("+").partition("=")[0] in swept]
        title = " ".join(labels(differing)) or " ".join(labels(combination.overrides)) or combination.choices["method"]
        experiment, task = instantiate(combination.config, combination.choices, combination.overrides)
        if not task.trains:
            raise InputError("task", combination.choices["task"], "cannot be swept; leave -m out")
        try:
            with as_typed(combination.overrides):
                experiment.check()
        except Unsupported as reason:
            skipped.append((title, reason.problem))
            continue
        if title in supported:
            raise InputError("sweep", title, "stands for two runs; give every combination once")
        supported[title] = experiment
    return supported, skipped


def _one(experiment: Experiment, title: str, **status: Any) -> RunFolder:
    """Train one combination and say in a line what became of it."""
    report, data = Report(title=title), experiment.check()
    report.begin(experiment, data)
    return record(experiment, data, report, **status)


def _compared(first: Experiment, folders: list[RunFolder], name: str, swept: list[str], report: Report) -> int:
    """Print the ranked table, save the view, say where to look."""
    statuses = [folder.status() for folder in folders]
    finished = [status for status in statuses if status["status"] == "FINISHED"]
    failed = [status for status in statuses if status["status"] == "FAILED"]
    valid = valid_columns(finished)
    columns = ["run", "device", "precision", "first loss", "final loss", *valid, "seconds"]
    rows = [[status["name"], *[status_cell(status, column) for column in columns[1:]]] for status in _ranked(finished, valid)]
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
        score = -metrics.get(f"final/{valid[0].replace(' ', '_')}", 0.0) if valid else metrics.get("final/loss", 0.0)
        return status.get("blew_up_at_step") is not None, score

    return sorted(statuses, key=rank)
