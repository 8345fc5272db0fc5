"""One invocation of a sweep: show the plan, do what is to be done, conclude."""

import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from exp.claims import Claims
from exp.colours import colours
from exp.errors import InputError, listed
from exp.interruption import exit_code, interrupted
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.sweep.conclusion import conclude
from exp.sweep.execution import Order
from exp.sweep.grouping import grouped, rules
from exp.sweep.planning import DONE, EXCLUDED, INVALID, NEW, RETRY, RUNNING, UNSUPPORTED, Entry, Plan, Rule, look_back, new_name
from exp.sweep.running import Launch, do_all, running_here
from exp.sweep.specification import Sweep
from exp.sweep_folder import KILLED, begin_sweep, continued, new_sweep, plan_of, runs_of
from exp.tracking.uploader import shared_uploader

SHOWN = 20
"""So many runs that are not simply new or done are shown one by one; with sweep.plan=true all are."""

ENDING_SECONDS = 10.0
"""How long runs in other processes are waited for, once they were told to end."""


def sweep(plan: Plan, chosen: Sweep, launch: Launch | None, *, elsewhere: bool = False) -> int:
    """Do what is to be done of a plan; returns the exit code. Without `launch` one run after the other, in this process.

    Raises `InputError`, before anything is created, if a run is invalid or none can be done.
    """
    report, began = Report(), time.time()
    invalid = [entry for entry in plan.entries if entry.state == INVALID]
    if invalid and not chosen.plan:
        raise _invalid(plan, invalid)
    all_again = chosen.rerun == "all"
    runs = plan.first.experiment.runs if plan.runs else ""
    claims, keys = Claims(runs), [entry.key for entry in plan.runs]
    earlier = None if all_again else continued(runs, keys)
    known = earlier.status() if earlier else {}
    rule = Rule(
        rerun=chosen.rerun,
        since=began if all_again else known.get("since", 0.0),
        began=known.get("active_since", began) if earlier and earlier.alive else began,
        invocation=new_name(),
    )
    look_back(plan.runs, claims, rule)
    todo = [entry for entry in plan.runs if entry.state in (NEW, RETRY)]
    groups = grouped(todo, chosen.fuse, elsewhere=elsewhere, workers=launch.workers if launch else 1)
    _show(plan, rules(groups), report, whole=chosen.plan)
    if invalid:
        raise _invalid(plan, invalid)
    if not plan.runs:
        raise _nothing_to_do(plan)
    if chosen.plan:
        return 0
    mark_killed(runs)
    folder, planned = _opened(plan, claims, rule, new=all_again)
    first = plan.first
    order = Order(
        sweep=str(folder.path.absolute()),
        task=first.task.kind,
        rule=rule,
        fail_fast=chosen.fail_fast,
        fuse=chosen.fuse,
        elsewhere=elsewhere,
        tracking=first.experiment.tracker.address(),
    )
    return _done(plan, planned, order, folder, launch, report)


def _invalid(plan: Plan, invalid: list[Entry]) -> InputError:
    """The error of the first invalid run, and how many there are besides."""
    first = invalid[0].error
    assert first is not None
    if len(plan.entries) == len(invalid) and len({entry.reason for entry in invalid}) == 1:
        return first
    which = f"run {invalid[0].name}; {len(invalid)} of {len(plan.entries)} are invalid, sweep.plan=true shows all"
    return type(first)(first.key, first.value, f"{first.problem} ({which})")


def _nothing_to_do(plan: Plan) -> InputError:
    """The error of a plan with no run that can be done."""
    if all(entry.state == EXCLUDED for entry in plan.entries):
        conditions = listed(dict.fromkeys(entry.reason for entry in plan.entries))
        problem = f"leaves none of {len(plan.entries)} runs; drop or narrow a condition"
        return InputError("sweep.exclude", conditions, problem)
    return InputError("sweep", f"{len(plan.entries)} runs", "none of them can run here; the reasons stand above")


