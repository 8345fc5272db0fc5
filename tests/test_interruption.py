"""A run that is told to stop, or is shot, says KILLED: in its folder and in MLflow. And `task=ui` leaves nothing behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import client, exp, free_port, points, start, tracked, until
from sweeping import Here, children, here

from exp import load
from exp.errors import InputError
from exp.run_folder import RunFolder, run_folders

__all__ = ["here"]

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

LONG = ("method=numpy", "training.steps=200000", "training.log_every=100000")


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def begun(cwd: Path, name: str, trainer: subprocess.Popen[str]) -> RunFolder:
    """The folder of the run called `name`, as soon as the trainer has made it."""

    def look() -> RunFolder | None:
        assert trainer.poll() is None, trainer.communicate()[0]
        return next((folder for folder in run_folders(cwd / "runs") if folder.status()["name"] == name), None)

    return until(look)


def in_mlflow(folder: RunFolder) -> bool:
    """Whether the upload process has told MLflow of the run, and of some steps."""
    return bool(folder.read_json("tracking.json").get("points"))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[SimpleNamespace]:
    """Four long runs in one runs folder, each ended in its own way; then one short run with the same runs folder."""
    cwd = tmp_path_factory.mktemp("aftermath")
    shutil.copy(new_database, cwd / "mlflow.db")
    folders, codes, output = {}, {}, {}
    for name in ("sigint", "sigterm", "sigkill", "both killed"):
        trainer = start(*LONG, f"name={name}", cwd=cwd)
        try:
            folder = folders[name] = begun(cwd, name, trainer)
            assert folder.alive
            if name == "sigint":  # at once, before anything was uploaded; the others once MLflow has some of their steps
                trainer.send_signal(signal.SIGINT)
            else:
                until(lambda folder=folder: in_mlflow(folder))
            if name == "sigterm":
                trainer.terminate()
            if name == "both killed":
                (uploader,) = children(trainer.pid)
                os.kill(uploader, signal.SIGKILL)
            if "kill" in name:
                assert trainer.poll() is None and folder.status()["status"] == "RUNNING"
                trainer.kill()
            output[name] = trainer.communicate(timeout=90)[0]
            codes[name] = trainer.returncode
        finally:
            trainer.kill()
            trainer.communicate()
    left = folders["both killed"].status()["status"], tracked(f"sqlite:///{cwd}/mlflow.db")
    after = exp("method=numpy", "training.steps=3", "name=after", cwd=cwd)
    runs = {name: tracked(f"sqlite:///{cwd}/mlflow.db").get(folder.path.name) for name, folder in folders.items()}
    yield SimpleNamespace(cwd=cwd, folders=folders, codes=codes, output=output, left=left, after=after, runs=runs)


@pytest.mark.parametrize(("name", "code"), [("sigint", 130), ("sigterm", 143), ("sigkill", -9), ("both killed", -9)])
def test_a_run_that_was_ended_is_killed(aftermath: SimpleNamespace, name: str, code: int) -> None:
    assert aftermath.codes[name] == code, aftermath.output[name]
    assert "Traceback" not in aftermath.output[name]
    status = aftermath.folders[name].status()
    assert status["status"] == "KILLED" and status["ended"] >= status["started"]
    run = aftermath.runs[name]
    assert run.info.status == "KILLED" and run.info.end_time >= run.info.start_time


def test_sigkill_of_both_leaves_it_running_until_the_next_invocation(aftermath: SimpleNamespace) -> None:
    """Otherwise the test above would prove nothing of the next invocation."""
    status, runs = aftermath.left
    assert status == "RUNNING" and runs[aftermath.folders["both killed"].path.name].info.status == "RUNNING"
    assert aftermath.after.returncode == 0, aftermath.after.stdout + aftermath.after.stderr
    assert load(run_folders(aftermath.cwd / "runs")[-1].path).status == "FINISHED"


@pytest.mark.parametrize("name", ["sigint", "sigterm", "sigkill", "both killed"])
def test_a_killed_run_can_be_loaded(aftermath: SimpleNamespace, name: str) -> None:
    folder = aftermath.folders[name].path
    run = load(folder)
    assert run.status == "KILLED" and run.config["training"]["steps"] == 200000
    assert np.isfinite(run.losses).all()
    uri = f"sqlite:///{aftermath.cwd}/mlflow.db"
    assert points(uri, aftermath.runs[name], "train/loss") == list(enumerate(run.losses))
    with pytest.raises(InputError, match="has no final weights: its status is KILLED"):
        _ = run.weights
    if name != "sigint":
        assert len(run.losses) > 0
        assert run.initial_weights["layer1.weight"].shape == (1000, 100)


@pytest.mark.usefixtures("used_folder")
def test_sigterm_ends_a_sweep(tmp_path: Path) -> None:
    trainer = start("-m", *LONG, "seed=1,2", cwd=tmp_path)
    try:
        folder = begun(tmp_path, "seed=1", trainer)
        trainer.terminate()
        output = trainer.communicate(timeout=90)[0]
    finally:
        trainer.kill()
        trainer.communicate()
    assert trainer.returncode == 143 and "Traceback" not in output, output
    assert [found.path for found in run_folders(tmp_path / "runs")] == [folder.path]
    assert folder.status()["status"] == "KILLED"
    until(lambda: folder.read_json("tracking.json").get("complete"), seconds=60)  # the upload process outlives the trainer
    assert tracked(f"sqlite:///{tmp_path}/mlflow.db")[folder.path.name].info.status == "KILLED"


def fetched(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return answer.read().decode()


PROXY = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
"""Where every request goes astray that is not kept from the proxy."""


@pytest.mark.parametrize(("number", "code", "env"), [(signal.SIGINT, 130, {}), (signal.SIGTERM, 143, PROXY)])
def test_the_ui_shows_the_runs_and_leaves_nothing_behind(
    aftermath: SimpleNamespace, number: int, code: int, env: dict[str, str]
) -> None:
    port = free_port()
    ui = start("task=ui", f"task.port={port}", cwd=aftermath.cwd, env=env)
    processes: list[int] = []
    try:
        assert ui.stdout
        line = ui.stdout.readline()
        (experiment,) = {run.info.experiment_id for run in aftermath.runs.values()}
        found = re.fullmatch(
            rf"open (http://127\.0\.0\.1:{port}/)#/experiments/{experiment}/runs\S* \(Ctrl-C ends it\)\n", line
        )
        assert found, line
        assert "<html" in fetched(found[1]).lower()
        assert client(found[1].rstrip("/")).get_experiment(experiment).name == "exp"
        processes = children(ui.pid)
        assert processes
        ui.send_signal(number)
        assert ui.communicate(timeout=60)[0] == ""
        assert ui.returncode == code
        until(lambda: all(map(gone, processes)), seconds=30)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        ui.kill()
        ui.communicate()
        for process in processes:
            if not gone(process):
                os.kill(process, signal.SIGKILL)


def test_a_port_in_use_is_said_in_a_line(here: Here, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = here("task=ui", f"task.port={port}").refused(f"task.port={port}: ")
    assert done.out == "" and re.search(r": .*in use; try task\.port=\d+\n$", done.err)
    assert not list(tmp_path.iterdir())
