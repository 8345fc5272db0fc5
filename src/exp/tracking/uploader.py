"""The trainer's side of the upload: a process that is started first and told which run folders have changed.

The trainer writes folders and sends their names; it waits once, at the end, and not for long. What did not arrive is
found in the runs folder by the next invocation.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SERVER_PATIENCE_SECONDS = 10.0
DATABASE_PATIENCE_SECONDS = 60.0
START_PATIENCE_SECONDS = 60.0
SETTLING_SECONDS = 30.0

CROWD = 32
"""So many runs that wait for MLflow's client get a second process: a run takes the client a tenth of a second and more."""


class Uploader:
    """The upload process, or two. Answers are JSON lines: `{"name": folder, "run": …}` or `{"name": folder, "error": …}`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stores: list[str] = []
        self._by_client = False
        self._open: set[str] = set()
        self._answers: dict[str, dict[str, Any]] = {}
        self._waited_seconds = 0.0
        self._processes = [_Process(self._take)]
        self._turn = itertools.count()

    def open(self, uri: str) -> None:
        """Runs will be tracked at `uri`: open it while the trainer is still getting ready."""
        with self._changed:
            if uri in self._stores:
                return
            self._stores.append(uri)
            for process in self._processes:
                process.open(uri)

    def send(self, folder: Path) -> None:
        """The folder has changed: upload what is new in it."""
        name = str(folder.absolute())
        with self._changed:
            self._open.add(name)
            if self._by_client and len(self._open) > CROWD and len(self._processes) == 1:
                self._processes.append(_Process(self._take))
                for uri in self._stores:
                    self._processes[-1].open(uri)
            self._processes[next(self._turn) % len(self._processes)].tell({"folder": name})

    def send_unknown(self, folders: Iterable[Path]) -> None:
        """Upload those of which this uploader has not heard: an earlier one may have died with what it was told."""
        for folder in folders:
            name = str(folder.absolute())
            if name not in self._open and name not in self._answers:
                self.send(folder)

    def send_view(self, view: dict[str, Any]) -> None:
        """Save the page that overlays a sweep's curves."""
        self._ask(view["sweep"], {"view": view})

    def recover(self, runs: Path, uri: str) -> None:
        """Upload what earlier invocations with this runs folder could not; what is not for `uri`, when that is answered."""
        self._ask(f"recovered {runs}", {"recover": str(runs), "uri": uri})

    def settle(self, *, at_most: float = SETTLING_SECONDS) -> bool:
        """Wait until all is done that was told so far, and nothing computes; False if that takes longer."""
        names = {f"settled {time.monotonic_ns()} {number}": process for number, process in enumerate(self._processes)}
        for name, process in names.items():
            self._ask(name, {"settle": name}, process)
        deadline = time.monotonic() + at_most
        with self._changed:
            while self._lacks(names) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._open.isdisjoint(names)

    def wait(self, names: Iterable[str], uri: str, *, at_most: float = DATABASE_PATIENCE_SECONDS) -> dict[str, dict[str, Any]]:
        """The last answers for these folders and views, waiting while the store works; missing: no answer in time.

        A server that is down or hangs is waited for 10 seconds in all, however often this is called. `at_most` are seconds.
        """
        names = dict.fromkeys(names)
        patience = DATABASE_PATIENCE_SECONDS if uri.startswith("sqlite") else SERVER_PATIENCE_SECONDS
        deadline = time.monotonic() + at_most
        with self._changed:
            while self._lacks(names):
                started, ready = time.monotonic(), not any(process.loading for process in self._processes)
                left = (patience - self._waited_seconds) if ready else START_PATIENCE_SECONDS
                limit = min(left, deadline - started)
                if limit <= 0:
                    break
                self._changed.wait(limit)
                if ready:  # importing MLflow is our own slowness, not the server's
                    self._waited_seconds += time.monotonic() - started
            answers = {name: self._answers[name] for name in names if name in self._answers and name not in self._open}
            if len(answers) == len(names) and not any("error" in answer for answer in answers.values()):
                self._waited_seconds = 0.0  # the store is well: the next trouble is a new one
        return answers

    @property
    def alive(self) -> bool:
        """Whether every process is still there."""
        return all(process.alive for process in self._processes)

    def close(self, *, kill: bool = False) -> None:
        """No more to send. The processes end by themselves, once they have uploaded what they were given; or now, by `kill`."""
        for process in self._processes:
            process.close(kill=kill)

    def _ask(self, name: str, message: dict[str, Any], process: "_Process | None" = None) -> None:
        with self._changed:
            self._open.add(name)
            (process or self._processes[0]).tell(message)

    def _lacks(self, names: Iterable[str]) -> bool:
        """Whether an answer is still to come, as far as there is somebody to give it."""
        return not self._open.isdisjoint(names) and not any(process.ended for process in self._processes)

    def _take(self, process: "_Process", answer: dict[str, Any] | None) -> None:
        """An answer; None: the process has ended."""
        with self._changed:
            if answer is None:
                process.ended = True
            else:
                process.loading.discard(answer.get("loaded"))
                self._by_client |= "by_client" in answer
                if answer.get("final", False):
                    self._open.discard(answer["name"])
                    self._answers[answer["name"]] = answer
            self._changed.notify_all()


class _Process:
    """One process; a thread gives its answers to `take` as they come: one that is not heard stands still in the end."""

    def __init__(self, take: Callable[["_Process", dict[str, Any] | None], None]):
        # A session of its own: Ctrl-C in the terminal is for the trainer, and what it leaves is still uploaded.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exp.tracking.upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.loading: set[str] = set()
        self.ended = False
        threading.Thread(target=self._listen, args=(take,), daemon=True).start()

    @property
    def alive(self) -> bool:
        return not self.ended and self._process.poll() is None  # its pipe may end a moment before it does

    def open(self, uri: str) -> None:
        self.loading.add(uri)
        self.tell({"open": uri})

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it is gone; no answer will come
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def close(self, *, kill: bool) -> None:
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if kill:
            self._process.kill()
            self._process.wait()
        self._process.returncode = self._process.poll() or 0  # it may outlive us on purpose

    def _listen(self, take: Callable[["_Process", dict[str, Any] | None], None]) -> None:
        assert self._process.stdout
        with self._process.stdout as answers:
            buffer = b""
            while chunk := os.read(answers.fileno(), 1 << 16):
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    with contextlib.suppress(json.JSONDecodeError):  # a word of some library's
                        take(self, json.loads(line))
        take(self, None)


_shared: Uploader | None = None


def shared_uploader() -> Uploader:
    """The one uploader of this process, started at the first call, and again where it died."""
    global _shared
    if _shared is not None and not _shared.alive:
        close_shared_uploader()
    if _shared is None:
        _shared = Uploader()
    return _shared


def close_shared_uploader(*, kill: bool = False) -> None:
    """End the shared uploader, if one was started."""
    global _shared
    if _shared is not None:
        _shared.close(kill=kill)
        _shared = None
