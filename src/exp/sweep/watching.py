"""What a sweep sees of runs in other processes: their folders. It says which are over, and has what is new uploaded."""

import threading
from types import TracebackType

from exp.report import Report
from exp.run_folder import RunFolder
from exp.summary import outcome
from exp.sweep.execution import Order
from exp.sweep.planning import Entry
from exp.tracking.uploader import shared_uploader

POLL_SECONDS = 0.5
UPLOAD_SECONDS = 2.0
"""How often what is new of a running run is uploaded."""


class Watch:
    """Watches the runs of `entries` from `with` on until its end, in a thread."""

    def __init__(self, order: Order, entries: list[Entry]):
        self._order, self._entries = order, entries
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._sent: dict[str, float] = {}

    def __enter__(self) -> "Watch":
        self._said = {entry.key for entry in self._entries if self._ended(entry)}
        self._before = {entry.key: self._order.claims.latest(entry.key) for entry in self._entries}
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._over.wait(POLL_SECONDS)
            for entry in self._entries:
                if entry.key not in self._said:
                    self._look(entry)

    def _look(self, entry: Entry) -> None:
        folder = self._order.claims.latest(entry.key)
        before = self._before[entry.key]
        if folder is None or (before is not None and folder.path == before.path):
            return
        status = folder.status()
        if status.get("invocation") != self._order.invocation:
            return
        if status["status"] != "RUNNING":
            self._said.add(entry.key)
            self._upload(folder)
            refused = f" (its program: {status['program_refused']})" if status.get("program_refused") else ""
            Report().say(f"{len(self._said)}/{len(self._entries)} {entry.name}  {outcome(status)}{refused}")
        elif (changed := folder.curve_changed()) > self._sent.get(entry.key, 0.0) + UPLOAD_SECONDS:
            self._sent[entry.key] = changed
            self._upload(folder)

    def _upload(self, folder: RunFolder) -> None:
        if self._order.tracking:
            shared_uploader().send(folder.path)

    def _ended(self, entry: Entry) -> bool:
        folder = self._order.claims.latest(entry.key)
        status = folder.status() if folder else {}
        return bool(status) and status["status"] != "RUNNING" and not self._order.rule.again(status)
