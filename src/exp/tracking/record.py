"""A run folder as an MLflow run: what is told of it, in which order, and what is remembered of what was told.

Recording is idempotent: what is new in the folder is added, a run is found again by its tag `exp.run`, and points that
the store has already are not added twice. Non-finite values never reach the store.

Two writers put it there: `bulk` into the tables of a local database, and MLflow's own client into any store.
"""

import fcntl
import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from exp.run_folder import RunFolder
from exp.tracking.bulk import PATIENCE_SECONDS, Bulk, Unfamiliar
from exp.tracking.contents import Ending, Point, ending, is_complete, milliseconds, new_points, tags_of
from exp.tracking.settings import database_file
from exp.tracking.view import saved_view

TOGETHER = 64
"""Runs in one transaction at most: others wait as long to write."""

T = TypeVar("T")


class Writer(Protocol):
    """How a run gets into a store. `experiment` and `run` are the store's ids, times are in milliseconds."""

    lasting: bool
    """Whether what was written stays there when an error follows."""

    def transaction(self) -> AbstractContextManager[None]:
        """Around all the rest: what is written meanwhile is written as a whole, where the writer can."""
        ...

    def experiment(self, name: str, artifacts: str | None) -> str:
        """The experiment of this name, made if need be; its artifacts then lie at `artifacts`, None: where the store says."""
        ...

    def find(self, experiment: str, folder: str) -> str | None:
        """The run of a folder, by its tag `exp.run`."""
        ...

    def begin(self, experiment: str, name: str, started: int, tags: dict[str, str]) -> str:
        """A new run, RUNNING."""
        ...

    def add_points(self, run: str, points: Mapping[str, list[Point]]) -> None:
        """Add points of metrics, at least one of each; those that are there already are not added again."""
        ...

    def go_on(self, run: str) -> None:
        """A run that had ended is RUNNING again."""
        ...

    def finish(self, run: str, points: Mapping[str, list[Point]], ending: Ending) -> None:
        """Add the last points, and what is known at the end; last the status."""
        ...

    def tag_experiment(self, experiment: str, key: str, value: str) -> None: ...


class Store:
    """An MLflow store at `uri`."""

    def __init__(self, uri: str):
        self.uri = uri
        file = database_file(uri)
        self._bulk = Bulk(file) if file else None

    @cached_property
    def client(self) -> Writer:
        """MLflow's own client: it takes a second to import, and makes the tables of a database that has none."""
        from exp.tracking.client import Client

        return Client(self.uri)

    @property
    def together(self) -> int:
        """How many runs it pays to record together."""
        return TOGETHER if self._bulk else 1

    @property
    def by_client(self) -> bool:
        """Whether it takes MLflow's client: a server, or a database that is new or of another version."""
        return not (self._bulk and self._bulk.familiar)

    def load(self) -> None:
        """Import what will be needed, without reaching the store."""
        if self.by_client:
            import exp.tracking.client  # noqa: F401

    def open(self) -> None:
        """Get ready for the first run. MLflow's client makes the tables of a new database."""
        self._written(lambda writer: None)

    def record_together(self, folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
        """Add what is new in the folders, in one transaction where the store is a local database; returns the `experiment` and
        `run` ids of each. Waits while another process does it."""
        with ExitStack() as held:
            paths = sorted({folder.path for folder in folders})  # in one order: two processes never wait for each other
            known = [held.enter_context(_Known(path)) for path in paths]
            told = self._written(lambda writer: [self._told(writer, each) for each in known])
            for each, content in zip(known, told, strict=True):
                each.keep(content)
        ids = {path: {key: content[key] for key in ("experiment", "run")} for path, content in zip(paths, told, strict=True)}
        return [ids[folder.path] for folder in folders]

    def save_view(self, view: dict[str, Any]) -> dict[str, Any]:
        """Save the view of a sweep in the experiment; returns the `experiment` id and the `key` of the view."""
        key, state = re.sub(r"[^A-Za-z0-9]", "", view["sweep"]), saved_view(view)

        def save(writer: Writer) -> str:
            experiment = writer.experiment(view["experiment"], self._artifacts(view["experiment"]))
            writer.tag_experiment(experiment, f"mlflow.sharedViewState.{key}", state)
            return experiment

        return {"experiment": self._written(save), "key": key}

    def analyze(self) -> None:
        """Let SQLite count its rows: without statistics it reads every point of a metric to show one run's, 18x slower."""
        if (file := database_file(self.uri)) is not None:
            with closing(sqlite3.connect(file, timeout=PATIENCE_SECONDS)) as connection:
                connection.execute("ANALYZE")
                connection.commit()

    def _written(self, write: Callable[[Writer], T]) -> T:
        """Have it written in one transaction, or by the client where that cannot be."""
        if self._bulk:
            with suppress(Unfamiliar), self._bulk.transaction():
                return write(self._bulk)
        return write(self.client)

    def _told(self, writer: Writer, known: "_Known") -> dict[str, Any]:
        """Tell what is new in a folder; returns what is then known of it."""
        folder, status = known.folder, known.folder.status()
        address, over = status["tracking"], status["status"] != "RUNNING"
        told = known.content if known.content.get("store", address) == address else {}  # it is tracked in another place now
        if is_complete(told, status):
            return told
        told = told | {"store": address, "points": {**told.get("points", {})}}
        if "run" not in told:
            told["experiment"] = writer.experiment(address["experiment"], self._artifacts(address["experiment"]))
            started = milliseconds(status["started"])
            told["run"] = writer.find(told["experiment"], folder.path.name) or writer.begin(
                told["experiment"], status["name"], started, tags_of(folder, status)
            )
        if writer.lasting:
            known.keep(told)
        new = new_points(folder.curve(), told["points"])
        points = {name: points for name, (points, _) in new.items() if points}
        if over:
            writer.finish(told["run"], points, ending(folder, status))
        else:
            if points:
                writer.add_points(told["run"], points)
            if told.get("complete"):  # a sweep that goes on
                writer.go_on(told["run"])
        told["points"] |= {name: sent for name, (_, sent) in new.items()}
        return told | {"complete": over, "revision": status.get("revision", 0)}

    def _artifacts(self, experiment: str) -> str | None:
        """Artifacts of a SQLite store lie beside its file, wherever it was opened from; of a server, where it says."""
        file = database_file(self.uri)
        return f"{(file.parent / 'mlartifacts').as_uri()}/{quote(experiment, safe='')}" if file else None


class _Known:
    """What tracking.json of a folder says that the store has; locked as long as it is entered."""

    def __init__(self, path: Path):
        self.folder = RunFolder(path)
        self.content: dict[str, Any] = {}

    def __enter__(self) -> "_Known":
        self._file = (self.folder.path / "tracking.json").open("a+")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(0)
        with suppress(json.JSONDecodeError):  # new, or torn by a kill: the run is found again by its tag
            self.content = json.loads(self._file.read())
        return self

    def keep(self, content: dict[str, Any]) -> None:
        if content != self.content:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(content | {"at": time.time()}))
            self._file.flush()
            self.content = content

    def __exit__(self, *error: object) -> None:
        self._file.close()