def _opened(plan: Plan, claims: Claims, rule: Rule, *, new: bool) -> tuple[RunFolder, dict[str, dict[str, Any]]]:
    """The folder of the sweep, new or gone on with, its plan written; and what that says of every run, by its key."""
    first = plan.first.experiment
    with claims.alone():
        folder = None if new else continued(first.runs, [entry.key for entry in plan.runs])
        if folder is None:
            folder = new_sweep(first.runs)
        folder.share()
        planned = _planned(plan)
        skipped = [[entry.name, entry.state, entry.reason] for entry in plan.entries if not entry.key]
        content = {"factors": plan.swept, "runs": list(planned.values()), "skipped": skipped}
        begun = {"since": rule.since, "active_since": rule.began, "command": _command()}
        begin_sweep(folder, content, **begun, tracking=first.tracker.address())
    return folder, planned


def _planned(plan: Plan) -> dict[str, dict[str, Any]]:
    """What plan.json says of every run, by its key."""
    found = {}
    palette = colours([entry.ready.experiment.choices["method"] for entry in plan.runs if entry.ready])
    for entry, colour in zip(plan.runs, palette, strict=True):
        assert entry.ready is not None
        said = {"key": entry.key, "name": entry.title, "factors": entry.factors, "overrides": entry.overrides}
        found[entry.key] = said | {"colour": colour, "choices": entry.ready.experiment.choices}
    return found


def _done(
    plan: Plan, planned: dict[str, dict[str, Any]], order: Order, folder: RunFolder, launch: Launch | None, report: Report
) -> int:
    """Do the runs and conclude, also where it is interrupted."""
    first = plan.first  # what is done is not kept
    pending = [entry for entry in plan.runs if entry.state in (NEW, RETRY, RUNNING)]
    pending.sort(key=lambda entry: entry.died)  # what may have taken its process with it goes last
    known = "" if all(entry.state == NEW for entry in plan.entries) else f": {plan.count()}"
    report.say(f"sweep {folder.path.name}: {len(plan.runs)} run{'s' * (len(plan.runs) != 1)}{known}")
    if order.tracking:
        shared_uploader().open(order.tracking["uri"])
        shared_uploader().send(folder.path)
    ending: BaseException | None = None
    try:
        do_all(order, pending, planned, launch)
    except BaseException as error:
        ending = error
        report.end()
        order.stop.tell(KILLED)
        _wait_for_end(order, pending)
        mark_killed(runs_of(folder))
        if not interrupted(error) and not isinstance(error, InputError):
            report.say(f"the sweep broke off: {type(error).__name__}: {error}")
    code = conclude(plan, order, folder, first, report, ending)
    if ending is None:  # else it stays told: a cluster may begin runs that still wait in its queue
        order.stop.clear()
    if any(run.status.get("status") not in ("FINISHED", "FAILED") for run in plan_of(folder)):
        report.say(f"resume: {shlex.join(_resume())}")
    if ending is None:
        return code
    if interrupted(ending):
        return exit_code(ending)
    raise ending


def _wait_for_end(order: Order, entries: list[Entry]) -> None:
    """Until no run of this invocation is alive any more, and not for long."""
    deadline = time.monotonic() + ENDING_SECONDS
    while time.monotonic() < deadline and any(running_here(order, entry) for entry in entries):
        time.sleep(0.1)


def _show(plan: Plan, rules: list[str], report: Report, *, whole: bool) -> None:
    """The `whole` plan, each run with its state and the reason; or what is not simply new or done. By which `rules` runs
    are done together."""
    if whole:
        report.say(f"plan: {len(plan.entries)} run{'s' * (len(plan.entries) != 1)}: {plan.count()}")
    for rule in rules:
        report.say(rule)
    if whole:
        report.table(("state", "run", "why"), [(entry.state, entry.name, entry.reason) for entry in plan.entries])
        return
    shown = [entry for entry in plan.entries if entry.state not in (NEW, DONE)]
    for entry in shown[:SHOWN]:
        word = "skipped" if entry.state == UNSUPPORTED else entry.state
        report.say(f"{word} {entry.name}{f': {entry.reason}' if entry.reason else ''}")
    if len(shown) > SHOWN:
        report.say(f"… and {len(shown) - SHOWN} more; sweep.plan=true shows all")


def _command() -> list[str]:
    return ["python", "-m", "exp", *sys.argv[1:]]


def _resume() -> Sequence[str]:
    """The command that goes on: the same, but that what was to run again has begun to."""
    return [word for word in _command() if word != "sweep.rerun=all"]
