"""What MLflow is told, when it is not there to listen too: everything, once, and never at the cost of training."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import clean, client, exp, free_port, points, start, tracked, until

from exp import load
from exp.errors import InputError
from exp.run_folder import RunFolder, run_folders
from exp.tracking.record import Store
from exp.tracking.settings import Mlflow

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

GATED = """
import time
from dataclasses import dataclass
from pathlib import Path

from exp.methods.manual import NumPy

@dataclass(kw_only=True)
class Gated(NumPy):
    taken = 0

    def transition(self, state, x, y):
        self.taken += 1
        if self.taken == 100:
            time.sleep(2.5)  # so that the trainer writes the curve, and sends it on, after this block
        while self.taken == 250 and not Path("go").exists():
            time.sleep(0.05)
        return super().transition(state, x, y)
"""
"""A method that stands still at step 250 until there is a file called go: an outage then is in the middle of the run."""


class Server:
    """A real `mlflow server` on 127.0.0.1, in a session of its own."""

    def __init__(self, folder: Path, new_database: Path):
        self.folder, self.port = folder, free_port()
        shutil.copy(new_database, folder / "server.db")
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, *store, *artifacts],
                cwd=self.folder,
                env=clean({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, seconds=120)

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def _signal(self, number: int) -> None:
        assert self._process
        os.killpg(self._process.pid, number)

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def die(self) -> None:
        if self._process:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def short(cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A run of 20 steps, with these environment variables: the next invocation with the same runs folder."""
    return exp("method=numpy", "training.steps=20", *words, cwd=cwd, env=env)


def assert_complete(folder: RunFolder, steps: int) -> None:
    """The run folder has everything, whatever became of the server."""
    names = ("config.yaml", "environment.json", "initial.safetensors", "final.safetensors")
    assert all((folder.path / name).exists() for name in names)
    run = load(folder.path)
    assert run.status == "FINISHED" and len(run.losses) == steps


def assert_in_mlflow(uri: str, folder: RunFolder) -> None:
    """The store has the run once, finished, with each point of its curve once."""
    run = tracked(uri)[folder.path.name]
    assert run.info.status == "FINISHED"
    losses = load(folder.path).losses
    assert points(uri, run, "train/loss") == list(enumerate(losses))
    assert run.data.metrics["final/loss"] == losses[-1]


# A server that is down, hangs or dies


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[SimpleNamespace]:
    """A run whose server was never started; then the server is up, and another run with the same runs folder."""
    cwd = tmp_path_factory.mktemp("outage")
    server = Server(tmp_path_factory.mktemp("server"), new_database)
    down = exp("method=numpy", "training.steps=21", cwd=cwd, env={"MLFLOW_TRACKING_URI": server.uri}, timeout=60)
    try:
        (missed,) = run_folders(cwd / "runs")
        incomplete = not missed.read_json("tracking.json").get("complete")
        server.start()
        up = short(cwd, MLFLOW_TRACKING_URI=server.uri)
        _, seen = run_folders(cwd / "runs")
        yield SimpleNamespace(server=server, down=down, up=up, missed=missed, seen=seen, incomplete=incomplete, cwd=cwd)
    finally:
        server.die()


def test_a_server_that_is_down_costs_a_line(outage: SimpleNamespace) -> None:
    assert outage.down.returncode == 0, outage.down.stderr
    said = [line for line in outage.down.stdout.splitlines() if "not in MLflow" in line]
    assert len(said) == 1 and "next python -m exp" in said[0] and outage.down.stderr == ""
    assert "earlier run" not in outage.down.stdout  # it is this one
    assert outage.incomplete and not (outage.cwd / "mlflow.db").exists()
    assert_complete(outage.missed, 21)


def test_the_next_invocation_uploads_what_is_missing(outage: SimpleNamespace) -> None:
    assert outage.up.returncode == 0, outage.up.stdout + outage.up.stderr
    assert "uploaded 1 of earlier runs" in outage.up.stdout
    assert_in_mlflow(outage.server.uri, outage.missed)
    assert "uploaded" not in short(outage.cwd, MLFLOW_TRACKING_URI=outage.server.uri).stdout
    assert_in_mlflow(outage.server.uri, outage.missed)


