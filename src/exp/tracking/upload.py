"""The upload process, `python -m exp.tracking.upload`: told folder names on standard input, it keeps MLflow up to date.

It imports MLflow only for what cannot be written without, and then while the trainer is still starting. It survives the
trainer, and ends by itself: when its input ends it uploads what it was given once more, marks what a killed trainer left
behind as KILLED, and is done.
"""

import contextlib
import gc
import json
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from exp.errors import InputError
from exp.run_folder import SWEEPS, RunFolder, mark_killed, run_folders
from exp.tracking.contents import is_complete
from exp.tracking.record import Store
from exp.tracking.settings import Mlflow

_HANG_SECONDS = 1.0
"""A failure that took longer was a server that hangs: the same store is then left alone for ten times as long."""

T = TypeVar("T")


class Upload:
    """The work of the process. `answer` tells the trainer, one JSON line each."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._blocked: dict[str, tuple[float, str]] = {}  # uri -> (until, why)

    def load(self, uri: str) -> None:
        """Import what this store will need."""
        gc.disable()  # importing makes many objects and little garbage: a tenth of the time
        with contextlib.suppress(Exception):  # said when there is something to upload
            self._store(uri).load()
        gc.freeze()  # nor is what was imported looked through ever again
        gc.enable()

    def open(self, uri: str) -> None:
        """Open a store that will be needed. What is imported for it is no slowness of the store's."""
        self.load(uri)
        self.answer("upload", loaded=uri)
        with contextlib.suppress(Exception):
            self._reached(uri, lambda store: store.open())
        if self._store(uri).by_client:
            self.answer("upload", by_client=uri)

    def folders(self, paths: Iterable[Path]) -> None:
        """Upload what is new in these run folders; the answer is final once a run is over."""
        chosen: dict[str, list[tuple[RunFolder, bool]]] = {}
        for folder in map(RunFolder, paths):
            status = folder.status()
            if status.get("tracking"):
                chosen.setdefault(status["tracking"]["uri"], []).append((folder, status["status"] != "RUNNING"))
            else:
                self.answer(str(folder.path), final=True, **({"run": None} if status else {"error": "the folder is gone"}))
        for uri, folders in chosen.items():
            for run, (folder, over) in zip(self._recorded(uri, [folder for folder, _ in folders]), folders, strict=True):
                if over:
                    self.answer(str(folder.path), final=True, **run)

    def view(self, view: dict[str, Any]) -> None:
        """Save the view of a sweep."""
        try:
            self.answer(view["sweep"], final=True, **self._reached(view["uri"], lambda store: store.save_view(view)))
        except Exception as error:
            self.answer(view["sweep"], final=True, error=_reason(error))
        with contextlib.suppress(Exception):  # only makes reading faster, and nobody waits for it
            self._reached(view["uri"], lambda store: store.analyze())

    def recover(self, runs: Path, address: str) -> None:
        """Upload what is missing of runs that are over and that nobody else looks after: first what belongs into the store at
        `address`, then, when that has been answered, what waits for others, which may be down."""
        missing: dict[str, list[RunFolder]] = {}
        for folder in [*run_folders(runs), *run_folders(runs / SWEEPS)]:
            status = folder.status()
            if status.get("tracking") and not is_complete(folder.read_json("tracking.json"), status) and not folder.alive:
                missing.setdefault(status["tracking"]["uri"], []).append(folder)
        uploaded, failed = [], []
        own = missing.pop(address, [])
        for run, folder in zip(self._recorded(address, own), own, strict=True):
            if "error" in run:
                failed.append([str(folder.path), run["error"]])
            else:
                uploaded.append(str(folder.path))
        waiting = [[uri, len(folders), str(folders[0].path)] for uri, folders in missing.items()]
        self.answer(f"recovered {runs}", final=True, uploaded=uploaded, failed=failed, waiting=waiting)
        for uri, folders in missing.items():
            deque(self._recorded(uri, folders), maxlen=0)

    def answer(self, name: str, **answer: Any) -> None:
        with contextlib.suppress(OSError):  # the trainer is gone; the work goes on
            print(json.dumps({"name": name} | answer), flush=True)

    def _recorded(self, uri: str, folders: list[RunFolder]) -> Iterable[dict[str, Any]]:
        """The ids of each run, or the `error`: whatever it is, training goes on and the trainer says it in a line."""
        many = self._store(uri).together
        for start in range(0, len(folders), many):
            some = folders[start : start + many]
            try:
                yield from self._reached(uri, lambda store, some=some: store.record_together(some))
            except Exception as error:
                if len(some) == 1:
                    yield {"error": _reason(error)}
                else:  # which of them is it?
                    yield from (run for folder in some for run in self._recorded(uri, [folder]))

    def _store(self, uri: str) -> Store:
        return self._stores.setdefault(uri, Store(uri))

    def _reached(self, uri: str, action: Callable[[Store], T]) -> T:
        until, why = self._blocked.get(uri, (0.0, ""))
        if time.monotonic() < until:
            raise TimeoutError(why)
        started = time.monotonic()
        try:
            return action(self._store(uri))
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
    messages: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            with contextlib.suppress(json.JSONDecodeError):  # the trainer was killed within a line
                messages.put(json.loads(line))
        messages.put(None)

    threading.Thread(target=read, daemon=True).start()
    upload = Upload()
    with contextlib.suppress(InputError):  # while the trainer finds out whether it is another one
        upload.load(Mlflow().address()["uri"])
    seen: dict[str, None] = {}
    last: dict[str, Any] | None = {}
    while last is not None:
        batch = [messages.get()]
        while not messages.empty():
            batch.append(messages.get())
        last = batch[-1]
        told = [message for message in batch if message]
        for message in told:
            if "open" in message:
                upload.open(message["open"])
        changed = dict.fromkeys(message["folder"] for message in told if "folder" in message)
        seen |= changed
        upload.folders(map(Path, changed))
        for message in told:
            if "view" in message:
                upload.view(message["view"])
            elif "recover" in message:
                upload.recover(Path(message["recover"]), message["uri"])
            elif "settle" in message:
                upload.answer(message["settle"], final=True)
    for path in map(Path, seen):  # a trainer that was killed left some of these RUNNING
        if RunFolder(path).status().get("status") == "RUNNING" and _released(RunFolder(path)):
            mark_killed(path.parent)
            upload.folders([path])


def _released(folder: RunFolder) -> bool:
    """Whether the run's process is gone. The kernel may close our input a moment before it frees the lock."""
    deadline = time.monotonic() + 5
    while folder.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return not folder.alive


if __name__ == "__main__":
    main()
