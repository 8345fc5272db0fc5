"""A run folder as an MLflow run. The only module that imports mlflow.

Recording is idempotent: what is new in the folder is added, a run is found again by its tag `exp.run`, and points that
the store has already are not added twice. Non-finite values never reach the store.
"""

import fcntl
import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Short timeouts and no retries of MLflow's own (its defaults block for minutes): what fails is tried again by us.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as database

from exp.run_folder import RunFolder
from exp.tracking.contents import LEFT, is_complete, params_of, tags_of
from exp.tracking.settings import database_file
from exp.tracking.view import saved_view

ARTIFACTS = ("config.yaml", "environment.json", "error.txt", "verdict.json", "kit.txt", "benchmark.json")
ARTIFACTS += ("plan.json", "summary.json", "compare.html", "compare.csv", "compare.json", "benchmark.html")
"""The files of a run folder that become artifacts."""

CHUNK = 1000
"""Points in one request: MLflow's limit."""

database.MAX_RETRY_COUNT = 2  # of opening a database, else a broken file is tried for two minutes


class Store:
    """An MLflow store at `uri`."""

    def __init__(self, uri: str):
        self.uri = uri
        with _first_open(uri):
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        self._experiments: dict[str, str] = {}

    def record(self, folder: RunFolder) -> dict[str, Any]:
        """Add what is new in the folder; returns the `experiment` and `run` ids. Waits while another process does it."""
        with (folder.path / "tracking.json").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known, status = _parsed(file), folder.status()
            if known.get("store", status["tracking"]) != status["tracking"]:
                known = {}  # it is tracked in another place now
            if not is_complete(known, status):
                known |= self._found_or_created(folder, status, known) | {"store": status["tracking"]}
                _rewrite(file, known)
                known["points"] = self._add_points(known["run"], folder.curve(), known.get("points", {}))
                if status["status"] != "RUNNING":
                    self._finish(known["run"], folder, status)
                elif "revision" in known:
                    self._client.update_run(known["run"], status="RUNNING")  # a sweep that goes on
                known["complete"] = status["status"] != "RUNNING"
                known["revision"] = status.get("revision", 0)
                _rewrite(file, known)
        return {"experiment": known["experiment"], "run": known["run"]}

    def analyze(self) -> None:
        """Let SQLite count its rows: without statistics it reads every point of a metric to show one run's, 18x slower."""
        if (file := database_file(self.uri)) is not None:
            with closing(sqlite3.connect(file, timeout=20)) as connection:
                connection.execute("ANALYZE")
                connection.commit()

    def save_view(self, view: dict[str, Any]) -> dict[str, Any]:
        """Save the view of a sweep in the experiment; returns the `experiment` id and the `key` of the view."""
        experiment = self._experiment(view["experiment"])
        key = re.sub(r"[^A-Za-z0-9]", "", view["sweep"])
        state = saved_view(view)
        self._client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", state)
        return {"experiment": experiment, "key": key}

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                with suppress(MlflowException):  # raised where another process was faster
                    self._client.create_experiment(name, artifact_location=_artifacts(self.uri, name))
                found = self._client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage == "deleted":
                raise MlflowException(f"the experiment {name} was deleted in the store; restore it, or name another")
            self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _found_or_created(self, folder: RunFolder, status: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
        if "run" in known:
            return {}
        experiment = self._experiment(status["tracking"]["experiment"])
        key = folder.path.name
        runs = self._client.search_runs([experiment], f"tags.`exp.run` = '{key}'", max_results=1)
        if runs:
            return {"experiment": experiment, "run": runs[0].info.run_id}
        run = self._client.create_run(
            experiment, start_time=_milliseconds(status["started"]), tags=tags_of(folder, status), run_name=status["name"]
        )
        return {"experiment": experiment, "run": run.info.run_id}

    def _add_points(self, run: str, curve: dict[str, np.ndarray], sent: dict[str, int]) -> dict[str, int]:
        """Send the points after the first `sent` of each metric; returns how many the store has now."""
        for name, values in curve.items():
            group, _, what = name.partition("/")
            if what in ("step", "time"):
                continue
            new = slice(sent.get(name, 0), None)
            steps, times = curve.get(f"{group}/step", np.arange(len(values))), curve[f"{group}/time"]
            finite = [
                Metric(name, float(value), _milliseconds(at), int(step))
                for value, at, step in zip(values[new], times[new], steps[new], strict=True)
                if math.isfinite(value)
            ]
            for start in range(0, len(finite), CHUNK):
                self._client.log_batch(run, metrics=finite[start : start + CHUNK])
            sent[name] = len(values)
        return sent

    def _finish(self, run: str, folder: RunFolder, status: dict[str, Any]) -> None:
        """Parameters, final metrics, tags, artifacts, the data set, and last the status."""
        ended = _milliseconds(status["ended"])
        finals = [(name, value) for name, value in status.get("metrics", {}).items() if math.isfinite(value)]
        params = [Param(key, str(value)[:6000]) for key, value in params_of(folder, status).items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(run, params=params[start : start + 100])
        tags = [RunTag(key, value) for key, value in tags_of(folder, status).items()]
        metrics = [Metric(name, value, ended, 0) for name, value in finals]
        self._client.log_batch(run, metrics=metrics, tags=tags)
        if status.get("revision"):
            self._client.update_run(run, name=status["name"])
            for key in {*LEFT} & {*self._client.get_run(run).data.tags} - {tag.key for tag in tags}:
                self._client.delete_tag(run, key)
        self._client.log_inputs(run, datasets=[_dataset(folder, status)] if status.get("digests") else [])
        for name in ARTIFACTS:
            if (folder.path / name).exists():
                self._client.log_artifact(run, str(folder.path / name))
        self._client.set_terminated(run, status=status["status"], end_time=ended)


def _dataset(folder: RunFolder, status: dict[str, Any]) -> DatasetInput:
    """The data set by name, digest and shape: not its content."""
    problem = folder.read_json("problem.json")
    shape = {"rows": problem.get("rows"), "inputs": problem.get("inputs"), "outputs": problem.get("outputs")}
    dataset = Dataset(
        name=status["choices"]["problem"],
        digest=status["digests"]["data"][:36],
        source_type="exp",
        source=json.dumps(folder.config()["problem"]),
        profile=json.dumps(shape),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _artifacts(uri: str, experiment: str) -> str | None:
    """Artifacts of a SQLite store lie beside its file, wherever it was opened from; of a server, where it says."""
    file = database_file(uri)
    return f"{(file.parent / 'mlartifacts').as_uri()}/{quote(experiment, safe='')}" if file else None


@contextmanager
def _first_open(uri: str) -> Iterator[None]:
    """One process at a time: MLflow's tables are made by whoever opens a database first, and that must not be two."""
    file = database_file(uri)
    if file is None:
        yield
        return
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if hasattr(database, "_initialize_tables") and not (file.exists() and file.stat().st_size):
            _make_tables(file)
        yield


def _make_tables(file: Path) -> None:
    """A new database, put in its place as a whole: tables that were left half made, by a kill, could never be opened."""
    unfinished = file.with_name(f".{file.name}.new")
    for left in (unfinished, file.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    engine = database.create_sqlalchemy_engine_with_retry(f"sqlite:///{unfinished}")
    database._initialize_tables(engine)
    engine.dispose()
    unfinished.replace(file)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _parsed(file: Any) -> dict[str, Any]:
    file.seek(0)
    try:
        return json.loads(file.read())
    except json.JSONDecodeError:  # new, or torn by a kill: the run is found again by its tag
        return {}


def _rewrite(file: Any, content: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(content | {"at": time.time()}))
    file.flush()
