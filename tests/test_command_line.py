"""What users type, as commands: one run, sweeps, help, a method of one's own, and the same from Python.

What does not need a process of its own goes through the command line's own `main` in this one, for speed.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from commands import clean
from commands import exp as command
from sweeping import Here, here

import exp
from exp import registry

__all__ = ["here"]

QUICK = ("tracker=none", "training.steps=5")
METHODS = [*cases.METHODS]
HEADER = "fp32, random 64 × 1000 → 100 → 10, squared_error, sgd lr=1e-6"


def ok(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a command that succeeded and complained of nothing."""
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def cells(lines: list[str], first: str) -> list[list[str]]:
    """The table whose heading begins with `first`, row by row; columns are two spaces apart."""
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{first} "))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start:]]
    width = len(rows[0])
    return [row for row in rows if len(row) == width]


def statuses(folder: Path) -> dict[str, dict]:
    """The status of every run recorded in `folder`/runs, by its name."""
    found = [json.loads(file.read_text()) for file in (folder / "runs").glob("*/status.json")]
    assert len({status["name"] for status in found}) == len(found)
    return {status["name"]: status for status in found}


# one run


def test_the_default_run_says_where_to_look(tmp_path: Path) -> None:
    lines = ok(command(cwd=tmp_path))
    assert len(lines) <= 12
    assert lines[0] == f"autograd {HEADER}, 500 steps, seed 0"
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step ")]
    assert len(losses) >= 5 and losses == sorted(losses, reverse=True) and losses[-1] < 1e-9 * losses[0]
    assert re.search(r"mlflow ui, then open http://127\.0\.0\.1:5000/#/\S+$", lines[-1])
    [known] = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/tracking.json")]
    assert known["run"] in lines[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "mlflow.db", ".mlflow.db.lock", "mlartifacts"}
    [status] = statuses(tmp_path).values()
    assert status["status"] == "FINISHED" and status["name"] == "autograd"


def test_every_method_prints_the_same_first_loss_and_the_same_columns(here: Here) -> None:
    lines = {method: here(f"method={method}", *QUICK).ok().lines for method in METHODS}
    tables = {method: cells(printed, "method") for method, printed in lines.items()}
    headings, rows = zip(*tables.values(), strict=True)
    assert len({tuple(heading) for heading in headings}) == 1
    assert [row[0] for row in rows] == METHODS
    assert {row[headings[0].index("first loss")] for row in rows} == {"3.398e7"}
    assert {next(line for line in printed if line.startswith("step 0")) for printed in lines.values()} == {
        "step 0  train/loss 3.398e7"
    }


def test_a_run_that_blows_up_is_a_result(here: Here, tmp_path: Path) -> None:
    lines = here("method=numpy", "tracker=none", "optimizer.lr=1e-5").ok().lines
    assert any(re.search(r"loss not finite from step \d+; try optimizer.lr=1e-6", line) for line in lines)
    [status] = statuses(tmp_path).values()
    assert status["status"] == "FINISHED" and status["blew_up_at_step"] > 0


def test_hidden_units_that_died_are_said(here: Here, tmp_path: Path) -> None:
    lines = here("method=numpy", "tracker=none", "optimizer.lr=2e-6").ok().lines
    assert any(re.search(r"hidden units of layer1 died.*try a smaller optimizer.lr", line) for line in lines)
    assert statuses(tmp_path)["numpy lr=2e-6"]["dead_units"]["layer1"] >= 50


def test_presets_for_finding_faults(here: Here, tmp_path: Path) -> None:
    lines = here("debug=fast", "method=numpy").ok().lines
    assert lines[0].endswith("5 steps, seed 0") and "not tracked" in lines[-1]
    lines = here("debug=nan", "optimizer.lr=1e-5", "method=numpy", "tracker=none").ok().lines
    [said] = [line for line in lines if line.startswith("blew up: ")]
    assert re.search(r"loss not finite from step \d+; first not finite: \w.*; try optimizer.lr=1e-6", said)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(
    ("method", "seed", "least"), [*((method, 0, 0.96) for method in METHODS), ("numpy", 1, 0.95), ("numpy", 2, 0.95)]
)
def test_digits_are_learnt(method: str, seed: int, least: float, here: Here, tmp_path: Path) -> None:
    lines = here("experiment=digits", f"method={method}", f"seed={seed}", "tracker=none").ok().lines
    assert "valid accuracy" in cells(lines, "method")[0]
    [status] = statuses(tmp_path).values()
    assert status["metrics"]["final/valid_accuracy"] >= least


