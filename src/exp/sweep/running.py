"""Doing the runs of a plan: in this process or by a launcher, until every one is over or the sweep is told to stop."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exp.interruption import Terminated, told_first
from exp.report import Report
from exp.sweep.execution import Order, execute, lost
from exp.sweep.planning import Entry
from exp.sweep.watching import Watch
from exp.sweep_folder import KILLED

Launch = Callable[[Order, list[list[str]]], None]
"""Do the runs with these overrides, in other processes; returns when they are over, or raises when some died."""

POLL_SECONDS = 0.5
DEATHS = 2
"""A run whose process died as often as this has failed: the second time it was alone."""


def do_all(order: Order, entries: list[Entry], planned: dict[str, dict[str, Any]], launch: Launch | None) -> None:
    """Do these runs; `planned` is what plan.json says of each, by its key. Without `launch` one after the other, here."""
    deaths: Counter[str] = Counter()
    vain = 0
    pending = list(entries)
    while pending and not order.stop.told():
        fresh = [entry for entry in pending if not deaths[entry.key] and not _busy(order, entry)]
        died = [entry for entry in pending if deaths[entry.key] and not _busy(order, entry)]
        chosen = fresh or died[:1]
        if not chosen:  # another process does what is left
            time.sleep(POLL_SECONDS)
        elif launch is None:
            for entry in chosen:
                _here(order, entry, planned[entry.key], entries)
        else:
            before = [_latest(order, entry) for entry in chosen]
            _elsewhere(order, chosen, launch, entries)
            vain = vain + 1 if [_latest(order, entry) for entry in chosen] == before else 0
            if vain > DEATHS and not order.stop.told():
                raise RuntimeError(f"the launcher does not start {chosen[0].name}; its own output says why")
        for entry in chosen:
            _settle(order, entry, deaths)
        pending = [entry for entry in pending if not _over(order, entry)]


def _here(order: Order, entry: Entry, planned: dict[str, Any], entries: list[Entry]) -> None:
    if order.stop.told() or _busy(order, entry):
        return
    assert entry.ready is not None
    ready = entry.ready
    report = Report(title=f"{entries.index(entry) + 1}/{len(entries)} {entry.name}")
    report.begin(ready[0], ready[2])
    execute(order, planned, lambda: ready, report, uploads=True)
    if _over(order, entry):
        entry.ready = None  # its weights are not kept


def _elsewhere(order: Order, chosen: list[Entry], launch: Launch, entries: list[Entry]) -> None:
    """Launch, and say meanwhile what becomes of the runs. Told to stop, it tells them, and returns when they have."""
    with Watch(order, entries), told_first(lambda: order.stop.tell(KILLED)):
        try:
            launch(order, [entry.overrides for entry in chosen])
        except SystemExit:  # of Ray, which takes SIGTERM for itself
            order.stop.tell(KILLED)
            raise Terminated from None
        except Exception as error:
            Report().say(f"the launcher ended early: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")


def _latest(order: Order, entry: Entry) -> Path | None:
    folder = order.claims.latest(entry.key)
    return folder.path if folder else None


def _settle(order: Order, entry: Entry, deaths: Counter[str]) -> None:
    """Note a run that ended without saying so. One that never began is not to blame: the death of another kept it from it."""
    folder = order.claims.latest(entry.key)
    status = folder.status() if folder else {}
    ours = status.get("invocation") == order.invocation
    if folder is not None and ours and status["status"] == "RUNNING" and not folder.alive:
        deaths[entry.key] += 1
        if deaths[entry.key] < DEATHS:
            folder.revise(status="KILLED", ended=time.time())
            Report().say(f"the process of {entry.name} died; it is tried once more, alone")
        else:
            lost(order, folder, "its process died twice (killed by the system, perhaps for its memory?)")


def _busy(order: Order, entry: Entry) -> bool:
    folder = order.claims.latest(entry.key)
    return folder is not None and folder.status().get("status") == "RUNNING" and folder.alive


def running_here(order: Order, entry: Entry) -> bool:
    """Whether this invocation does the run at this moment."""
    folder = order.claims.latest(entry.key)
    return folder is not None and folder.status().get("invocation") == order.invocation and _busy(order, entry)


def _over(order: Order, entry: Entry) -> bool:
    """Whether a run needs no more: it finished, or failed in this invocation."""
    folder = order.claims.latest(entry.key)
    status = folder.status() if folder else {}
    return bool(status) and status["status"] != "RUNNING" and not order.rule.again(status)
