"""The end of a sweep, or of an invocation of it: what became of every run, told on the terminal and in MLflow."""

import re
import statistics
import time
from collections.abc import Sequence
from typing import Any

from exp.naming import setting_name
from exp.report import Report
from exp.run_folder import RunFolder
from exp.summary import outcome
from exp.sweep.execution import Order
from exp.sweep.planning import Plan
from exp.sweep_folder import Planned, attempts_of, plan_of
from exp.tasks.base import Ready
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader

SETTINGS = 100
"""Of so many settings at most the aggregates over seeds are metrics of the sweep: MLflow draws a chart for each."""


def conclude(plan: Plan, order: Order, folder: RunFolder, ready: Ready, report: Report, ending: BaseException | None) -> int:
    """Print the ranked table, the failures and where to look; tell MLflow. Returns the exit code of a sweep that was done."""
    changed = [*adopted(plan, order, folder), *superseded(folder)]
    experiment, task, _ = ready
    runs = plan_of(folder)
    statuses = [run.status | {"name": run.name} for run in runs if run.status]
    finished = [status for status in statuses if status["status"] == "FINISHED"]
    failed = [status for status in statuses if status["status"] == "FAILED"]
    table = task.table(finished, ("run",))
    if table.rows:
        report.table(table.columns, table.rows)
    for line in [*table.notes, *(f"failed {status['name']}: {status['error']}" for status in failed)]:
        report.say(line)
    for line in task.concluded(finished, folder):
        report.say(line)
    left = len(runs) - len(finished) - len(failed)
    status = "KILLED" if ending is not None else "FAILED" if failed or left else "FINISHED"
    aggregates = _aggregates(runs, table.metrics)
    summary = {"runs": len(runs), "finished": len(finished), "failed": len(failed), "left": left}
    folder.write_json("summary.json", summary | {"settings": aggregates, "outcomes": {s["name"]: outcome(s) for s in statuses}})
    metrics = {f"sweep/{name}": float(count) for name, count in summary.items()}
    for aggregate in [aggregate for aggregate in aggregates if aggregate["values"]["n"] > 1][:SETTINGS]:
        setting = re.sub(r"[^\w\-.: ]+", " ", aggregate["setting"]).strip()  # what MLflow allows in the name of a metric
        metrics |= {f"sweep/{setting} {name.replace('/', ' ')}": value for name, value in aggregate["values"].items()}
    error = f"{len(failed)} of {len(runs)} runs failed" if failed else None
    folder.release()
    if ending is None or not folder.alive:  # another shell may go on with it
        folder.revise(status=status, ended=time.time(), metrics=metrics, error=error)
    view = (order.tracking or {}) | {
        "sweep": folder.path.name,
        "params": [key.lstrip("+") for key in plan.swept],
        "metrics": table.metrics,
        "runs": len(runs),
        "mixed": any(run.status.get("sweep") != folder.path.name for run in runs if run.status),
    }
    if not order.tracking:
        where = f"recorded in {experiment.runs}/ (the sweep: {folder.path})"
        report.say(f"{where}; not tracked (tracker=none): exp.results({folder.path.name!r}) has the curves")
        return task.exit_code(finished) or (3 if failed or left else 0)
    own = [run.folder for run in runs if run.folder is not None and run.status.get("invocation") == order.invocation]
    for news in (*changed, folder):
        shared_uploader().send(news.path)
    for line in follow_up(experiment, [*own, *changed, folder], view):
        report.say(line)
    return task.exit_code(finished) or (3 if failed or left else 0)


def adopted(plan: Plan, order: Order, folder: RunFolder) -> list[RunFolder]:
    """Runs that were done before, now a part of this sweep too, and tracked where it is; returns those that changed."""
    found = [(entry, last, last.status()) for entry in plan.runs if (last := order.claims.latest(entry.key)) is not None]
    over = [(entry, last, s) for entry, last, s in found if s["status"] != "RUNNING" and s["started"] >= order.rule.since]
    mixed = any(status.get("sweep") != folder.path.name for _, _, status in over)  # then all of them are marked as members
    changed = []
    for entry, last, status in over:
        news: dict[str, Any] = {}
        own = status.get("sweep") == folder.path.name
        if folder.path.name not in status.get("sweeps", ()) and (mixed or not own):
            news["sweeps"] = [*status.get("sweeps", ()), folder.path.name]
        if own and entry.title == entry.name != status["name"]:
            news["name"] = entry.name  # the sweep is wider now, and more tells its runs apart
        if order.tracking and status.get("tracking") != order.tracking:
            news["tracking"] = order.tracking
        if news:
            last.revise(**news)
            changed.append(last)
    return changed


def superseded(folder: RunFolder) -> list[RunFolder]:
    """Attempts that another one has replaced leave the sweep's view; returns those that changed."""
    attempts = attempts_of(folder)
    latest = {status["key"]: attempt.path for attempt, status in attempts}
    old = [a for a, status in attempts if latest[status["key"]] != a.path and not status.get("superseded")]
    for attempt in old:
        attempt.revise(superseded=True)
    return old


def _aggregates(runs: Sequence[Planned], names: Sequence[str]) -> list[dict[str, Any]]:
    """Number, mean and sample standard deviation of each metric over the seeds of each setting."""
    settings: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if run.status.get("status") == "FINISHED":
            settings.setdefault(setting_name(run.factors) or "all", []).append(run.status.get("metrics", {}))
    found = []
    for setting, measured in settings.items():
        values: dict[str, float] = {"n": float(len(measured))}
        for name in names:
            if numbers := [metrics[name] for metrics in measured if name in metrics]:
                values[f"{name} mean"] = statistics.fmean(numbers)
                if len(numbers) > 1:
                    values[f"{name} std"] = statistics.stdev(numbers)
        found.append({"setting": setting, "values": values})
    return found
