"""The upload process, `python -m exp.tracking.upload`: told folder names on standard input, it keeps MLflow up to date.

It imports MLflow while the trainer is still starting, survives the trainer, and ends by itself: when its input ends it
uploads what it was given once more, marks what a killed trainer left behind as KILLED, and is done.
"""

import contextlib
import gc
import json
import queue
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from exp.run_folder import SWEEPS, RunFolder, mark_killed, run_folders
from exp.tracking.contents import is_complete

_HANG_SECONDS = 1.0
"""A failure that took longer was a server that hangs: the same store is then left alone for ten times as long."""


class Upload:
    """The work of the process. `answer` tells the trainer, one JSON line each."""

    def __init__(self) -> None:
        from exp.tracking.record import Store

        self._store_type = Store
        self._stores: dict[str, Store] = {}
        self._blocked: dict[str, tuple[float, str]] = {}  # uri -> (until, why)

    def open(self, uri: str) -> None:
        """Open a store that will be needed."""
        with contextlib.suppress(Exception):  # said when there is something to upload
            self._reached(uri, lambda store: {})

    def folder(self, path: Path) -> None:
        """Upload what is new in one run folder; the answer is final once the run is over."""
        folder = RunFolder(path)
        status = folder.status()
        if not status.get("tracking"):
            self.answer(str(path), final=True, run=None)
            return
        over = status["status"] != "RUNNING"
        try:
            run = self._reached(status["tracking"]["uri"], lambda store: store.record(folder))
            if over:
                self.answer(str(path), final=True, **run)
        except Exception as error:  # whatever it is, training goes on and the trainer says it in a line
            if over:
                self.answer(str(path), final=True, error=_reason(error))

    def view(self, view: dict[str, Any]) -> None:
        """Save the view of a sweep."""
        try:
            found = self._reached(view["uri"], lambda store: store.save_view(view))
            self._reached(view["uri"], lambda store: store.analyze())
            self.answer(view["sweep"], final=True, **found)
        except Exception as error:
            self.answer(view["sweep"], final=True, error=_reason(error))

    def recover(self, runs: Path) -> None:
        """Upload what is missing of runs that are over and that nobody else looks after."""
        uploaded, failed = [], []
        for folder in [*run_folders(runs), *run_folders(runs / SWEEPS)]:
            status = folder.status()
            if status.get("tracking") and not is_complete(folder.read_json("tracking.json"), status) and not folder.alive:
                try:
                    self._reached(status["tracking"]["uri"], lambda store, folder=folder: store.record(folder))
                    uploaded.append(str(folder.path))
                except Exception as error:
                    failed.append(_reason(error))
        self.answer(f"recovered {runs}", final=True, uploaded=uploaded, failed=failed)

    def answer(self, name: str, **answer: Any) -> None:
        with contextlib.suppress(OSError):  # the trainer is gone; the work goes on
            print(json.dumps({"name": name} | answer), flush=True)

    def _reached(self, uri: str, action: Any) -> dict[str, Any]:
        until, why = self._blocked.get(uri, (0.0, ""))
        if time.monotonic() < until:
            raise TimeoutError(why)
        started = time.monotonic()
        try:
            if uri not in self._stores:
                self._stores[uri] = self._store_type(uri)
            return action(self._stores[uri])
        except Exception as error:
            took = time.monotonic() - started
            if took > _HANG_SECONDS:
                self._blocked[uri] = (time.monotonic() + 10 * took, _reason(error))
            raise


def _reason(error: Exception) -> str:
    """An error on one line, short: MLflow's are long."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.split(r" ?\[SQL| ?\(Background", text)[0]
    return text if len(text) <= 200 else f"{text[:197]}…"


def main() -> None:
    """Read messages until the trainer closes its end."""
    gc.disable()  # importing makes many objects and little garbage: a tenth of the time
    messages: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        messages.put(None)

    threading.Thread(target=read, daemon=True).start()
    upload = Upload()
    gc.enable()
    upload.answer("upload", ready=True)
    seen: list[Path] = []
    last: dict[str, Any] | None = {}
    while last is not None:
        batch = [messages.get()]
        while not messages.empty():
            batch.append(messages.get())
        last = batch[-1]
        changed = dict.fromkeys(message["folder"] for message in batch if message and "folder" in message)
        for path in map(Path, changed):
            seen.append(path)
            upload.folder(path)
        for message in filter(None, batch):
            if "open" in message:
                upload.open(message["open"])
            elif "view" in message:
                upload.view(message["view"])
            elif "recover" in message:
                upload.recover(Path(message["recover"]))
    for path in seen:  # a trainer that was killed left some of these RUNNING
        if RunFolder(path).status().get("status") == "RUNNING" and _released(RunFolder(path)):
            mark_killed(path.parent)
            upload.folder(path)


def _released(folder: RunFolder) -> bool:
    """Whether the run's process is gone. The kernel may close our input a moment before it frees the lock."""
    deadline = time.monotonic() + 5
    while folder.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return not folder.alive


if __name__ == "__main__":
    main()
