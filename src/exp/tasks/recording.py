"""The life of a run's folder, whatever the task: RUNNING, then FINISHED, FAILED or KILLED; and how MLflow hears of it."""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from exp.claims import Claim
from exp.experiment import Experiment
from exp.interruption import interrupted, terminate
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import RunTask
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader

KILLED_PATIENCE_SECONDS = 5.0
"""How long a run that was told to stop waits for its last upload."""

HEARTBEAT_SECONDS = 0.5
"""How often a run says that it is alive, and asks whether it is to stop."""

Work = Callable[[RunFolder, str, Callable[[], None]], dict[str, Any]]
"""Given the folder, the device as torch names it, and a function that sends what is new: what the status says at the end."""


def recorded(experiment: Experiment, report: Report, work: Work, claim: Claim | None = None, **status: Any) -> RunFolder:
    """Do the work for a checked experiment and return its folder, whatever became of the run.

    An error of the run itself is recorded (FAILED) and said; Ctrl-C and SIGTERM are recorded (KILLED) and raised again.
    """
    address = experiment.tracker.address() if claim is None or claim.uploads else None
    if address:
        shared_uploader().open(address["uri"])  # while this process imports torch
    device = experiment.resolve_device()
    folder = claim.folder if claim else RunFolder.create(experiment.runs, experiment.name)

    def send() -> None:
        if address:
            shared_uploader().send(folder.path)

    try:
        folder.write_config(experiment.config)
        folder.update_status(**begun(experiment), **status)
        send()
        try:
            with nullcontext() if claim else beating(folder, lambda: False):
                ended = work(folder, device.torch_name, send)
        except (Exception, SystemExit) as error:  # a method that leaves Python has failed, whatever code it leaves with
            report.end()
            report.say(f"failed: {record_failure(folder, error)}")
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


def begun(experiment: Experiment) -> dict[str, Any]:
    """What the status of a run that begins says."""
    status = {"name": experiment.name, "status": "RUNNING", "started": time.time(), "ended": None}
    return status | {"choices": experiment.choices, "tracking": experiment.tracker.address()}


def record_failure(folder: RunFolder, error: BaseException) -> str:
    """Write the traceback and the status FAILED; returns what went wrong, where, and where the traceback is."""
    folder.write_text("error.txt", "".join(traceback.format_exception(error)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    folder.update_status(status="FAILED", ended=time.time(), error=reason)
    return f"{reason} ({Path(where.filename).name} line {where.lineno}; {folder.path}/error.txt)"


@contextmanager
def beating(folder: RunFolder, told_to_end: Callable[[], bool]) -> Iterator[None]:
    """Meanwhile a thread says that the run is alive, and ends it where that was told."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            folder.beat()
            if told_to_end():
                terminate()
                return

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


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
