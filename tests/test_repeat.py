"""A recorded run is repeated from its own folder, and what has changed since is said."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from commands import done_here
from commands import exp as command
from sweeping import Here, commanded, here

from exp.comparison.trials import Trial
from exp.errors import InputError
from exp.run_folder import RunFolder, run_folders
from exp.tasks.repeat import changed

__all__ = ["here"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was recorded that no default describes."""
    folder = tmp_path_factory.mktemp("original")
    words = ["method=numpy", "optimizer=momentum", "optimizer.lr=2e-7", "network.hidden=[7]", "seed=3", "training.batch_size=5"]
    assert command(*words, "training.steps=12", "tracker=none", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(original / "runs", tmp_path / "runs")
    return tmp_path


def recorded(folder: Path) -> list[RunFolder]:
    return run_folders(folder / "runs")


def test_a_run_is_repeated_bit_for_bit(folder: Path) -> None:
    first = recorded(folder)[0]
    words = ("task=repeat", f"repeat.run=runs/{first.path.name}", "tracker=none")
    done = commanded(command(*words, cwd=folder)).ok()  # in this process the environment is another
    assert done.lines[0] == f"repeats runs/{first.path.name}"
    assert "unchanged: configuration, data, code, environment\nloss curves: equal bit for bit\n" in done.out
    before, again = recorded(folder)
    assert again.config() == before.config()
    assert (again.curve()["train/loss"] == before.curve()["train/loss"]).all()
    one, two = before.status(), again.status()
    assert two["repeats"] == first.path.name
    assert [two[key] for key in ("name", "choices", "digests", "task")] == [
        one[key] for key in ("name", "choices", "digests", "task")
    ]


def test_what_has_changed_since_is_said(folder: Path, here: Here) -> None:
    first = recorded(folder)[0]
    environment = first.read_json("environment.json")
    environment["versions"]["numpy"] = "2.0.0"
    environment["cpu"] = "another"
    first.write_json("environment.json", environment)
    first.update_status(digests=first.status()["digests"] | {"weights": "other"})
    curve = first.curve()
    curve["train/loss"][4] *= 1.25
    first.write_curve(curve)
    done = here("task=repeat", "tracker=none", "name=again")
    assert (done.code, done.err) == (0, "")
    lines = done.lines
    assert any(line.startswith("changed: environment versions.numpy: 2.0.0 before, ") for line in lines)
    assert any(line.startswith("changed: environment cpu: another before, ") for line in lines)
    assert any(line.startswith("changed: data weights: other before, ") for line in lines)
    assert "unchanged: configuration, code" in lines
    assert "loss curves: differ by at most 0.2 relative, at step 4" in lines
    assert recorded(folder)[-1].status()["name"] == "again"


@pytest.mark.parametrize(("runs", "others"), [(2, "1 other"), (12, "11 others")])
def test_that_the_recorded_run_was_one_of_a_program_is_said(runs: int, others: str, folder: Path) -> None:
    (first,) = recorded(folder)
    alone = Trial("before", {}, first, first.status())
    together = replace(alone, status=first.status() | {"program": {"first": "first", "runs": runs}})
    said = f"program: the recorded run was trained with {others} as one program, so last bits may differ"
    assert [line for line in changed(together, alone) if line not in changed(alone, alone)] == [said]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["optimizer.lr=1e-6"],
            "optimizer.lr=1e-6: task=repeat takes it from the recorded run; leave it out, or leave task=repeat out",
        ),
        (["method=autograd"], "method=autograd: task=repeat takes it from the recorded run"),
        (["repeat.run=numpi"], "repeat.run=numpi: no such run in runs/; nearest: numpy"),
        (["repeat.runs=x"], "repeat.runs=x: no such key; nearest: repeat.run"),
        (["runs=elsewhere"], "repeat.run=latest: there is no run in elsewhere/ yet; python -m exp makes one"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as raised:
        done_here("task=repeat", *words)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)
    assert len(recorded(folder)) == 1


@pytest.mark.parametrize("words", [[], ["repeat.run=numpy"]])
def test_a_verification_since_is_not_what_is_repeated(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (first,) = recorded(folder)
    first.update_status(name="numpy")
    shutil.copytree(first.path, f"runs/{first.path.name}-verified")
    since = RunFolder(f"runs/{first.path.name}-verified")
    since.update_status(task="verify", started=first.status()["started"] + 1)
    assert done_here("task=repeat", "tracker=none", *words) == 0
    assert recorded(folder)[-1].status()["repeats"] == first.path.name


def test_only_training_runs_are_repeated_and_a_key_that_is_gone_is_said(
    folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    first = recorded(folder)[0]
    first.update_status(task="verify")
    said = rf"^repeat.run=latest: {first.path.name} is a run of task=verify; only training runs can be repeated$"
    with pytest.raises(InputError, match=said.replace("=", "[=]").replace("+", "[+]")):
        done_here("task=repeat")
    first.update_status(task="train")
    config = first.config()
    config["optimizer"]["warmup"] = 3
    first.write_config(config)
    done = here("task=repeat")
    assert (done.code, done.out) == (1, "") and done.err.startswith("error: optimizer.warmup=3: no such key")
    assert done.err.count("\n") == 1
