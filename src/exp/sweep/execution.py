"""One run of a sweep, wherever it is done: claimed, built, recorded. Raises nothing but what interrupts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.claims import Claim, Claims
from exp.experiment import Experiment
from exp.identity import identity, task_identity
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder
from exp.sweep.planning import Rule
from exp.sweep_folder import UNSTARTED, Stop
from exp.tasks.base import RunTask
from exp.tasks.recording import beating, record_failure

Ready = tuple[Experiment, RunTask, Data]


@dataclass(frozen=True)
class Order:
    """What every run of one invocation of a sweep has to know. Plain values: it goes to other processes.

    `sweep` is the sweep's folder, `tracking` where its runs are tracked; `elsewhere`: on machines unknown to the sweeper.
    """

    sweep: str
    rule: Rule
    fail_fast: bool
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


def execute(order: Order, planned: dict[str, Any], ready: Callable[[], Ready], report: Report, *, uploads: bool) -> bool:
    """Do a run of the plan; False where it is not ours to do: told to stop, or another process has it.

    `ready` builds it, and raises for what cannot be done (here).
    """
    stop = order.stop
    if stop.told():
        return False
    own = {key: planned[key] for key in ("key", "factors", "colour")}
    own |= {"sweep": Path(order.sweep).name, "invocation": order.invocation}
    begun = {"status": "RUNNING", "started": time.time(), "ended": None, "tracking": order.tracking}
    begun |= {"name": planned["name"], "choices": planned["choices"]}
    folder = order.claims.take(planned["key"], own | begun, order.rule.again)
    if folder is None:
        return False
    with beating(folder, lambda: stop.told() not in ("", UNSTARTED)):
        try:
            experiment, task, data = ready()
        except (Exception, SystemExit) as error:
            report.say(f"failed: {record_failure(folder, error)}")
            folder.release()
        except BaseException:
            folder.update_status(status="KILLED", ended=time.time())
            folder.release()
            raise
        else:
            experiment.name = planned["name"]
            task.record(experiment, data, report, Claim(folder, uploads), **own)
    if order.fail_fast and folder.status()["status"] == "FAILED":
        stop.tell(UNSTARTED)
    return True


def checked(order: Order, planned: dict[str, Any], experiment: Experiment, task: RunTask) -> Ready:
    """A run that was built anew in another process. Raises `RuntimeError` where it is not any more what was planned."""
    data = experiment.check()
    if not order.elsewhere:
        experiment.resolve_device()
    if task_identity(identity(experiment, data.digest()), task) != planned["key"]:
        raise RuntimeError("its files, data or versions are not those of the plan; repeat the command to plan it anew")
    experiment.resolve_device()
    return experiment, task, data


def lost(order: Order, folder: RunFolder, reason: str) -> None:
    """A run whose process is gone has failed."""
    folder.revise(status="FAILED", ended=time.time(), error=reason)
    if order.fail_fast:
        order.stop.tell(UNSTARTED)
