"""Runs written straight into a local MLflow database, in one transaction: no MLflow, and many times as fast as its client.

Only into tables of the one `REVISION` for which tests hold both results equal, table by table. What is unusual raises
`Unfamiliar`, before anything is left behind: then the client does it, or says why it cannot be done.
"""

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from exp.tracking.contents import Ending, Point

REVISION = "dc11669786a5"
"""The last migration of MLflow 3.17.2."""

PATIENCE_SECONDS = 20.0
"""How long another writer is waited for; as MLflow does."""

IGNORE, REPLACE = "ON CONFLICT DO NOTHING", "ON CONFLICT DO UPDATE SET value = excluded.value"
IF_LATER = f"""{REPLACE}, timestamp = excluded.timestamp, step = excluded.step
    WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)"""


class Unfamiliar(Exception):
    """What is left to MLflow's client."""


class Bulk:
    """A writer of the tables in a SQLite `file`."""

    lasting = False

    def __init__(self, file: Path):
        self._file = file

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written meanwhile appears at once; where it ends by an error or a kill, not at all."""
        with self._opened():
            self._rows("BEGIN IMMEDIATE")
            with self._database:
                _require(self._is_known())
                yield

    @property
    def familiar(self) -> bool:
        """Whether the tables are those that can be written."""
        with suppress(Unfamiliar, sqlite3.Error), self._opened():
            return self._is_known()
        return False

    @contextmanager
    def _opened(self) -> Iterator[None]:
        absent = not (self._file.exists() and self._file.stat().st_size)  # MLflow makes a new one
        _require(not absent and not os.environ.get("MLFLOW_ENABLE_WORKSPACES"))
        with closing(sqlite3.connect(self._file, timeout=PATIENCE_SECONDS, isolation_level=None)) as self._database:
            yield

    def _is_known(self) -> bool:
        versioned = self._rows("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
        return bool(versioned) and self._rows("SELECT version_num FROM alembic_version") == [(REVISION,)]

    def experiment(self, name: str, artifacts: str | None) -> str:
        now = int(time.time() * 1000)
        columns = "name artifact_location lifecycle_stage creation_time last_update_time"
        self._add("experiments", columns, [(name, artifacts, "active", now, now)], IGNORE)
        named = "workspace = 'default' AND name = ?"
        ((experiment, stage),) = self._rows(f"SELECT experiment_id, lifecycle_stage FROM experiments WHERE {named}", name)
        _require(stage == "active" and len(name) <= 256)
        return str(experiment)

    def find(self, experiment: str, folder: str) -> str | None:
        named = "key = 'exp.run' AND value = ? AND experiment_id = ? AND lifecycle_stage = 'active'"
        found = self._rows(f"SELECT run_uuid FROM tags JOIN runs USING (run_uuid) WHERE {named}", folder, experiment)
        return found[0][0] if found else None

    def begin(self, experiment: str, name: str, started: int, tags: dict[str, str]) -> str:
        ((place,),) = self._rows("SELECT artifact_location FROM experiments WHERE experiment_id = ?", experiment)
        run, user = uuid4().hex, tags.get("mlflow.user", "unknown")
        columns = "run_uuid artifact_uri experiment_id name user_id start_time source_type source_name entry_point_name"
        row = (run, f"{place}/{run}/artifacts", experiment, name, user, started, "UNKNOWN", "", "")
        self._add("runs", f"{columns} source_version status lifecycle_stage", [(*row, "", "RUNNING", "active")])
        self._tag(run, tags | {"mlflow.runName": name})
        return run

    def add_points(self, run: str, points: Mapping[str, list[Point]]) -> None:
        self._usual(run, points)
        rows = {name: [(name, run, 0, *point) for point in some] for name, some in points.items()}
        self._add("metrics", "key run_uuid is_nan step timestamp value", list(chain(*rows.values())), IGNORE)
        self._add("latest_metrics", "key run_uuid is_nan step timestamp value", [*map(max, rows.values())], IF_LATER)

    def go_on(self, run: str) -> None:
        self._usual(run)
        self._rows("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", run)

    def finish(self, run: str, points: Mapping[str, list[Point]], ending: Ending) -> None:
        experiment, place = self._usual(run, [*ending.params, *ending.metrics, *ending.tags])
        known = dict(self._rows("SELECT key, value FROM params WHERE run_uuid = ?", run))
        _require(place.startswith("file:///") and {**known, **ending.params} == {**ending.params, **known})
        self._add("params", "key value run_uuid", [(*param, run) for param in ending.params.items()], IGNORE)
        self.add_points(run, {**points, **{name: [(0, ending.ended, value)] for name, value in ending.metrics.items()}})
        self._tag(run, ending.tags | ({"mlflow.runName": ending.renamed} if ending.renamed else {}))
        self._database.executemany("DELETE FROM tags WHERE key = ? AND run_uuid = ?", [(key, run) for key in ending.left])
        if ending.dataset:
            self._add_dataset(run, experiment, **ending.dataset)
        _copy(ending.files, Path(unquote(place.removeprefix("file://"))))
        changes = "status = ?, end_time = ?, name = coalesce(?, name)"
        self._rows(f"UPDATE runs SET {changes} WHERE run_uuid = ?", ending.status, ending.ended, ending.renamed, run)

    def tag_experiment(self, experiment: str, key: str, value: str) -> None:
        _require(len(value) <= 20000)
        self._add("experiment_tags", "key value experiment_id", [(key, value, experiment)], REPLACE)

    def _add_dataset(self, run: str, experiment: str, name: str, digest: str, source: str, profile: str) -> None:
        _require(len(source) <= 65535)
        row = uuid4().hex, experiment, name, digest, "exp", source, profile
        columns = "dataset_uuid experiment_id name digest dataset_source_type dataset_source dataset_profile"
        self._add("datasets", columns, [row], IGNORE)
        same = "experiment_id = ? AND name = ? AND digest = ?"
        ((dataset,),) = self._rows(f"SELECT dataset_uuid FROM datasets WHERE {same}", experiment, name, digest)
        if not self._rows("SELECT 1 FROM inputs WHERE source_id = ? AND destination_id = ?", dataset, run):
            edge = (uuid4().hex, "DATASET", dataset, "RUN", run)
            self._add("inputs", "input_uuid source_type source_id destination_type destination_id", [edge])
            self._add("input_tags", "input_uuid name value", [(edge[0], "mlflow.data.context", "training")])

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        self._add("tags", "key value run_uuid", [(*tag, run) for tag in tags.items()], REPLACE)

    def _usual(self, run: str, names: Iterable[str] = ()) -> tuple[str, str]:
        """The experiment of a run and the place of its artifacts, if it was not deleted and these names are plain ones."""
        found = self._rows("SELECT experiment_id, artifact_uri, lifecycle_stage FROM runs WHERE run_uuid = ?", run)
        plain = all(re.fullmatch(r"\w[\w.\- :]*(/\w[\w.\- :]*)*", name) and len(name) <= 250 for name in names)
        _require(plain and bool(found) and found[0][2] == "active")
        return found[0][:2]

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._database.execute(sql, values).fetchall()

    def _add(self, table: str, columns: str, rows: list[Any], conflict: str = "") -> None:
        names = columns.split()
        values = f"({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        self._database.executemany(f"INSERT INTO {table} {values} {conflict}", rows)


def _require(usual: bool) -> None:
    if not usual:
        raise Unfamiliar


def _copy(files: list[Path], folder: Path) -> None:
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        unfinished = folder / f".{file.name}.{os.getpid()}"
        shutil.copy2(file, unfinished)
        unfinished.replace(folder / file.name)