def test_diabetes_is_learnt(here: Here, tmp_path: Path) -> None:
    lines = here("experiment=diabetes", "method=numpy", "tracker=none").ok().lines
    assert "valid r2" in cells(lines, "method")[0]
    [status] = statuses(tmp_path).values()
    assert 0.3 < status["metrics"]["final/valid_r2"] < 1  # an ordinary linear fit has about 0.5 (Efron et al. 2004)


def test_the_tutorial_spelled_out_is_the_default(here: Here) -> None:
    spelled, default = (here(*words, "method=numpy", *QUICK).ok().lines for words in (["experiment=tutorial"], []))
    assert spelled[:6] == default[:6]


def test_the_same_command_gives_the_same_bits(here: Here, tmp_path: Path) -> None:
    here("method=tensor", *QUICK).ok()
    ok(command("method=tensor", *QUICK, cwd=tmp_path))  # in another process
    first, second = (exp.load(path) for path in (tmp_path / "runs").iterdir())
    assert first.folder != second.folder and np.array_equal(first.losses, second.losses)
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


# sweeps


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_what_cannot_run_is_skipped_with_its_reason(here: Here, tmp_path: Path) -> None:
    lines = here("-m", "method=numpy,autograd", "device=cpu,cuda", *QUICK).ok().lines
    skipped = [line for line in lines if line.startswith("skipped ")]
    assert [line.partition(":")[0] for line in skipped] == ["skipped numpy cuda", "skipped autograd cuda"]
    assert all("use device=cpu" in line for line in skipped)
    assert {*statuses(tmp_path)} == {"numpy cpu", "autograd cpu"} == {row[0] for row in cells(lines, "run")[1:]}


def test_what_blows_up_in_a_sweep_is_ranked_last(here: Here) -> None:
    lines = here("-m", "method=numpy", "optimizer.lr=1e-5,1e-6,1e-7", "tracker=none").ok().lines
    heading, *rows = cells(lines, "run")
    assert [row[0] for row in rows] == ["lr=1e-6", "lr=1e-7", "lr=1e-5"]
    assert re.fullmatch(r"blew up at \d+", rows[-1][heading.index("final loss")])