def test_what_waits_for_a_store_that_is_down_is_waited_for_by_nobody_else(used_folder: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert "not in MLflow yet" in exp("method=numpy", "training.steps=2", f"tracker.uri={uri}", cwd=used_folder).stdout
    (missed,) = run_folders(used_folder / "runs")
    done = short(used_folder)
    said = f"an earlier run has not reached {uri} yet, which is tried again now; to give up, delete runs/{missed.path.name}"
    assert said in done.stdout.splitlines() and done.stderr == "", done.stdout
    assert "see the curve" in done.stdout.splitlines()[-1]
    shutil.rmtree(missed.path)
    assert "earlier" not in short(used_folder).stdout


def test_a_run_through_http_reads_back_right(outage: SimpleNamespace) -> None:
    uri = outage.server.uri
    assert_in_mlflow(uri, outage.seen)
    run = tracked(uri)[outage.seen.path.name]
    assert run.info.run_id in outage.up.stdout and uri in outage.up.stdout
    assert (run.data.params["method"], run.data.params["optimizer.lr"]) == ("numpy", "1e-06")
    assert {"time/first_step_seconds", "time/step_seconds", "time/train_seconds"} <= run.data.metrics.keys()
    assert run.data.tags["digest.data"] == outage.seen.status()["digests"]["data"]
    assert [chosen.dataset.name for chosen in run.inputs.dataset_inputs] == ["random"]
    assert {file.path for file in client(uri).list_artifacts(run.info.run_id)} >= {"config.yaml", "environment.json"}


@pytest.mark.parametrize(("lost", "found"), [("hang", "wake"), ("die", "start")])
def test_a_server_that_is_lost_in_the_middle_of_a_run(tmp_path: Path, outage: SimpleNamespace, lost: str, found: str) -> None:
    server = outage.server
    (tmp_path / "my" / "method").mkdir(parents=True)
    (tmp_path / "my" / "gated.py").write_text(GATED)
    (tmp_path / "my" / "method" / "gated.yaml").write_text("_target_: gated.Gated\n")
    words = ["--config-dir", "my", "method=gated", "training.steps=300", f"tracker.uri={server.uri}"]
    trainer = start(*words, cwd=tmp_path, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})  # tracker.uri counts
    try:
        (folder,) = until(lambda: run_folders(tmp_path / "runs"))
        until(lambda: folder.read_json("tracking.json").get("points"))
        run = tracked(server.uri)[folder.path.name]
        assert run.info.status == folder.status()["status"] == "RUNNING" and folder.alive
        assert 100 <= len(points(server.uri, run, "train/loss")) < 250
        getattr(server, lost)()
        try:
            (tmp_path / "go").touch()
            said = trainer.communicate(timeout=60)[0]
            assert_complete(folder, 300)
        finally:
            getattr(server, found)()
    finally:
        trainer.kill()
        trainer.communicate()
    assert trainer.returncode == 0 and said.count("not in MLflow yet") == 1 and "Traceback" not in said, said
    after = short(tmp_path, f"tracker.uri={server.uri}")
    assert after.returncode == 0 and "not in MLflow" not in after.stdout, after.stdout + after.stderr
    assert_in_mlflow(server.uri, folder)


