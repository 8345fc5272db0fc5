"""The run folder is the truth: what stands in it, that it is right, and that MLflow is told the same."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import client, exp, points, tracked
from safetensors.numpy import load_file

from exp import data, load
from exp.claims import Claims
from exp.errors import LONGEST_REASON, InputError, in_a_line
from exp.run_folder import RunFolder, mark_killed, require_writable, run_folders
from exp.state import State

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

SMALL = ["method=numpy", "precision=fp64", "training.steps=6", "optimizer.lr=1e-3"]
SMALL += ["problem.samples=7", "problem.inputs=5", "problem.outputs=3", "network.hidden=[4]"]
FILES = {"config.yaml", "curve.npz", "environment.json", "initial.safetensors", "final.safetensors", "status.json"}
MINE = """
from dataclasses import dataclass
from exp.methods import ArrayMethod

@dataclass(kw_only=True)
class Mine(ArrayMethod):
    library = "numpy"
    taken = 0

    def transition(self, state, x, y):
        self.taken += 1
        if self.taken > 150:
            raise ArithmeticError("the sum is\\nwrong")
        return (x * x).sum(), state
"""


def ran(tmp_path: Path, *words: str) -> SimpleNamespace:
    """Run a command that trains once; what it said, its folder, and its run in MLflow."""
    done = exp(*words, cwd=tmp_path)
    folder = one(run_folders(tmp_path / "runs")).path
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return SimpleNamespace(done=done, folder=folder, run=load(folder), uri=uri, tracked=tracked(uri)[folder.name])


def one(found: Any) -> Any:
    """The only element."""
    (element,) = found
    return element


def finite_points(run: SimpleNamespace) -> dict[str, list[tuple[int, float]]]:
    """Every point of every metric in MLflow; all of them must be finite."""
    found = {name: points(run.uri, run.tracked, name) for name in run.tracked.data.metrics}
    assert np.isfinite([value for metric in found.values() for _, value in metric]).all()
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> SimpleNamespace:
    """A run of six steps in a repository with one commit and one change since."""
    tmp_path = tmp_path_factory.mktemp("small")
    shutil.copy(new_database, tmp_path / "mlflow.db")
    (tmp_path / "notes.txt").write_text("one")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one"]
    for words in (["init", "-q"], ["add", "notes.txt"], commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "notes.txt").write_text("two")
    return ran(tmp_path, *SMALL)


@pytest.fixture(scope="module")
def blown(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> SimpleNamespace:
    tmp_path = tmp_path_factory.mktemp("blown")
    shutil.copy(new_database, tmp_path / "mlflow.db")
    return ran(tmp_path, "method=numpy", "optimizer.lr=1e-5")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> SimpleNamespace:
    tmp_path = with_mine(tmp_path_factory.mktemp("failed"))
    shutil.copy(new_database, tmp_path / "mlflow.db")
    return ran(tmp_path, "--config-dir", "my", "method=mine", "training.steps=300")


def with_mine(folder: Path) -> Path:
    """`folder` with a method of the user's own that raises at step 150."""
    (folder / "my" / "method").mkdir(parents=True)
    (folder / "my" / "mine.py").write_text(MINE)
    (folder / "my" / "method" / "mine.yaml").write_text("_target_: mine.Mine\n")
    return folder


