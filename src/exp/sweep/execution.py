"""Runs of a sweep, wherever they are done: claimed, built, recorded. A run that fails raises nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.claims import Claim, Claims, at_work
from exp.experiment import Experiment
from exp.identity import identity, task_identity
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder
from exp.sweep.planning import Rule
from exp.sweep_folder import UNSTARTED, Stop
from exp.tasks.base import Member, Ready, RunTask
from exp.tasks.recording import beating, end_early, record_failure


@dataclass(frozen=True)
class Order:
    """What every run of one invocation of a sweep has to know. Plain values: it goes to other processes.

    `sweep` is the sweep's folder, `task` what is done with its runs, `tracking` where they are tracked; `elsewhere`: on
    machines unknown to the sweeper.
    """

    sweep: str
    task: str
    rule: Rule
    fail_fast: bool
    fuse: str
    elsewhere: bool
    tracking: dict[str, str] | None

    @property
    def invocation(self) -> str:
        return self.rule.invocation

    @property
    def stop(self) -> Stop:
        return Stop(Path(self.sweep), self.invocation)

    @property
    def claims(self) -> Claims:
        return Claims(Path(self.sweep).parents[1])


def execute(
    order: Order,
    planned: Sequence[dict[str, Any]],
    ready: Callable[[dict[str, Any]], Ready],
    report: Report,
    *,
    uploads: bool,
) -> list[str]:
    """Do runs of the plan together; returns the keys of those that were ours to do: not told to stop, no other process had it.

    `ready` builds one, and raises for what cannot be done (here).
    """
    stop = order.stop
    held: list[tuple[dict[str, Any], dict[str, Any], RunFolder]] = []
    try:
        for entry in planned:
            if stop.told():
                break
            own = {key: entry[key] for key in ("key", "factors", "colour")}
            own |= {"sweep": Path(order.sweep).name, "invocation": order.invocation}
            begun = {"status": "RUNNING", "started": time.time(), "ended": None, "tracking": order.tracking}
            begun |= {"name": entry["name"], "choices": entry["choices"], "task": order.task}
            if (folder := order.claims.take(entry["key"], own | begun, order.rule.again)) is not None:
                held.append((entry, own, folder))
        folders = [folder for _, _, folder in held]
        with beating(folders, lambda: stop.told() not in ("", UNSTARTED)):
            members, task = [], None
            for entry, own, folder in held:
                try:
                    experiment, task, data = ready(entry)
                except (Exception, SystemExit) as error:
                    report.say(f"failed: {record_failure(folder, error)}")
                    folder.release()
                else:
                    experiment.name = entry["name"]
                    members.append(Member(experiment, data, Claim(folder, uploads), own))
            if members and task is not None:
                task.record_together(members, report)
    except BaseException as error:
        end_early(at_work(), error, order.tracking if uploads else None)
        raise
    if order.fail_fast and any(folder.status()["status"] == "FAILED" for folder in folders):
        stop.tell(UNSTARTED)
    return [entry["key"] for entry, _, _ in held]


def checked(order: Order, planned: dict[str, Any], experiment: Experiment, task: RunTask, loaded: dict[str, Data]) -> Ready:
    """A run that was built anew in another process; runs of one problem share its data, which is `loaded` once.

    Raises `RuntimeError` where it is not any more what was planned.
    """
    data = experiment.check(loaded.get(repr(experiment.problem)))
    loaded[repr(experiment.problem)] = data
    if not order.elsewhere:
        experiment.resolve_device()
    if task_identity(identity(experiment, data.digest), task) != planned["key"]:
        raise RuntimeError("its files, data or versions are not those of the plan; repeat the command to plan it anew")
    experiment.resolve_device()
    return Ready(experiment, task, data)


def lost(order: Order, folder: RunFolder, reason: str) -> None:
    """A run whose process is gone has failed."""
    folder.revise(status="FAILED", ended=time.time(), error=reason)
    if order.fail_fast:
        order.stop.tell(UNSTARTED)
