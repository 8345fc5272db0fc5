"""The life of a run's folder, whatever the task: RUNNING, then FINISHED, FAILED or KILLED; and how MLflow hears of it."""

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from exp.errors import in_a_line
from exp.experiment import Experiment
from exp.interruption import interrupted, terminate
from exp.memory import release
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import Member, RunTask
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader

KILLED_PATIENCE_SECONDS = 5.0
"""How long a run that was told to stop waits for its last upload."""

HEARTBEAT_SECONDS = 0.5
"""How often a run says that it is alive, and asks whether it is to stop."""

Send = Callable[[], None]

Work = Callable[[Sequence[Member], Sequence[RunFolder], str, Send], Iterable[dict[str, Any]]]
"""Given runs, their folders, the device as torch names it, and a function that sends what is new: one after the other what
each status says at the end. Raises for all that are left."""


def carried_out(members: Sequence[Member], report: Report, work: Work, **status: Any) -> list[RunFolder]:
    """Do the work for checked experiments and return their folders, whatever became of the runs. `status` goes into each.

    An error of a run itself is recorded (FAILED) and said; Ctrl-C and SIGTERM are recorded (KILLED) and raised again.
    """
    first, claim = members[0].experiment, members[0].claim
    address = first.tracker.address() if claim is None or claim.uploads else None
    folders = [member.claim.folder for member in members if member.claim]

    def send() -> None:
        for folder in folders if address else ():
            shared_uploader().send(folder.path)

    try:
        if address:
            shared_uploader().open(address["uri"])  # while this process imports torch
        for member in members:
            member.experiment.resolve_device()
        folders = folders or [RunFolder.create(first.runs, member.experiment.name) for member in members]
        for member, folder in zip(members, folders, strict=True):
            folder.write_config(member.experiment.config)
            folder.update_status(**begun(member.experiment), **member.status, **status, together=len(members))
        send()
        with nullcontext() if claim else beating(folders, lambda: False):
            _do(work, members, folders, send, report)
    except BaseException as error:
        report.end()
        if left := end_early(folders, error, address):
            report.say(f"killed; what was done is recorded in {', '.join(str(folder.path) for folder in left[:3])}")
        raise
    finally:
        report.end()
        try:
            for folder in folders:
                folder.release()
        finally:
            send()  # also when told to stop just now: a run that is over would be waited for in vain
    return folders


def _do(
    work: Work, members: Sequence[Member], folders: Sequence[RunFolder], send: Send, report: Report, refused: str | None = None
) -> None:
    """Where the work of several raises, what is left is done one by one, for want of memory in two halves; each status says
    why it was `refused`."""
    device, over = members[0].experiment.device.torch_name, 0
    try:
        for said in work(members, folders, device, send):
            folders[over].update_status(ended=time.time(), **said, **({"program_refused": refused} if refused else {}))
            over += 1
        return
    except (Exception, SystemExit) as error:  # a method that leaves Python has failed, whatever code it leaves with
        report.end()
        left = len(members) - over
        if not left:
            raise
        if left == 1:
            report.say(f"failed: {record_failure(folders[over], error)}")
            return
        parts, how = (2, "in two halves") if _wants_memory(error) else (left, "one by one")
        refused = in_a_line(error)
        report.say(f"the program of {len(members)} runs: {refused}; they are done {how}")
    release(device)
    for start, stop in pairwise(over + left * number // parts for number in range(parts + 1)):
        _do(work, members[start:stop], folders[start:stop], send, report, refused)


def end_early(folders: Sequence[RunFolder], error: BaseException, address: dict[str, str] | None) -> list[RunFolder]:
    """Those of the runs that are not over are KILLED where the error is an interruption, else FAILED; all are released.

    Where they are tracked at an `address`, it hears of that, and is waited for a while. Returns those that were killed.
    """
    left = [folder for folder in folders if folder.status().get("status") == "RUNNING"]
    said = {"status": "KILLED"} if interrupted(error) else {"status": "FAILED", "error": in_a_line(error)}
    for folder in left:
        folder.update_status(ended=time.time(), **said)
    for folder in folders:
        folder.release()
    if not left or not interrupted(error):
        return []
    if address:
        for folder in left:
            shared_uploader().send(folder.path)
        paths = [str(folder.path.absolute()) for folder in left]
        shared_uploader().wait(paths, address["uri"], at_most=KILLED_PATIENCE_SECONDS)
    return left


def _wants_memory(error: BaseException) -> bool:
    """NumPy raises `MemoryError`, torch an error of its own on a GPU; on a CPU, and of JAX, only the words tell."""
    told = any(words in str(error) for words in ("allocate memory", "RESOURCE_EXHAUSTED"))
    return told or isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def begun(experiment: Experiment) -> dict[str, Any]:
    """What the status of a run that begins says."""
    status = {"name": experiment.name, "status": "RUNNING", "started": time.time(), "ended": None}
    return status | {"choices": experiment.choices, "tracking": experiment.tracker.address()}


def record_failure(folder: RunFolder, error: BaseException) -> str:
    """Write the traceback and the status FAILED; returns what went wrong, where, and where the traceback is."""
    folder.write_text("error.txt", "".join(traceback.format_exception(error)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = in_a_line(error)
    folder.update_status(status="FAILED", ended=time.time(), error=reason)
    return f"{reason} ({Path(where.filename).name} line {where.lineno}; {folder.path}/error.txt)"


@contextmanager
def beating(folders: Sequence[RunFolder], told_to_end: Callable[[], bool]) -> Iterator[None]:
    """Meanwhile a thread says that the runs are alive, and ends them where that was told."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            for folder in folders:
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
