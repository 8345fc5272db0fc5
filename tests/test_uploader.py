"""The trainer's side of the upload: it hears all that is answered, and gives a crowd of runs to two processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import points, tracked, until
from written_sweeps import falling, written_run

from exp.run_folder import RunFolder
from exp.tracking.uploader import CROWD, Uploader

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")


@pytest.fixture
def uploader() -> Iterator[Uploader]:
    made = Uploader()
    yield made
    made.close(kill=True)


def untracked(path: Path) -> Path:
    """A run folder that is over, and of which nothing is to be uploaded."""
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps({"status": "FINISHED", "tracking": None}))
    return path


def test_it_says_when_it_has_done_what_it_was_told(tmp_path: Path, uploader: Uploader) -> None:
    path = untracked(tmp_path / "run")
    uploader.send(path)
    assert not uploader.settle(at_most=0.0)
    assert uploader.settle()
    assert str(path) in uploader.wait([str(path)], "sqlite:///x.db", at_most=0.0)
    uploader._processes[0]._process.kill()
    assert not uploader.settle()  # nobody is there: it is not waited for
    assert not uploader.alive


def test_a_new_one_is_told_what_the_one_before_took_with_it(tmp_path: Path, uploader: Uploader) -> None:
    paths = [untracked(tmp_path / "run"), tmp_path / "gone"]
    uploader.send_unknown(paths)
    answers = uploader.wait(map(str, paths), "sqlite:///x.db")
    assert [answers[str(path)].get("error") for path in paths] == [None, "the folder is gone"]
    turns = next(uploader._turn)
    uploader.send_unknown(paths)  # those it knows
    assert next(uploader._turn) == turns + 1


@pytest.mark.parametrize("torn", ['{"folder": "/tm', "no JSON\n"])
def test_its_process_ends_where_the_trainer_was_killed_within_a_line(torn: str) -> None:
    done = subprocess.run([sys.executable, "-m", "exp.tracking.upload"], input=torn, text=True, timeout=60, check=True)
    assert done.returncode == 0


def test_it_goes_on_while_nobody_asks_for_answers(tmp_path: Path, uploader: Uploader) -> None:
    """A pipe holds 64 KiB: what answers into a full one stands still."""
    paths = [untracked(tmp_path / ("long" * 50) / str(number)) for number in range(400)]
    for path in paths:
        uploader.send(path)
    until(lambda: len(uploader._answers) == len(paths))


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.usefixtures("used_folder")
def test_a_crowd_for_mlflows_client_is_for_two_processes(
    by_client: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uploader: Uploader
) -> None:
    uri, losses = f"sqlite:///{tmp_path}/mlflow.db", falling(20, 0.1)
    if by_client:
        uploader.close(kill=True)
        monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "0")  # with any value of it all is left to MLflow's client
        uploader = Uploader()
    uploader.open(uri)
    assert uploader.settle()
    tracking = {"tracking": {"uri": uri, "experiment": "crowd"}, "config": {"problem": {}}}
    folders: list[RunFolder] = []
    try:
        for number in range(CROWD + 4):
            path = written_run(tmp_path, f"run {number}", losses, **tracking, choices={"problem": "random"}).path
            RunFolder(path).update_status(status="RUNNING")
            uploader.send(path)
            RunFolder(path).update_status(status="FINISHED")
            folders.append(RunFolder(path))
        for folder in folders:  # perhaps by another process than was told that it runs
            uploader.send(folder.path)
        answers = uploader.wait([str(folder.path) for folder in folders], uri)
        assert len(answers) == len(folders) and not any("error" in answer for answer in answers.values())
        assert len(uploader._processes) == 1 + by_client
    finally:
        uploader.close(kill=True)
    store = tracked(uri)
    assert store.keys() == {folder.path.name for folder in folders}
    for run in store.values():
        assert run.info.status == "FINISHED" and points(uri, run, "train/loss") == list(enumerate(losses))
