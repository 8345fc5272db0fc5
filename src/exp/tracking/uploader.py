"""The trainer's side of the upload: a process that is started first and told which run folders have changed.

The trainer writes folders and sends their names; it waits once, at the end, and not for long. What did not arrive is
found in the runs folder by the next invocation.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SERVER_PATIENCE_SECONDS = 10.0
DATABASE_PATIENCE_SECONDS = 60.0
START_PATIENCE_SECONDS = 60.0
SETTLING_SECONDS = 30.0


class Uploader:
    """One upload process. Its answers are JSON lines: `{"name": folder, "run": …}` or `{"name": folder, "error": …}`."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the trainer, and what it leaves is still uploaded.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exp.tracking.upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reading = threading.Lock()
        self._buffer = b""
        self._loading: set[str] = set()
        self._stores: set[str] = set()
        self._open: set[str] = set()
        self._answers: dict[str, dict[str, Any]] = {}
        self._waited_seconds = 0.0

    def open(self, uri: str) -> None:
        """Runs will be tracked at `uri`: open it while the trainer is still getting ready."""
        if uri not in self._stores:
            self._stores.add(uri)
            self._loading.add(uri)
            self._tell({"open": uri})

    def send(self, folder: Path) -> None:
        """The folder has changed: upload what is new in it."""
        self._open.add(str(folder.absolute()))
        self._tell({"folder": str(folder.absolute())})

    def send_view(self, view: dict[str, Any]) -> None:
        """Save the page that overlays a sweep's curves."""
        self._open.add(view["sweep"])
        self._tell({"view": view})

    def recover(self, runs: Path) -> None:
        """Upload what earlier invocations with this runs folder could not."""
        self._open.add(f"recovered {runs}")
        self._tell({"recover": str(runs)})

    def settle(self, *, at_most: float = SETTLING_SECONDS) -> bool:
        """Wait until the process has done what it was told so far, and computes no more; False if that takes longer."""
        name = f"settled {time.monotonic_ns()}"
        self._open.add(name)
        self._tell({"settle": name})
        deadline = time.monotonic() + at_most
        with self._reading:
            while name in self._open and (left := deadline - time.monotonic()) > 0:
                if not self._read(left):
                    break
        return name not in self._open

    def wait(self, names: Iterable[str], uri: str, *, at_most: float = DATABASE_PATIENCE_SECONDS) -> dict[str, dict[str, Any]]:
        """The last answers for these folders and views, waiting while the store works; missing: no answer in time.

        A server that is down or hangs is waited for 10 seconds in all, however often this is called. `at_most` are seconds.
        """
        names = list(names)
        patience = DATABASE_PATIENCE_SECONDS if uri.startswith("sqlite") else SERVER_PATIENCE_SECONDS
        deadline = time.monotonic() + at_most
        with self._reading:
            while self._open & set(names):
                started, ready = time.monotonic(), not self._loading
                left = (patience - self._waited_seconds) if ready else START_PATIENCE_SECONDS
                limit = min(left, deadline - started)
                if limit <= 0 or not self._read(limit):
                    break
                if ready:  # importing MLflow is our own slowness, not the server's
                    self._waited_seconds += time.monotonic() - started
            answers = {name: self._answers[name] for name in names if name in self._answers and name not in self._open}
            if len(answers) == len(names) and not any("error" in answer for answer in answers.values()):
                self._waited_seconds = 0.0  # the store is well: the next trouble is a new one
        return answers

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def close(self, *, kill: bool = False) -> None:
        """No more to send. The process ends by itself, once it has uploaded what it was given; or now, by `kill`."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if kill:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._process.returncode = self._process.poll() or 0  # it may outlive us on purpose

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it is gone; wait() finds no answer
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self, seconds: float) -> bool:
        """Take in some answers; False if none came in time or the process is gone."""
        assert self._process.stdout
        file = self._process.stdout.fileno()
        if not select.select([file], [], [], seconds)[0]:
            return False
        if not (chunk := os.read(file, 1 << 16)):
            return False
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._loading.discard(answer.get("loaded"))
            if answer.get("final", False):
                self._open.discard(answer["name"])
                self._answers[answer["name"]] = answer
        return True


_shared: Uploader | None = None


def shared_uploader() -> Uploader:
    """The one upload process of this process, started at the first call, and again where it died."""
    global _shared
    if _shared is not None and not _shared.alive:
        close_shared_uploader()
    if _shared is None:
        _shared = Uploader()
    return _shared


def close_shared_uploader(*, kill: bool = False) -> None:
    """End the shared upload process, if one was started."""
    global _shared
    if _shared is not None:
        _shared.close(kill=kill)
        _shared = None
