"""Doing the runs of a plan: in this process or by a launcher, until every one is over or the sweep is told to stop."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.errors import MISSING, InputError
from exp.interruption import Terminated, told_first
from exp.report import Report
from exp.run_folder import RunFolder
from exp.sweep.execution import Order, execute, lost
from exp.sweep.grouping import Together, grouped, shared_out
from exp.sweep.planning import Entry
from exp.sweep.watching import Watch
from exp.sweep_folder import KILLED, write_orders
from exp.tasks.base import Ready


@dataclass(frozen=True)
class Launch:
    """Other processes. `start` does jobs there, told by the overrides of the first run of each; it returns when they are over,
    or raises when some died. `workers`: how many are done at once, as far as that is known; `jobs`: about so many jobs are
    enough for any number of runs; None: a job for each group of runs, for whoever shares out machines."""

    start: Callable[[Order, list[list[str]]], None]
    workers: int = 1
    jobs: int | None = None


POLL_SECONDS = 0.5
DEATHS = 2
"""A run whose process died as often as this has failed: the second time it was alone."""

LAUNCHES = 3
"""After so many launches in which not one run began, the launcher does not work."""


def do_all(order: Order, entries: list[Entry], planned: dict[str, dict[str, Any]], launch: Launch | None) -> None:
    """Do these runs; `planned` is what plan.json says of each, by its key. Without `launch` one after the other, here.

    Raises `InputError` for a launcher that begins none, and what interrupts.
    """
    deaths: Counter[str] = Counter()
    pending, in_vain = list(entries), 0
    while pending and not order.stop.told():
        free = [entry for entry in pending if not _busy(order, entry)]
        chosen = [entry for entry in free if not deaths[entry.key]] or free[:1]  # a run whose process died goes alone
        before = [_latest(order, entry) for entry in chosen]
        if not chosen:  # other processes do what is left
            time.sleep(POLL_SECONDS)
        elif launch is None:
            for group in grouped(chosen, order.fuse, deaths):
                _here(order, group.entries, planned, entries)
        else:
            groups = grouped(chosen, order.fuse, deaths, elsewhere=order.elsewhere, workers=launch.workers)
            _elsewhere(order, shared_out(groups, launch.jobs), planned, launch, entries)
            in_vain = in_vain + 1 if [_latest(order, entry) for entry in chosen] == before else 0
            if in_vain == LAUNCHES and not order.stop.told():
                raise InputError("hydra/launcher", MISSING, f"does not start {chosen[0].name}; its own output says why")
        if died := [entry.name for entry in chosen if _died(order, entry, deaths)]:
            others = f" and {len(died) - 1} more" if len(died) > 1 else ""
            Report().say(f"the process of {died[0]}{others} died; {'each' if others else 'it'} is tried once more, alone")
        pending = [entry for entry in pending if not _over(order, entry, deaths)]


def _here(order: Order, group: list[Entry], planned: dict[str, dict[str, Any]], entries: list[Entry]) -> None:
    """Do a group in this process, but for what another has begun meanwhile."""
    group = [entry for entry in group if entry.ready and not _busy(order, entry)]
    if order.stop.told() or not group:
        return
    number = f"{entries.index(group[0]) + 1}/{len(entries)} {group[0].name}"
    report = Report(title=number + (f" … {group[-1].name}: {len(group)} runs together" if len(group) > 1 else ""))
    of_key = {entry.key: entry.ready for entry in group if entry.ready}

    def ready(entry: dict[str, Any]) -> Ready:
        found = of_key[entry["key"]]
        if not report.begun:
            report.begin(found.experiment, found.data)
        return found

    done = execute(order, [planned[entry.key] for entry in group], ready, report, uploads=True)
    for entry in group:
        if entry.key in done:
            entry.ready = None  # its weights are not kept


def _elsewhere(
    order: Order, jobs: list[list[Together]], planned: dict[str, dict[str, Any]], launch: Launch, entries: list[Entry]
) -> None:
    """Launch, and say meanwhile what becomes of the runs. Told to stop, it tells them, and returns when they have."""

    def end() -> None:
        order.stop.tell(KILLED)
        Report().say("ending the runs; Ctrl-C again does not wait")

    write_orders(RunFolder(order.sweep), order.invocation, [_ordered(job, planned) for job in jobs])
    with Watch(order, entries), told_first(end):
        try:
            launch.start(order, [job[0].entries[0].overrides for job in jobs])
        except SystemExit:  # of Ray, which takes SIGTERM for itself
            order.stop.tell(KILLED)
            raise Terminated from None
        except Exception as error:
            Report().say(f"the launcher ended early: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")


def _ordered(job: list[Together], planned: dict[str, dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What other processes must know of the groups of a job: the launcher composes its first run, the others come composed."""
    first = job[0].entries[0]

    def told(entry: Entry) -> dict[str, Any]:
        composed = {} if entry is first or entry.ready is None else {"config": entry.ready.experiment.config}
        return planned[entry.key] | composed

    return [[told(entry) for entry in group.entries] for group in job]


def _died(order: Order, entry: Entry, deaths: Counter[str]) -> bool:
    """Whether a run is to be tried again, for it ended without saying so. One that never began is not to blame."""
    folder = order.claims.latest(entry.key)
    if folder is None or not _ours(order, entry) or not folder.abandoned:
        return False
    deaths[entry.key] += 1
    if deaths[entry.key] == DEATHS:
        lost(order, folder, "its process died twice (killed by the system, perhaps for its memory?)")
        return False
    folder.revise(status="KILLED", ended=time.time())
    return True


def running_here(order: Order, entry: Entry) -> bool:
    """Whether this invocation does the run at this moment."""
    return _ours(order, entry) and _busy(order, entry)


def _over(order: Order, entry: Entry, deaths: Counter[str]) -> bool:
    """Whether a run needs no more of this invocation: it finished, failed, or was told to end (by a cluster's time limit)."""
    if entry.ready is None:  # done here, also where somebody has removed its folder since
        return True
    folder = order.claims.latest(entry.key)
    status = folder.status() if folder else {}
    if not status or status["status"] == "RUNNING":
        return False
    told_to_end = status["status"] == "KILLED" and _ours(order, entry) and not deaths[entry.key]
    return told_to_end or not order.rule.again(status)


def _ours(order: Order, entry: Entry) -> bool:
    folder = order.claims.latest(entry.key)
    return folder is not None and folder.status().get("invocation") == order.invocation


def _busy(order: Order, entry: Entry) -> bool:
    folder = order.claims.latest(entry.key)
    return folder is not None and folder.status().get("status") == "RUNNING" and folder.alive


def _latest(order: Order, entry: Entry) -> Path | None:
    folder = order.claims.latest(entry.key)
    return folder.path if folder else None
