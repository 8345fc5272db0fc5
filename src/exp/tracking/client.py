"""Runs told to any MLflow store by its own client. The only module that imports mlflow."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

# Short timeouts and no retries of MLflow's own (its defaults block for minutes): what fails is tried again by us.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as database

from exp.tracking.contents import Ending, Point
from exp.tracking.settings import database_file

CHUNK, PARAMS = 1000, 100
"""In one request MLflow takes so much in all, and so many parameters. Each costs it a few hundredths of a second."""

database.MAX_RETRY_COUNT = 2  # of opening a database, else a broken file is tried for two minutes


class Client:
    """A writer of the MLflow store at `uri`."""

    lasting = True

    def __init__(self, uri: str):
        file = database_file(uri)
        with _first_open(file) if file else nullcontext():
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)

    def transaction(self) -> nullcontext[None]:
        """There is none: what was written before an error stays."""
        return nullcontext()

    def experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            with suppress(MlflowException):  # raised where another process was faster
                self._client.create_experiment(name, artifact_location=artifacts)
            found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            raise MlflowException(f"the experiment {name} was deleted in the store; restore it, or name another")
        return found.experiment_id

    def find(self, experiment: str, folder: str) -> str | None:
        runs = self._client.search_runs([experiment], f"tags.`exp.run` = '{folder}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def begin(self, experiment: str, name: str, started: int, tags: dict[str, str]) -> str:
        return self._client.create_run(experiment, start_time=started, tags=tags, run_name=name).info.run_id

    def add_points(self, run: str, points: Mapping[str, list[Point]]) -> None:
        metrics = _metrics(points)
        for start in range(0, len(metrics), CHUNK):
            self._client.log_batch(run, metrics=metrics[start : start + CHUNK])

    def go_on(self, run: str) -> None:
        self._client.update_run(run, status="RUNNING")

    def finish(self, run: str, points: Mapping[str, list[Point]], ending: Ending) -> None:
        params = [Param(key, value) for key, value in ending.params.items()]
        metrics = _metrics(points) + [Metric(name, value, ending.ended, 0) for name, value in ending.metrics.items()]
        tags = [RunTag(key, value) for key, value in ending.tags.items()]
        for start in range(PARAMS, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        params = params[:PARAMS]
        while len(params) + len(metrics) + len(tags) > CHUNK:
            self._client.log_batch(run, metrics=metrics[:CHUNK])
            metrics = metrics[CHUNK:]
        self._client.log_batch(run, params=params, metrics=metrics, tags=tags)
        if ending.renamed:
            self._client.update_run(run, name=ending.renamed)
        if ending.left:
            for key in {*ending.left} & {*self._client.get_run(run).data.tags}:
                self._client.delete_tag(run, key)
        if ending.dataset:
            dataset = Dataset(source_type="exp", **ending.dataset)
            self._client.log_inputs(run, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        for file in ending.files:
            self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, status=ending.status, end_time=ending.ended)

    def tag_experiment(self, experiment: str, key: str, value: str) -> None:
        self._client.set_experiment_tag(experiment, key, value)


def _metrics(points: Mapping[str, list[Point]]) -> list[Metric]:
    """The last step first: with each that is later than those before it, MLflow renews the metric's latest value."""
    return [Metric(name, value, at, step) for name, some in points.items() for step, at, value in reversed(some)]


@contextmanager
def _first_open(file: Path) -> Iterator[None]:
    """One process at a time: MLflow's tables are made by whoever opens a database first, and that must not be two.

    A new database is put in its place as a whole: tables that were left half made, by a kill, could never be opened.
    """
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if hasattr(database, "_initialize_tables") and not (file.exists() and file.stat().st_size):
            unfinished = file.with_name(f".{file.name}.new")
            for left in (unfinished, file.with_name(f"{unfinished.name}-journal")):
                left.unlink(missing_ok=True)
            _make_tables(unfinished)
            unfinished.replace(file)
        yield


def _make_tables(file: Path) -> None:
    engine = database.create_sqlalchemy_engine_with_retry(f"sqlite:///{file}")
    database._initialize_tables(engine)
    engine.dispose()