def test_a_run_whose_creation_timed_out_is_not_created_twice(
    tmp_path: Path, outage: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that was given up on lies in the server's queue, and is served when it wakes."""
    assert short(tmp_path, "tracker=none").returncode == 0
    (folder,) = run_folders(tmp_path / "runs")
    folder.update_status(tracking={"uri": outage.server.uri, "experiment": "exp"})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    store = opened(outage.server.uri)
    client = store.client._client
    search = client.search_runs

    def search_then_hang(*arguments: Any, **options: Any) -> Any:
        found = search(*arguments, **options)
        outage.server.hang()
        return found

    monkeypatch.setattr(client, "search_runs", search_then_hang)
    try:
        with pytest.raises(Exception, match="runs/create"):
            store.record_together([folder])
    finally:
        outage.server.wake()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    opened(outage.server.uri).record_together([folder])
    assert_in_mlflow(outage.server.uri, folder)


def test_a_run_that_is_written_beside_a_server_of_the_same_database(tmp_path: Path, outage: SimpleNamespace) -> None:
    """Both write at the same time, nothing is lost, and the server shows the runs as if it had been told of them."""
    uri, server = f"sqlite:///{outage.server.folder}/server.db", client(outage.server.uri)
    assert short(tmp_path, "tracker=none").returncode == 0
    (first,) = run_folders(tmp_path / "runs")
    busy = server.create_run("0", tags={"exp.run": "busy"}).info.run_id
    over, sent = threading.Event(), []

    def keep_busy() -> None:
        while not over.is_set():
            server.log_metric(busy, "busy", float(len(sent)), step=len(sent))
            sent.append(len(sent))

    other = threading.Thread(target=keep_busy)
    other.start()
    store, folders = Store(uri), []
    try:
        until(lambda: sent)
        for number in range(10):
            folders.append(RunFolder(shutil.copytree(first.path, tmp_path / f"beside {number}")))
            folders[-1].update_status(tracking={"uri": uri, "experiment": "beside"})
            store.record_together(folders[-1:])
    finally:
        over.set()
        other.join()
    assert "client" not in vars(store)
    for folder in folders:
        assert_in_mlflow(outage.server.uri, folder)
    run = tracked(outage.server.uri)["beside 9"]
    assert {file.path for file in server.list_artifacts(run.info.run_id)} == {"config.yaml", "environment.json"}
    assert [step for step, _ in points(outage.server.uri, server.get_run(busy), "busy")] == sent


def opened(uri: str) -> Any:
    """The upload process's side, in this process, with MLflow's client for all that is recorded."""
    store = Store(uri)
    store._bulk = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert store.client
    return store


# Many at once, and again


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Eight trainers at once, in a folder that has no database yet."""
    cwd = tmp_path_factory.mktemp("crowd")
    trainers = [start("method=numpy", "training.steps=20", f"seed={seed}", cwd=cwd) for seed in range(8)]
    try:
        output = [trainer.communicate(timeout=180)[0] for trainer in trainers]
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.communicate()
    codes = [trainer.returncode for trainer in trainers]
    return SimpleNamespace(cwd=cwd, uri=f"sqlite:///{cwd}/mlflow.db", output=output, codes=codes)


def test_eight_at_once_make_one_database(crowd: SimpleNamespace) -> None:
    assert crowd.codes == [0] * 8, crowd.output
    assert all("see the curve" in said for said in crowd.output), crowd.output
    folders = run_folders(crowd.cwd / "runs")
    assert len(folders) == 8
    for folder in folders:
        assert len(load(folder.path).losses) == 20
        assert_in_mlflow(crowd.uri, folder)


@pytest.mark.parametrize("tracking", [None, '{"run": "torn'])
def test_uploading_again_adds_nothing(crowd: SimpleNamespace, tracking: str | None) -> None:
    """The upload process may be killed between telling MLflow and writing down that it did."""
    folder = run_folders(crowd.cwd / "runs")[0]

    def stored() -> Any:
        run = tracked(crowd.uri)[folder.path.name]
        metrics = {name: points(crowd.uri, run, name) for name in run.data.metrics}
        artifacts = [file.path for file in client(crowd.uri).list_artifacts(run.info.run_id)]
        inputs = [chosen.to_dictionary() for chosen in run.inputs.dataset_inputs]
        return (
            run.info.run_id,
            run.info.status,
            run.data.params,
            run.data.tags,
            metrics,
            artifacts,
            inputs,
            len(tracked(crowd.uri)),
        )

    before, kept = stored(), (folder.path / "tracking.json").read_text()
    (folder.path / "tracking.json").unlink()
    if tracking:
        (folder.path / "tracking.json").write_text(tracking)
    opened(crowd.uri).record_together([folder])
    assert stored() == before
    assert folder.read_json("tracking.json").keys() >= {"run", "experiment", "complete"} and '"complete": true' in kept


def test_a_growing_curve_goes_in_batches_and_without_what_is_not_finite(
    crowd: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run_folders(crowd.cwd / "runs")[0].path, tmp_path / "grown", ignore=shutil.ignore_patterns("tracking.json"))
    folder = RunFolder(tmp_path / "grown")
    values = np.arange(2500.0)
    values[[3, 1100, 2400]] = np.nan, np.inf, -np.inf
    store, batches = opened(crowd.uri), []
    client = store.client._client
    send = client.log_batch
    monkeypatch.setattr(client, "log_batch", lambda *given, **named: (batches.append(named), send(*given, **named)))
    for steps, status in ((1200, "RUNNING"), (1200, "RUNNING"), (2500, "FINISHED")):
        folder.update_status(status=status, metrics={"final/loss": np.nan})
        folder.write_curve({"train/loss": values[:steps], "train/time": np.full(steps, 1e9)})
        store.record_together([folder])
        run = tracked(crowd.uri)["grown"]
        assert run.info.status == status
        assert points(crowd.uri, run, "train/loss") == [(step, step) for step in range(steps) if np.isfinite(values[step])]
    assert "final/loss" not in run.data.metrics
    sizes = [len(batch["metrics"]) for batch in batches if batch.get("metrics")]
    assert sizes == [1000, 198, 1000, 299]


# Addresses that cannot be used

SECRET = [
    "http://ada:hunter2@127.0.0.1:5000",
    "http://ada:hun/ter2@127.0.0.1:5000",
    "http://ada:hunter2@[127.0.0.1",
    "ada:hunter2@127.0.0.1:5000",
    "postgresql://ada:hunter2@127.0.0.1/runs?sslmode=require",
    "mysql+pymysql://127.0.0.1/runs?password=hunter2",
    "databricks://ada:hunter2@127.0.0.1",
]
UNUSABLE = [
    "gopher://127.0.0.1",
    "http://",
    "http://[127.0.0.1",
    "sqlite:///no/such/folder/mlflow.db",
    "sqlite:///.",
    "sqlite://",
]


@pytest.mark.parametrize("key", ["uri", "MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("uri", SECRET + UNUSABLE)
def test_an_address_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, key: str, uri: str) -> None:
    if key == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(key, uri)
    with pytest.raises(InputError) as error:
        Mlflow(uri=uri if key == "uri" else None).address()
    assert str(error.value).startswith(f"{key}=") and "ter2" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        (f"tracker.uri={SECRET[0]}", "tracker.uri"),
        (f"MLFLOW_TRACKING_URI={SECRET[0]}", "MLFLOW_TRACKING_URI"),
        (f"MLFLOW_TRACKING_URI={UNUSABLE[2]}", "MLFLOW_TRACKING_URI"),
        (f"tracker.uri={UNUSABLE[3]}", "tracker.uri"),
        ("tracker.uri=http://ada:hunter2!@127.0.0.1:5000", "tracker.uri"),  # Hydra's grammar has no !
        ("tracker.uri=http://ada:hunter2,b@127.0.0.1:5000", "tracker.uri"),  # two values
        ("tracker.url=http://ada:hunter2@127.0.0.1:5000", "tracker.uri"),  # no such key
    ],
)
def test_a_refused_address_is_one_line_and_leaves_nothing(tmp_path: Path, word: str, key: str) -> None:
    name, _, uri = word.partition("=")
    done = short(tmp_path, **{name: uri}) if name.isupper() else short(tmp_path, word)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and key in done.stderr
    assert "hunter2" not in done.stderr
    assert not list(tmp_path.iterdir())