def test_a_folder_has_every_file_and_a_name_that_says_when_what_and_which(small: SimpleNamespace) -> None:
    assert small.done.returncode == 0, small.done.stderr
    assert {path.name for path in small.folder.iterdir()} >= FILES
    assert not [path.name for path in small.folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    assert re.fullmatch(r"\d{8}-\d{6}-numpy-.*-[0-9a-f]{6}", small.folder.name)
    status = json.loads((small.folder / "status.json").read_text())
    assert status["status"] == "FINISHED" and status["started"] < status["ended"]
    assert not RunFolder(small.folder).alive


def test_config_is_the_resolved_configuration(small: SimpleNamespace) -> None:
    config = small.run.config
    assert config["optimizer"]["lr"] == 1e-3 and config["network"]["hidden"] == [4]
    assert config["network"]["seed"] == config["problem"]["seed"] == config["training"]["seed"] == config["seed"] == 0
    assert "${" not in (small.folder / "config.yaml").read_text()


def test_environment_says_on_what_it_ran(small: SimpleNamespace) -> None:
    environment = json.loads((small.folder / "environment.json").read_text())
    assert environment["versions"].keys() >= {"python", "exp", "numpy", "mlflow"}
    assert environment["cpu"] and environment["cores"] >= 1 and environment["gpu"] is None
    assert "blas" in {library["user_api"] for library in environment["blas"]}
    assert {pool["num_threads"] for pool in environment["conditions"]["threads"]} == {1}
    assert re.fullmatch("[0-9a-f]{40}", environment["git"]["commit"]) and environment["git"]["dirty"] is True
    assert small.tracked.data.tags["mlflow.source.git.commit"] == environment["git"]["commit"]
    assert small.tracked.data.tags["git.dirty"] == "true"


def test_curve_and_weights_are_those_of_gradient_descent(small: SimpleNamespace) -> None:
    """Two layers, ReLU and squared error written out: the loss of step t stands before update t."""
    split = data(*SMALL).train
    x, y = split.inputs, split.targets
    weights = load_file(small.folder / "initial.safetensors")
    names, shapes = ["layer1.weight", "layer2.weight"], [(5, 4), (4, 3)]
    assert [weights[name].shape for name in names] == shapes
    w1, w2 = (weights[name].astype(np.float64) for name in names)
    losses = []
    for _ in range(6):
        hidden = np.maximum(x @ w1, 0)
        residual = hidden @ w2 - y
        losses.append((residual**2).sum())
        w1, w2 = w1 - 1e-3 * x.T @ (2 * residual @ w2.T * (hidden > 0)), w2 - 1e-3 * hidden.T @ (2 * residual)
    np.testing.assert_allclose(small.run.losses, losses, rtol=1e-12)
    final = load_file(small.folder / "final.safetensors")
    for name, expected in zip(names, (w1, w2), strict=True):
        np.testing.assert_allclose(final[name], expected, rtol=1e-12, atol=1e-15)


def test_mlflow_has_the_same_curve_every_step_of_it(small: SimpleNamespace) -> None:
    assert points(small.uri, small.tracked, "train/loss") == list(enumerate(small.run.losses))
    finite_points(small)


def test_mlflow_has_parameters_as_they_are_typed(small: SimpleNamespace) -> None:
    params = small.tracked.data.params
    choices = {"method": "numpy", "device": "cpu", "precision": "fp64", "problem": "random", "network": "two_layer"}
    choices |= {"loss": "squared_error", "optimizer": "sgd", "training": "steps"}
    assert {key: params[key] for key in choices} == choices
    numbers = {"optimizer.lr": 1e-3, "problem.samples": 7, "training.steps": 6, "seed": 0, "network.seed": 0, "threads": 1}
    assert {key: float(params[key]) for key in numbers} == numbers
    assert not [key for key in params if "_target_" in key]


def test_mlflow_has_final_values_times_digests_data_set_and_configuration(small: SimpleNamespace) -> None:
    run, status = small.tracked, RunFolder(small.folder).status()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/loss"] == small.run.losses[-1]
    times = {f"time/{name}" for name in ("first_step_seconds", "step_seconds", "train_seconds")}
    assert all(run.data.metrics[name] > 0 for name in times)
    for name in ("data", "weights"):
        assert run.data.tags[f"digest.{name}"] == status["digests"][name]
    dataset = one(run.inputs.dataset_inputs).dataset
    assert dataset.name == "random" and status["digests"]["data"].startswith(dataset.digest)
    artifacts = {file.path for file in client(small.uri).list_artifacts(run.info.run_id)}
    assert artifacts >= {"config.yaml", "environment.json"}
    stored = small.folder.parent.parent / "mlartifacts"
    assert one(stored.rglob("config.yaml")).read_text() == (small.folder / "config.yaml").read_text()
    assert not any("parent" in tag for tag in run.data.tags)  # flat: MLflow's UI folds children away


@pytest.mark.usefixtures("used_folder")
def test_validation_is_kept_with_its_steps(tmp_path: Path) -> None:
    done = exp("-m", "experiment=digits,diabetes", "method=numpy", "training.epochs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(run_folders(tmp_path / "runs")) == 2
    for folder in run_folders(tmp_path / "runs"):
        run, curve = tracked(uri)[folder.path.name], folder.curve()
        metric = {"digits": "accuracy", "diabetes": "r2"}[folder.status()["choices"]["problem"]]
        assert curve["valid/step"][0] == 0 and curve["valid/step"][-1] == len(curve["train/loss"])
        for name in ("loss", metric):
            expected = list(zip(curve["valid/step"].tolist(), curve[f"valid/{name}"].tolist(), strict=True))
            assert points(uri, run, f"valid/{name}") == expected
            assert run.data.metrics[f"final/valid_{name}"] == curve[f"valid/{name}"][-1]
        assert {name for name in run.data.metrics if name.startswith("valid/")} == {"valid/loss", f"valid/{metric}"}


def test_a_run_that_blew_up_is_finished_and_cut_before_it(blown: SimpleNamespace) -> None:
    assert blown.done.returncode == 0, blown.done.stderr
    step = blown.run.blew_up_at_step
    assert blown.run.status == blown.tracked.info.status == "FINISHED"
    assert 0 < step == len(blown.run.losses) and np.isfinite(blown.run.losses).all()
    assert blown.tracked.data.tags["blew_up_at_step"] == str(step)
    assert not (blown.folder / "final.safetensors").exists() and (blown.folder / "initial.safetensors").exists()
    assert finite_points(blown)["train/loss"] == list(enumerate(blown.run.losses))
    assert f"blew up: loss not finite from step {step}" in blown.done.stdout
    with pytest.raises(InputError, match="blew up at step"):
        _ = blown.run.weights


def test_a_run_whose_method_raises_is_failed_and_says_why(failed: SimpleNamespace) -> None:
    assert failed.done.returncode == 1
    assert failed.run.status == failed.tracked.info.status == "FAILED"
    assert failed.tracked.data.tags["error"] == "ArithmeticError: the sum is wrong"
    assert "ArithmeticError: the sum is wrong" in failed.done.stdout and "Traceback" not in failed.done.stdout
    assert "Traceback" in (failed.folder / "error.txt").read_text()
    assert "error.txt" in {file.path for file in client(failed.uri).list_artifacts(failed.tracked.info.run_id)}
    assert failed.tracked.data.params["method"] == "mine"
    assert not (failed.folder / "final.safetensors").exists()


def test_a_run_that_failed_keeps_the_steps_before(failed: SimpleNamespace) -> None:
    """It raised at step 150: the blocks of steps that were read before are the truth too."""
    assert 1 <= len(failed.run.losses) <= 150
    assert points(failed.uri, failed.tracked, "train/loss") == list(enumerate(failed.run.losses))


@pytest.mark.usefixtures("used_folder")
def test_in_a_sweep_the_others_still_run(tmp_path: Path) -> None:
    words = ["--config-dir", "my", "-m", "method=mine,numpy", "training.steps=200", "optimizer.lr=1e-6,1e-5"]
    done = exp(*words, cwd=with_mine(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    runs = [load(folder.path) for folder in run_folders(tmp_path / "runs")]
    assert sorted(run.status for run in runs) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    in_mlflow = tracked(f"sqlite:///{tmp_path}/mlflow.db")
    assert {name: run.info.status for name, run in in_mlflow.items()} == {run.folder.name: run.status for run in runs}
    sweep = one({run.data.tags["sweep"] for run in in_mlflow.values()})
    assert f"sweep {sweep}: 4 runs" in done.stdout
    assert not any("mlflow.parentRunId" in run.data.tags for run in in_mlflow.values())
    blew_up = {float(run.data.params["optimizer.lr"]) for run in in_mlflow.values() if "blew_up_at_step" in run.data.tags}
    assert blew_up == {1e-5}
    (experiment,) = (found for found in client(f"sqlite:///{tmp_path}/mlflow.db").search_experiments() if found.name == "exp")
    views = {key.rpartition(".")[2] for key in experiment.tags if key.startswith("mlflow.sharedViewState.")}
    assert f"viewStateShareKey={one(views)}" in done.stdout


def test_load_of_something_else_says_what_a_run_folder_is(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", Path(__file__)):
        with pytest.raises(InputError, match="is no run folder"):
            load(folder)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    written = State({"w": np.arange(6.0).reshape(2, 3).T}, {}, np.array(3))
    folder.write_state("final", written)
    read = folder.state("final")
    assert read is not None
    for name, array in written.named().items():
        np.testing.assert_array_equal(read.named()[name], array, strict=True)


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xfe", b"", b"null"])
def test_a_status_that_is_none_is_passed_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "status.json").write_bytes(content)
    assert run_folders(tmp_path) == []


def test_a_folder_is_alive_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "a name / with: odd signs")
    assert re.fullmatch(r"\d{8}-\d{6}-a-name-with-odd-signs-[0-9a-f]{6}", folder.path.name)
    assert run_folders(tmp_path) == []  # it has no status yet
    folder.update_status(status="RUNNING")
    assert RunFolder(folder.path).alive and mark_killed(tmp_path) == []
    folder.release()
    assert not RunFolder(folder.path).alive
    assert [killed.path for killed in mark_killed(tmp_path)] == [folder.path]
    assert folder.status()["status"] == "KILLED" and folder.status()["ended"] > 0
    assert mark_killed(tmp_path) == []


def test_what_is_over_is_not_killed(tmp_path: Path) -> None:
    for status in ("FINISHED", "FAILED", "KILLED"):
        folder = RunFolder.create(tmp_path, status)
        folder.update_status(status=status)
        folder.release()
    assert mark_killed(tmp_path) == [] and len(run_folders(tmp_path)) == 3


def test_a_place_that_cannot_hold_runs_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/runs"):
        with pytest.raises(InputError, match=r"runs=.*not a folder; give another"):
            require_writable(tmp_path / place)
    require_writable(tmp_path / "new" / "runs")
    done = exp("method=numpy", "training.steps=2", "runs=file/runs", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: runs=file/runs: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_ends_between_two_looks_is_neither_killed_nor_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status was read while it ran, its lock once it had ended."""
    claims = Claims(tmp_path)
    folder = claims.take("key", {"name": "run", "status": "RUNNING"}, lambda status: status["status"] != "FINISHED")
    assert folder is not None

    def ends(self: RunFolder) -> bool:
        folder.update_status(status="FINISHED")
        folder.release()
        return False

    monkeypatch.setattr(RunFolder, "alive", property(ends))
    assert claims.take("key", {"name": "run", "status": "RUNNING"}, lambda status: status["status"] != "FINISHED") is None
    folder.update_status(status="RUNNING")
    assert mark_killed(tmp_path) == [] and folder.status()["status"] == "FINISHED"


def test_a_long_error_is_one_line_without_its_middle() -> None:
    """What would help stands at the end."""
    said = in_a_line(ValueError(f"too large\n{'x ' * 500}; use less"))
    assert said.startswith("ValueError: too large x") and said.endswith("x ; use less") and " … " in said
    assert len(said) <= LONGEST_REASON and "\n" not in said
    assert in_a_line(KeyError("short")) == "KeyError: 'short'"


def test_quotes_and_blanks_of_a_name_do_not_become_signs(tmp_path: Path) -> None:
    """`optimizer.lr="'1e-6'"` is a rate of 1e-6."""
    folder = RunFolder.create(tmp_path, "numpy lr='1e-6' seed= 1")
    assert "-numpy-lr=1e-6-seed=1-" in folder.path.name
    folder.release()
