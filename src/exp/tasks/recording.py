"""The life of a run's folder, whatever the task: RUNNING, then FINISHED, FAILED or KILLED; and how MLflow hears of it."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exp.experiment import Experiment
from exp.interruption import interrupted
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import RunTask
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader

KILLED_PATIENCE_SECONDS = 5.0
"""How long a run that was told to stop waits for its last upload."""

Work = Callable[[RunFolder, str, Callable[[], None]], dict[str, Any]]
"""Given the folder, the device as torch names it, and a function that sends what is new: what the status says at the end."""


def recorded(experiment: Experiment, report: Report, work: Work, **status: Any) -> RunFolder:
    """Do the work for a checked experiment and return its folder, whatever became of the run.

    An error of the run itself is recorded (FAILED) and said; Ctrl-C and SIGTERM are recorded (KILLED) and raised again.
    """
    address = experiment.tracker.address()
    if address:
        shared_uploader().open(address["uri"])  # while this process imports torch
    device = experiment.resolve_device()
    folder = RunFolder.create(experiment.runs, experiment.name)

    def send() -> None:
        if address:
            shared_uploader().send(folder.path)

    try:
        folder.write_config(experiment.config)
        begun = {"name": experiment.name, "status": "RUNNING", "started": time.time(), "ended": None}
        folder.update_status(**begun, choices=experiment.choices, tracking=address, **status)
        send()
        try:
            ended = work(folder, device.torch_name, send)
        except (Exception, SystemExit) as error:  # a method that leaves Python has failed, whatever code it leaves with
            folder.write_text("error.txt", traceback.format_exc())
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            folder.update_status(status="FAILED", ended=time.time(), error=reason)
            report.end()
            report.say(f"failed: {reason} ({Path(where.filename).name} line {where.lineno}; {folder.path}/error.txt)")
        else:
            folder.update_status(ended=time.time(), **ended)
    except BaseException as error:
        report.end()
        if not interrupted(error):  # a status that could not be written
            folder.update_status(status="FAILED", ended=time.time(), error=f"{type(error).__name__}: {error}")
        else:
            folder.update_status(status="KILLED", ended=time.time())
            report.say(f"killed; what was done is recorded in {folder.path}")
            send()
            if address:
                shared_uploader().wait([str(folder.path.absolute())], address["uri"], at_most=KILLED_PATIENCE_SECONDS)
        raise
    finally:
        report.end()
        folder.release()
    send()
    return folder


def alone(task: RunTask, experiment: Experiment, report: Report) -> int:
    """One run of a task with its table and what follows it; returns the exit code."""
    data = experiment.check()
    report.begin(experiment, data)
    mark_killed(experiment.runs)
    folder = task.record(experiment, data, report)
    status, code = folder.status(), 1
    if status["status"] == "FINISHED":
        table = task.table([status], ("method", "device", "precision"))
        report.table(table.columns, table.rows)
        for note in table.notes:
            report.say(note)
        code = task.exit_code([status])
    for line in follow_up(experiment, [folder]):
        report.say(line)
    return code
