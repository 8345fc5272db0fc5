"""Doing the runs of a plan: in this process or by a launcher, until every one is over or the sweep is told to stop."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exp.interruption import Terminated, told_first
from exp.report import Report
from exp.sweep.execution import Order, Ready, execute, lost
from exp.sweep.planning import Entry
from exp.sweep.watching import Watch
from exp.sweep_folder import KILLED

Launch = Callable[[Order, list[list[str]]], None]
"""Do the runs with these overrides, in other processes; returns when they are over, or raises when some died."""

POLL_SECONDS = 0.5
DEATHS = 2
"""A run whose process died as often as this has failed: the second time it was alone."""

LAUNCHES = 3
"""After so many launches in which not one run began, the launcher does not work."""


def do_all(order: Order, entries: list[Entry], planned: dict[str, dict[str, Any]], launch: Launch | None) -> None:
    """Do these runs; `planned` is what plan.json says of each, by its key. Without `launch` one after the other, here.

    Raises `RuntimeError` for a launcher that begins none, and what interrupts.
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
            for entry in chosen:
                _here(order, entry, planned[entry.key], entries)
        else:
            _elsewhere(order, chosen, launch, entries)
            in_vain = in_vain + 1 if [_latest(order, entry) for entry in chosen] == before else 0
            if in_vain == LAUNCHES and not order.stop.told():
                raise RuntimeError(f"the launcher does not start {chosen[0].name}; its own output says why")
        for entry in chosen:
            _settle(order, entry, deaths)
        pending = [entry for entry in pending if not _over(order, entry, deaths)]


def _here(order: Order, entry: Entry, planned: dict[str, Any], entries: list[Entry]) -> None:
    """Do a run in this process, unless another has begun it meanwhile."""
    if order.stop.told() or _busy(order, entry):
        return
    assert entry.ready is not None
    ready, entry.ready = entry.ready, None  # its weights are not kept
    report = Report(title=f"{entries.index(entry) + 1}/{len(entries)} {entry.name}")

    def begun() -> Ready:
        report.begin(ready[0], ready[2])
        return ready

    if not execute(order, planned, begun, report, uploads=True):
        entry.ready = ready


def _elsewhere(order: Order, chosen: list[Entry], launch: Launch, entries: list[Entry]) -> None:
    """Launch, and say meanwhile what becomes of the runs. Told to stop, it tells them, and returns when they have."""

    def end() -> None:
        order.stop.tell(KILLED)
        Report().say("ending the runs; Ctrl-C again does not wait")

    with Watch(order, entries), told_first(end):
        try:
            launch(order, [entry.overrides for entry in chosen])
        except SystemExit:  # of Ray, which takes SIGTERM for itself
            order.stop.tell(KILLED)
            raise Terminated from None
        except Exception as error:
            Report().say(f"the launcher ended early: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")


def _settle(order: Order, entry: Entry, deaths: Counter[str]) -> None:
    """Note a run that ended without saying so. One that never began is not to blame: the death of another kept it from it."""
    folder = order.claims.latest(entry.key)
    if folder is None or not _ours(order, entry) or folder.status()["status"] != "RUNNING" or folder.alive:
        return
    deaths[entry.key] += 1
    if deaths[entry.key] < DEATHS:
        folder.revise(status="KILLED", ended=time.time())
        Report().say(f"the process of {entry.name} died; it is tried once more, alone")
    else:
        lost(order, folder, "its process died twice (killed by the system, perhaps for its memory?)")


def running_here(order: Order, entry: Entry) -> bool:
    """Whether this invocation does the run at this moment."""
    return _ours(order, entry) and _busy(order, entry)


def _over(order: Order, entry: Entry, deaths: Counter[str]) -> bool:
    """Whether a run needs no more of this invocation: it finished, failed, or was told to end (by a cluster's time limit)."""
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
