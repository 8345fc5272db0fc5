"""The live table of runs: state, step, loss, steps per second, time left, failures."""

import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

from exp.comparison.selection import Selection
from exp.comparison.trials import Trial
from exp.report import Report
from exp.run_folder import mark_killed
from exp.summary import number

EVERY_SECONDS = 1.0
"""How often the folders are read."""

SAY_SECONDS = 5.0
"""How often, at most, the table is printed where there is no terminal to redraw it on."""

MOST_ROWS = 30
COLUMNS = ("run", "state", "step", "loss", "steps/s", "time left")


def watch(select: Callable[[], Selection], runs: Path | str, report: Report, *, terminal: bool) -> Selection:
    """Show the runs until all are over; returns them as they ended. `select` reads them anew."""
    if not terminal:
        return _printed(select, runs, report)
    from rich.live import Live

    with Live(refresh_per_second=4) as live:
        while True:
            mark_killed(runs)
            selection = select()
            live.update(_drawn(selection))
            if over(selection):
                return selection
            time.sleep(EVERY_SECONDS)


def over(selection: Selection) -> bool:
    """Whether nothing more will come: no run is running, and the sweep is over or its process gone."""
    alive = selection.sweep is not None and selection.sweep.status().get("status") == "RUNNING" and selection.sweep.alive
    return not alive and all(trial.state != "running" for trial in selection.trials)


def live_rows(selection: Selection) -> list[list[str]]:
    """The rows of the table: what runs first, then what failed, then the last that finished, then what is to come."""
    order = ("running", "failed", "killed", "blew up", "finished", "planned")
    trials = sorted(selection.trials, key=lambda trial: (order.index(trial.state), -trial.status.get("started", 0.0)))
    shown = [_row(trial) for trial in trials[:MOST_ROWS]]
    return [*shown, [f"and {len(trials) - MOST_ROWS} more", "", "", "", "", ""]] if len(trials) > MOST_ROWS else shown


def summary_line(selection: Selection) -> str:
    """Counts of the states, the failures, and the time left of all."""
    states: dict[str, int] = {}
    for trial in selection.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    failures = sum(states.get(state, 0) for state in ("failed", "killed", "blew up"))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{len(selection.trials)} runs: {counts}; failures {failures}; time left {_duration(time_left(selection))}"


def time_left(selection: Selection) -> float | None:
    """Seconds until all planned runs are done, at the mean pace of those that are; None: not known yet."""
    ended = [trial.status for trial in selection.trials if trial.state == "finished"]
    took = [status["ended"] - status["started"] for status in ended if status.get("ended") and status.get("started")]
    running = [_left(trial) for trial in selection.trials if trial.state == "running"]
    planned = sum(trial.state == "planned" for trial in selection.trials)
    known = [left for left in running if left is not None]
    if (planned and not took) or len(known) < len(running):
        return None
    return sum(known) + (planned * sum(took) / len(took) if planned else 0.0)


def total_steps(trial: Trial) -> int | None:
    """The steps that a run was asked for; None where that is not known yet."""
    training, rows = trial.config.get("training", {}), (trial.folder.read_json("problem.json") if trial.folder else {})
    if training.get("steps"):
        return training["steps"]
    if not training.get("epochs") or not rows:
        return None
    samples = rows["rows"]["train"]
    return training["epochs"] * ceil(samples / (training.get("batch_size") or samples))


def _printed(select: Callable[[], Selection], runs: Path | str, report: Report) -> Selection:
    said, last = -SAY_SECONDS, None
    while True:
        mark_killed(runs)
        selection = select()
        ended = over(selection)
        if (ended or time.monotonic() - said >= SAY_SECONDS) and (table := live_rows(selection)) != last:
            report.table(COLUMNS, table)
            report.say(summary_line(selection))
            said, last = time.monotonic(), table
        if ended:
            return selection
        time.sleep(EVERY_SECONDS)


def _drawn(selection: Selection) -> Any:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, caption=summary_line(selection), caption_justify="left")
    for column in COLUMNS:
        grid.add_column(column, no_wrap=True, justify="left" if column in ("run", "state") else "right")
    colour = {"running": "cyan", "failed": "red", "killed": "red", "blew up": "red", "planned": "dim"}
    for row in live_rows(selection):
        grid.add_row(*row, style=colour.get(row[1]))
    return grid


def _row(trial: Trial) -> list[str]:
    if trial.state == "planned":
        return [trial.name, trial.state, "–", "–", "–", "–"]
    losses, total, pace = trial.losses, total_steps(trial), _pace(trial)
    step = f"{len(losses)}/{total}" if total else str(len(losses))
    loss = number(float(losses[-1])) if len(losses) else "–"
    state = f"{trial.state}: {trial.status['error'][:60]}" if trial.status.get("error") else trial.state
    left = _duration(_left(trial)) if trial.state == "running" else "–"
    return [trial.name, state, step, loss, f"{pace:.3g}" if pace else "–", left]


def _pace(trial: Trial) -> float | None:
    """Steps per second: the median of a run that ended, else those since its first loss."""
    if seconds := trial.metrics.get("time/step_seconds"):
        return 1 / seconds
    times = trial.curve.get("train/time", ())
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None


def _left(trial: Trial) -> float | None:
    total, pace = total_steps(trial), _pace(trial)
    return (total - len(trial.losses)) / pace if total and pace else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = ceil(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole / 3600:.1f} h"