def test_a_sweep_of_classifiers_is_ranked_by_accuracy(here: Here) -> None:
    words = ("experiment=digits", "method=numpy", "training.epochs=2", "optimizer.lr=1e-6,0.003,1e-4", "tracker=none")
    heading, *rows = cells(here("-m", *words).ok().lines, "run")
    accuracies = [float(row[heading.index("valid accuracy")]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True) and rows[0][0] == "lr=0.003"


# asking, and what is imported for it

SPY = """
import json, os, sys

def tell(*what):
    with open(os.environ["SPY_FILE"], "a") as file:
        file.write(json.dumps([os.getpid(), *what]) + "\\n")

def hook(event, arguments):
    if event == "import" and arguments[0] in ("torch", "mlflow"):
        tell("import", arguments[0])
        if arguments[0] in os.environ.get("SPY_REFUSES", "").split():
            raise ImportError("refused: " + arguments[0])
    elif event == "subprocess.Popen":
        tell("start", list(map(str, arguments[1])))

tell("python", sys.orig_argv)
sys.addaudithook(hook)
"""
"""A sitecustomize that records, for every Python of a command, its arguments, what it starts and its heavy imports."""


class Watched:
    """A command, and what the spy saw: `imports` of the command's own process, and the words of what was started."""

    def __init__(self, *words: str, cwd: Path, spies: Path, refuse: str = ""):
        self.cwd = cwd
        spies.mkdir()
        (spies / "sitecustomize.py").write_text(SPY)
        told = spies / "told"
        env = {"PYTHONPATH": str(spies), "SPY_FILE": str(told), "SPY_REFUSES": refuse}
        self.done = command(*words, cwd=cwd, env=env)
        records = [json.loads(line) for line in told.read_text().splitlines()]
        own = records[0][0]
        self.imports = {record[2] for record in records if record[:2] == [own, "import"]}
        self.started = [" ".join(record[2]) for record in records if record[1] == "start" and record[0] == own]
        self.pythons = [" ".join(record[2]) for record in records if record[1] == "python"]


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """`--help`, in an empty folder."""
    return Watched("--help", cwd=tmp_path_factory.mktemp("work"), spies=tmp_path_factory.mktemp("help") / "spies")


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["-h"], ["--cfg", "job", "method=tensor", "device=cpu"]])
def test_asking_imports_and_starts_nothing(words: list[str], helped: Watched, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    seen = helped if words == ["--help"] else Watched(*words, cwd=tmp_path / "work", spies=tmp_path / "spies")
    assert ok(seen.done)
    assert (seen.imports, seen.started, len(seen.pythons)) == (set(), [], 1)
    assert not list(seen.cwd.iterdir())


def test_help_lists_every_group_and_choice(helped: Watched) -> None:
    lines = ok(helped.done)
    for group in registry.groups():
        about = [line for line in lines if re.match(rf"\s+{group}\s{{2,}}\w", line)]
        assert len(about) == 1, f"{group} has no line of its own"
        assert f"{group}: {', '.join(registry.choices(group))}" in [line.strip() for line in lines]
    for key in registry.top_level_keys():
        assert re.search(rf"\b{key}\b", " ".join(lines))


def test_every_command_in_the_help_composes(helped: Watched, here: Here) -> None:
    lines = [line.strip() for line in ok(helped.done) if line.startswith("python -m exp ")]
    assert len(lines) >= 3
    for line in lines:
        words = re.split(r"\s{2,}", line)[0].split()[3:]
        sweep = "-m" in words
        for value in words[-1].partition("=")[2].split(",") if sweep else [None]:
            word = words[-1] if value is None else f"{words[-1].partition('=')[0]}={value}"
            here("--cfg", "job", word).ok()


def test_cfg_prints_what_would_run(here: Here) -> None:
    printed = "\n".join(here("--cfg", "job", "optimizer=adam", "seed=7").ok().lines)
    assert "_target_: exp.optimizers.Adam" in printed and "seed: 7" in printed and "hydra" not in printed


@pytest.mark.parametrize("tracker", list(registry.choices("tracker")))
def test_a_numpy_run_imports_no_torch(tracker: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    words = ("method=numpy", f"tracker={tracker}", "training.steps=5")
    seen = Watched(*words, cwd=tmp_path / "work", spies=tmp_path / "spies")
    ok(seen.done)
    assert seen.imports == set()  # mlflow is imported by the process that uploads
    uploads = [line for line in seen.started if "exp.tracking.upload" in line]
    assert len(uploads) == (tracker == "mlflow")


def test_the_spy_sees_what_is_imported_and_started(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    (tmp_path / "work").mkdir()
    seen = Watched("method=tensor", "training.steps=5", cwd=tmp_path / "work", spies=tmp_path / "spies")
    ok(seen.done)
    assert "torch" in seen.imports and any("exp.tracking.upload" in line for line in seen.started)
    assert any("exp.tracking.upload" in line for line in seen.pythons)


def test_the_header_is_printed_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    words = ("method=tensor", "device=cpu", *QUICK)
    seen = Watched(*words, cwd=tmp_path / "work", spies=tmp_path / "spies", refuse="torch")
    assert seen.done.returncode == 1 and "refused: torch" in seen.done.stdout + seen.done.stderr
    assert seen.done.stdout.splitlines()[0] == f"tensor {HEADER}, 5 steps, seed 0"


# a method of one's own

MINE_PY = '''from dataclasses import dataclass

from exp.methods import ArrayMethod
from exp.methods.manual import backward
from exp.network import forward


@dataclass(kw_only=True)
class Mine(ArrayMethod):
    """The tutorial's step, by me."""

    library = "numpy"

    def transition(self, state, x, y):
        pre, outputs = forward(state.params, x, self.activation)
        signal = self.loss.gradient(outputs[-1], y)
        grads = backward(state.params, pre, outputs, signal, self.activation)
        return self.loss.value(outputs[-1], y), self.update(state, grads)
'''
MINE_YAML = "_target_: mine.Mine\n"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with my/mine.py and my/method/mine.yaml."""
    (tmp_path / "my" / "method").mkdir(parents=True)
    (tmp_path / "my" / "mine.py").write_text(MINE_PY)
    (tmp_path / "my" / "method" / "mine.yaml").write_text(MINE_YAML)
    assert (MINE_PY + MINE_YAML).count("\n") < 30
    return tmp_path


def test_a_method_of_ones_own(elsewhere: Path, here: Here) -> None:
    words = ("--config-dir", "my", "method=mine", *QUICK)
    lines = here(*words).ok().lines
    assert lines[0] == f"mine {HEADER}, 5 steps, seed 0"
    assert cells(lines, "method")[1][0] == "mine"
    console = Path(sys.executable).parent / "exp"
    done = subprocess.run([console, *words], cwd=elsewhere, env=clean(), capture_output=True, text=True, timeout=120)
    assert ok(done)[:6] == lines[:6]


@pytest.mark.usefixtures("elsewhere")
def test_a_method_of_ones_own_in_a_sweep(here: Here) -> None:
    lines = here("--config-dir", "my", "-m", "method=mine,numpy", *QUICK).ok().lines
    heading, *rows = cells(lines, "run")
    assert {row[0] for row in rows} == {"mine", "numpy"}
    assert len({row[heading.index("final loss")] for row in rows}) == 1


# from Python


def test_from_python_it_is_the_same_run_and_nothing_is_printed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = exp.run("method=numpy", *QUICK)
    mine = exp.run("method=mine", *QUICK, config_dir="my")
    assert capfd.readouterr() == ("", "")
    assert run.losses.shape == (5,) and run.losses[0] == pytest.approx(3.398e7, rel=1e-3)
    assert {name: weight.shape for name, weight in run.weights.items()} == {
        "layer1.weight": (1000, 100),
        "layer2.weight": (100, 10),
    }
    assert run.metrics["final/loss"] == run.losses[-1] and run.folder.parent.name == "runs"
    assert (run.name, run.status, run.config["seed"]) == ("numpy steps=5", "FINISHED", 0)
    assert np.array_equal(run.losses, mine.losses)
    (elsewhere / "command").mkdir()
    ok(command("method=numpy", *QUICK, cwd=elsewhere / "command"))
    [typed] = (exp.load(path) for path in (elsewhere / "command" / "runs").iterdir())
    again = exp.load(run.folder)
    assert np.array_equal(typed.losses, run.losses) and np.array_equal(again.losses, run.losses)
    assert all(np.array_equal(typed.weights[name], run.weights[name]) for name in run.weights)
    assert typed.name == run.name


def test_data_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial, digits = exp.data(), exp.data("problem=digits")
    assert tutorial.train.x.shape == (64, 1000) and tutorial.train.y.shape == (64, 10) and tutorial.valid is None
    assert digits.valid is not None and digits.classes is not None
    assert (len(digits.train.x), len(digits.valid.x)) == (1438, 359) and [*digits.classes] == [*range(10)]
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_bad_input_from_python_is_a_value_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["optimizer.lr=-1"], ["method=autogard"], ["task=ui"]):
        with pytest.raises(ValueError, match=re.escape(words[0].partition(".")[0].partition("=")[0])):
            exp.run(*words)
    with pytest.raises(ValueError, match="nowhere"):
        exp.load("nowhere")
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_from_python_is_a_runtime_error(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (elsewhere / "my" / "failing.py").write_text(MINE_PY.replace("pre, outputs =", "1 / 0\n        pre, outputs ="))
    (elsewhere / "my" / "method" / "failing.yaml").write_text("_target_: failing.Mine\n")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        exp.run("method=failing", *QUICK, config_dir="my")
    [status] = statuses(elsewhere).values()
    assert status["status"] == "FAILED" and "ZeroDivisionError" in status["error"]


# odd circumstances


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "exp", "method=numpy", *QUICK]
    with subprocess.Popen(words, cwd=tmp_path, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (0, b"")
    [status] = statuses(tmp_path).values()
    assert status["status"] == "FINISHED"


def test_a_terminal_without_unicode_gets_the_lines(tmp_path: Path) -> None:
    lines = ok(command("method=numpy", *QUICK, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}))
    assert "random 64 ? 1000 ? 100 ? 10" in lines[0]


def test_threads_can_be_swept(here: Here) -> None:
    lines = here("-m", "method=numpy", "threads=1,2", *QUICK).ok().lines
    assert {row[0] for row in cells(lines, "run")[1:]} == {"threads=1", "threads=2"}


def test_debug_fast_goes_with_every_experiment(here: Here, tmp_path: Path) -> None:
    """Those that describe a sweep want -m."""
    sweeps = [name for name in registry.choices("experiment") if "sweep" in registry.choices("experiment")[name]]
    single = [name for name in registry.choices("experiment") if name not in sweeps]
    for name in single:
        here("method=numpy", "debug=fast", f"experiment={name}").ok()
    for name in sweeps:
        here("method=numpy", "debug=fast", f"experiment={name}").refused(
            f"experiment={name}: is about a sweep; put -m before it"
        )
    assert [len(exp.load(folder).losses) for folder in (tmp_path / "runs").iterdir()] == [5] * len(single)
    assert sweeps == ["crossing", "fused"]
