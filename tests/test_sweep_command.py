"""What `python -m exp -m …` does: the plan first, then only what is missing; each failure alone; files that describe sweeps.

Most of it goes through the command line's own `main` in this process, for speed.
"""

import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import exp as command
from sweeping import QUIET, SIZE, Here, attempts, commanded, counted, finished, forget, here, the_sweep, with_faulty

from exp import identity, registry
from exp.claims import Claims
from exp.methods.manual import NumPy
from exp.run_folder import EXPIRES_SECONDS, SWEEPS, RunFolder, run_folders
from exp.sources import modules_of, sources
from exp.sweep import planning
from exp.sweep.execution import Order, execute
from exp.sweep_folder import find_sweep, plan_of

__all__ = ["here"]

pytestmark = [
    # Hydra 1.3 merges a file with the plugin's own configuration of that name, and says so. It is what we want.
    pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/\w+' is validated against ConfigStore schema:UserWarning"),
]


@pytest.fixture(scope="module")
def two_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `-m seed=0,1` has run, with `QUIET`."""
    folder = tmp_path_factory.mktemp("done")
    commanded(command("-m", *QUIET, "seed=0,1", cwd=folder)).ok()
    return folder


@pytest.fixture
def two_seeds(two_done: Path, tmp_path: Path) -> None:
    """A copy of it in the test's folder."""
    shutil.copytree(two_done / "runs", tmp_path / "runs")


def states(lines: list[str]) -> dict[str, tuple[str, str]]:
    """The table of a plan: by run, its state and why."""
    start = next(number for number, line in enumerate(lines) if re.match(r"state +run +why", line))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 :]]
    return {row[1]: (row[0], row[2] if len(row) > 2 else "") for row in rows}


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def folders(folder: Path) -> set[str]:
    return {run.path.name for run in run_folders(folder / "runs")}


# The plan


def test_a_plan_alone_creates_nothing(here: Here, tmp_path: Path) -> None:
    done = here("-m", *QUIET, "seed=0,1", "precision=fp32,fp64", "sweep.plan=true").ok()
    assert done.plan == "4 new" and not content(tmp_path)
    assert states(done.lines) == {f"seed={seed} {precision}": ("new", "") for seed in (0, 1) for precision in ("fp32", "fp64")}


def test_the_plan_says_the_state_of_every_run_and_why(here: Here, tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "+sweep.grid={method.fault:[none,raises],method.place:[0,1]}")
    here(*words).ok(3)
    killed = finished(tmp_path)["fault=none place=1"]
    killed.update_status(status="KILLED")
    (tmp_path / "mended").touch()
    more = ["method.fault=none,raises", "method.place=0,1,2,3", "precision=fp32,bf16", "sweep.exclude=['method.place == 3']"]
    words = (*typed_faulty(tmp_path), "tracker=none", *more)
    before = content(tmp_path)
    done = here(*words, "sweep.plan=true").ok()
    assert content(tmp_path) == before
    assert done.plan == "2 new, 3 retry, 1 done, 4 excluded, 6 unsupported"
    shown = states(done.lines)
    assert shown["fault=none place=0 fp32"][0] == "done" and "runs/" in shown["fault=none place=0 fp32"][1]
    assert shown["fault=none place=1 fp32"] == ("retry", "killed")
    assert shown["fault=raises place=1 fp32"] == ("retry", "failed: ValueError: planted at 1")
    assert shown["fault=none place=2 fp32"] == ("new", "")
    assert shown["fault=none place=3 fp32"] == ("excluded", "method.place == 3")
    assert shown["fault=raises place=2 bf16"][0] == "unsupported" and "bfloat16" in shown["fault=raises place=2 bf16"][1]
    done = here(*words).ok()
    assert [line.partition(":")[0] for line in done.lines if line.startswith("skipped ")] == [
        f"skipped fault={fault} place={place} bf16" for fault in ("none", "raises") for place in (0, 1, 2)
    ]
    assert here(*words).ok().plan == "6 done, 4 excluded, 6 unsupported"


def typed_faulty(folder: Path) -> tuple[str, ...]:
    """What is typed for the method of `with_faulty`, which is there already."""
    assert (folder / "my").is_dir()
    return ("--config-dir", "my", "-m", "method=faulty", *SIZE, "training.steps=20")


@pytest.mark.usefixtures("two_seeds")
def test_a_run_that_is_being_done_elsewhere_is_said_to_run(here: Here, tmp_path: Path) -> None:
    (run,) = [run for run in run_folders(tmp_path / "runs") if run.status()["name"] == "seed=1"]
    again: Callable[[dict[str, Any]], bool] = lambda status: True  # noqa: E731
    begun = {"status": "RUNNING", "started": time.time(), "name": "seed=1"}
    held = Claims(tmp_path / "runs").take(run.status()["key"], begun, again)
    assert held is not None
    done = here("-m", *QUIET, "seed=0,1", "sweep.plan=true").ok()
    assert done.plan == "1 running, 1 done" and states(done.lines)["seed=1"][1] == f"in runs/{held.path.name}"
    held.release()
    done = here("-m", *QUIET, "seed=0,1", "sweep.plan=true").ok()
    assert done.plan == "1 retry, 1 done" and states(done.lines)["seed=1"][1] == f"killed in runs/{held.path.name}"


def test_every_run_is_made_and_checked_once(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    instantiate = planning.instantiate

    def noting(config: Any, choices: Any, overrides: list[str]) -> Any:
        seen.extend(overrides)
        return instantiate(config, choices, overrides)

    monkeypatch.setattr(planning, "instantiate", noting)
    here("-m", *QUIET, "seed=4,5,6").ok()
    assert [word for word in seen if word.startswith("seed=")] == ["seed=4", "seed=5", "seed=6"]


@pytest.mark.parametrize("plan", ["false", "true"])
def test_an_invalid_run_stops_the_sweep_with_nothing_created(plan: str, here: Here, tmp_path: Path) -> None:
    done = here("-m", *QUIET, "training.batch_size=3,9,2,10", f"sweep.plan={plan}")
    done.refused("training.batch_size=9: allowed: 1 to 8,")
    assert "2 of 4 are invalid" in done.err and not content(tmp_path)
    if plan == "true":
        assert done.plan == "2 new, 2 invalid"
        assert "batch_size=10: allowed: 1 to 8" in done.out, "every one has its reason"


def test_the_checks_are_those_of_a_single_run(here: Here, tmp_path: Path) -> None:
    for word in ("training.batch_size=9", "loss=cross_entropy", "optimizer.lr=1e-50"):
        single = here(*QUIET, word)
        swept = here("-m", *QUIET, "seed=0,1", word)
        assert single.code == swept.code == 1 and swept.err.startswith(single.err.strip()), swept.err
    assert not content(tmp_path)


def test_of_nothing_that_can_be_done_here_nothing_is_created(here: Here, tmp_path: Path) -> None:
    done = here("-m", *QUIET, "precision=bf16,tf32")
    done.refused("sweep=2 runs: none of them can run here")
    assert [line.partition(":")[0] for line in done.lines[-2:]] == ["skipped bf16", "skipped tf32"]
    done = here("-m", *QUIET, "seed=0,1", "sweep.exclude=['seed >= 0']").refused(
        "sweep.exclude=seed >= 0: leaves none of 2 runs"
    )
    assert done.lines[-2:] == ["excluded seed=0: seed >= 0", "excluded seed=1: seed >= 0"]
    assert not content(tmp_path)


# Resume


@pytest.mark.usefixtures("two_seeds")
def test_repeating_the_command_runs_only_what_is_missing(here: Here, tmp_path: Path) -> None:
    before = folders(tmp_path)
    done = here("-m", *QUIET, "seed=0,1").ok()
    assert done.plan == "2 done" and folders(tmp_path) == before
    assert {line.split()[0] for line in done.lines if line.startswith("seed=")} == {"seed=0", "seed=1"}, "the table has them"
    here("-m", *QUIET, "seed=1,2,0").ok()
    assert before < folders(tmp_path) and counted(tmp_path) == {"FINISHED": 3}
    assert the_sweep(tmp_path).status()["status"] == "FINISHED"


@pytest.mark.usefixtures("two_seeds")
def test_a_widened_grid_reuses_the_runs_of_the_narrower(here: Here, tmp_path: Path) -> None:
    narrow = the_sweep(tmp_path).path.name
    done = here("-m", *QUIET, "seed=0,1", "optimizer.lr=1e-3,1e-4").ok()
    assert done.plan == "2 new, 2 done"
    assert {*finished(tmp_path)} == {f"seed={seed} lr={rate}" for seed in (0, 1) for rate in ("0.001", "0.0001")}
    assert the_sweep(tmp_path).path.name == narrow, "the same sweep, wider"
    assert [run.factors for run in plan_of(the_sweep(tmp_path))] == [
        {"seed": seed, "optimizer.lr": rate} for seed in (0, 1) for rate in (1e-3, 1e-4)
    ]


def test_a_narrower_grid_reuses_the_runs_of_the_wider(here: Here, tmp_path: Path) -> None:
    here("-m", *QUIET, "seed=0,1", "precision=fp32,fp64").ok()
    wide = the_sweep(tmp_path).path.name
    done = here("-m", *QUIET, "seed=0,1", "precision=fp64").ok()
    assert done.plan == "2 done" and counted(tmp_path) == {"FINISHED": 4}
    _, narrow = run_folders(tmp_path / "runs" / SWEEPS)
    assert [run.status["name"] for run in plan_of(narrow)] == ["seed=0 fp64", "seed=1 fp64"]
    assert {status["sweep"] for status in attempts(tmp_path)} == {wide}
    assert sum(status.get("sweeps") == [narrow.path.name] for status in attempts(tmp_path)) == 2
    assert len([line for line in done.lines if re.match(r"seed=\d  +cpu ", line)]) == 2


@pytest.mark.usefixtures("two_seeds")
def test_single_runs_always_run(here: Here, tmp_path: Path) -> None:
    for _ in range(2):
        here(*QUIET, "seed=0").ok()
    assert counted(tmp_path) == {"FINISHED": 4}
    assert here("-m", *QUIET, "seed=0,1").ok().plan == "2 done"


@pytest.mark.parametrize(
    ("rerun", "plan", "code", "runs", "sweeps"),
    [
        ("missing", "1 new, 1 done, 1 failed", 3, 3, 1),
        ("failed", "1 new, 1 retry, 1 done", 0, 4, 1),
        ("all", "3 new", 0, 5, 2),
    ],
)
def test_what_runs_again_can_be_chosen(
    rerun: str, plan: str, code: int, runs: int, sweeps: int, here: Here, tmp_path: Path
) -> None:
    words = (*with_faulty(tmp_path), "tracker=none")
    here(*words, "method.fault=none,raises").ok(3)
    (tmp_path / "mended").touch()
    done = here(*words, "method.fault=none,raises,waits", f"sweep.rerun={rerun}").ok(code)
    assert done.plan == plan
    assert len(attempts(tmp_path)) == runs and len(run_folders(tmp_path / "runs" / SWEEPS)) == sweeps
    if rerun == "missing":
        assert done.failures() == [
            "fault=raises: ValueError: planted at 0; sweep.rerun=failed tries again",
            "fault=raises: ValueError: planted at 0",
        ]
    assert here(*words, "method.fault=none,raises,waits").ok().plan in ("3 done", "1 retry, 2 done")


# Failures


def test_a_failing_run_fails_alone(here: Here, tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "method.fault=raises,none,leaves,unpicklable", "method.place=4,7")
    done = here(*words).ok(3)
    assert counted(tmp_path) == {"FINISHED": 2, "FAILED": 6}
    assert done.failures() == [
        "fault=raises place=4: ValueError: planted at 4",
        "fault=raises place=7: ValueError: planted at 7",
        *[f"fault=leaves place={place}: SystemExit: 0" for place in (4, 7)],
        *[f"fault=unpicklable place={place}: Unpicklable: planted, and cannot be pickled" for place in (4, 7)],
    ]
    for run in run_folders(tmp_path / "runs"):
        if run.status()["status"] == "FAILED":
            trace = (run.path / "error.txt").read_text()
            assert trace.startswith("Traceback") and "faulty.py" in trace and "in break_down" in trace
    assert the_sweep(tmp_path).status()["status"] == "FAILED"
    assert the_sweep(tmp_path).status()["error"] == "6 of 8 runs failed"
    summary = the_sweep(tmp_path).read_json("summary.json")
    assert (summary["runs"], summary["finished"], summary["failed"], summary["left"]) == (8, 2, 6, 0)
    (tmp_path / "mended").touch()
    assert here(*words).ok().plan == "6 retry, 2 done"
    assert the_sweep(tmp_path).status()["status"] == "FINISHED" and the_sweep(tmp_path).status()["error"] is None


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_fail_fast_stops(launcher: str, here: Here, tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "method.fault=none,raises", "method.place=0,1,2,3,4,5,6,7,8,9,10,11")
    words = (*words, "sweep.fail_fast=true", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")[
        : -1 if launcher == "basic" else None
    ]
    done = (here(*words) if launcher == "basic" else commanded(command(*words, cwd=tmp_path))).ok(3)
    counts = counted(tmp_path)
    least = 12 if launcher == "basic" else 11  # a worker may fail before the other begins the run before it
    assert least <= counts["FINISHED"] <= 12 and 1 <= counts["FAILED"] <= 2 and set(counts) == {"FINISHED", "FAILED"}
    resume = done.lines[-1]
    assert resume.startswith("resume: python -m exp --config-dir my -m ")
    (tmp_path / "mended").touch()
    if launcher == "basic":
        assert here(*words).ok().plan == "11 new, 1 retry, 12 done"


def test_no_exception_of_a_worker_and_no_death_ends_a_sweep(tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    faults = "method.fault=unpicklable,raises,vanishes,leaves,none"
    done = commanded(command(*words, faults, "method.place=0,1", cwd=tmp_path)).ok(3)
    assert {line.partition(":")[0]: line.partition(": ")[2] for line in done.failures() if "place=1" in line} == {
        "fault=unpicklable place=1": "Unpicklable: planted, and cannot be pickled",
        "fault=raises place=1": "ValueError: planted at 1",
        "fault=leaves place=1": "SystemExit: 0",
        "fault=vanishes place=1": "its process died twice (killed by the system, perhaps for its memory?)",
    }
    counts = counted(tmp_path)
    assert (counts["FINISHED"], counts["FAILED"]) == (2, 8) and set(counts) == {"FINISHED", "FAILED", "KILLED"}
    assert the_sweep(tmp_path).status()["status"] == "FAILED"


# Files that describe sweeps


def test_a_sweep_file_of_ones_own(here: Here, tmp_path: Path) -> None:
    (tmp_path / "my" / "sweep").mkdir(parents=True)
    described = {
        "grid": {"precision": ["fp32", "fp64"]},
        "zip": {"optimizer.lr": [1e-3, 1e-4], "training.batch_size": [8, 4]},
        "exclude": ["precision == fp64 and optimizer.lr < 5e-4"],
        "repeats": 2,
    }
    (tmp_path / "my" / "sweep" / "mine.yaml").write_text(yaml.safe_dump(described))
    words = ("--config-dir", "my", "-m", *(word for word in QUIET if "lr" not in word), "sweep=mine")
    done = here(*words, "sweep.plan=true").ok()
    assert done.plan == "6 new, 2 excluded"
    rows = [(bits, rate, rows, seed) for bits in (32, 64) for rate, rows in (("0.001", 8), ("0.0001", 4)) for seed in (0, 1)]
    assert {*states(done.lines)} == {f"fp{p} lr={rate} batch_size={rows} seed={seed}" for p, rate, rows, seed in rows}
    done = here(*words, "precision=fp32", "sweep.repeats=1", "seed=5").ok()
    assert done.plan == "2 new", "what is typed takes the place of what is described"
    configs = [yaml.safe_load((run.path / "config.yaml").read_text()) for run in run_folders(tmp_path / "runs")]
    assert [(c["optimizer"]["lr"], c["training"]["batch_size"], c["seed"]) for c in configs] == [(1e-3, 8, 5), (1e-4, 4, 5)]
    assert here(*words, "precision=fp64", "optimizer.lr=1e-3,2e-3,3e-3", "sweep.plan=true").refused("sweep.zip: ")
    again = here(*words, "precision=fp64", "optimizer.lr=1e-3,2e-3", "seed=5,6", "sweep.repeats=1", "sweep.plan=true").ok()
    assert again.plan == "4 new"


def test_a_union_of_grids(here: Here, tmp_path: Path) -> None:
    (tmp_path / "my" / "sweep").mkdir(parents=True)
    parts = [
        {"grid": {"optimizer": ["sgd"], "optimizer.lr": [1e-3, 1e-4]}},
        {"grid": {"optimizer": ["adam"], "optimizer.lr": [0.1, 0.01]}, "exclude": ["optimizer.lr > 0.05 and seed == 1"]},
    ]
    (tmp_path / "my" / "sweep" / "tuned.yaml").write_text(yaml.safe_dump({"grid": {"seed": [0, 1]}, "union": parts}))
    words = ("--config-dir", "my", "-m", *(word for word in QUIET if "lr" not in word), "sweep=tuned")
    done = here(*words).ok()
    assert done.plan == "7 new, 1 excluded"
    names = [f"seed={seed} {chosen}" for chosen in ("sgd lr=0.001", "sgd lr=0.0001", "adam lr=0.01") for seed in (0, 1)]
    assert {*finished(tmp_path)} == {*names, "seed=0 adam lr=0.1"}


HERE = {*registry.choices("method")} - ({"graphed"} if not torch.cuda.is_available() else set())
"""The methods that run on this machine."""


@pytest.mark.parametrize(("choice", "runs"), [("learning_rate", 5), ("seeds", 5)])
def test_the_shipped_sweeps(choice: str, runs: int, here: Here, tmp_path: Path) -> None:
    words = [word for word in QUIET if not word.startswith("optimizer.lr")]
    done = here("-m", *words, f"sweep={choice}").ok()
    assert done.plan.startswith(f"{runs} new") and counted(tmp_path) == {"FINISHED": runs}
    expected = {"seeds": {f"seed={seed}" for seed in range(5)}}
    assert {*finished(tmp_path)} == expected.get(choice, {f"lr={rate}" for rate in ("1e-7", "3e-7", "1e-6", "3e-6", "1e-5")})


def test_all_methods_of_this_machine_are_the_sweep_methods(here: Here) -> None:
    """README's test does them, in a process of its own."""
    done = here("-m", *SIZE, "tracker=none", "sweep=methods", "sweep.plan=true").ok()
    assert {name for name, (state, *_) in states(done.lines).items() if state == "new"} == HERE


def test_ones_own_method_is_among_the_methods(here: Here, tmp_path: Path) -> None:
    with_faulty(tmp_path)
    done = here("--config-dir", "my", "-m", *SIZE, "tracker=none", "sweep=methods", "sweep.plan=true").ok()
    assert {*states(done.lines)} == {*registry.choices("method"), "faulty"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep=nowhere"], "sweep=nowhere: no such choice; choose "),
        (["+sweep.zip={seed:[0,1],threads:[1,2,3]}"], "sweep.zip: seed has 2 and threads has 3 values"),
        (["+sweep.grid.seed=[]"], "sweep.grid.seed=[]: has no values"),
        (["seed=glob(nothing*)"], "seed=[]: has no values"),
        (["seed=0,1", "sweep.exclude=['seed >']"], "sweep.exclude=['seed >']: cannot be read"),
        (["seed=0,1", "sweep.exclude=['sed == 1']"], "sweep.exclude=sed == 1: sed is no name here; nearest: seed"),
        (["seed=0,0"], "seed=0: is there twice"),
        (["seed=0,1", "hydra/launcher=nowhere"], "hydra/launcher=nowhere: "),
        (["seed=0,1", "sweep.rerun=some"], "sweep.rerun=some: choose "),
        (["seed=0,1", "sweep.repeats=2"], "sweep.repeats=2: "),
        (["seed=0,1", "sweep.repeats=0"], "sweep.repeats=0: allowed: a whole number >= 1"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line(words: list[str], said: str, here: Here, tmp_path: Path) -> None:
    done = here("-m", *QUIET, *words).refused(said)
    assert done.out == "" and not content(tmp_path)


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local", "submitit_slurm"])
def test_a_launcher_that_is_not_installed_is_one_line(
    launcher: str, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, find = launcher.partition("_")[0], importlib.util.find_spec
    plugin = f"hydra_plugins.hydra_{name}_launcher"
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *more: None if wanted == plugin else find(wanted, *more))
    done = here("-m", *QUIET, "seed=0,1", f"hydra/launcher={launcher}")
    done.refused(f"hydra/launcher={launcher}: needs what is not installed; pip install 'exp[{name}]'")
    assert not content(tmp_path)


# Identity


@pytest.mark.usefixtures("two_seeds")
def test_what_only_says_how_does_not_run_again(here: Here, tmp_path: Path) -> None:
    others = ("name=other", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "sweep.fail_fast=true", "sweep.rerun=missing")
    assert here("-m", *QUIET, "seed=0,1", *others).ok().plan == "2 done"
    words = [word.replace("1e-3", "0.001") for word in QUIET if not word.startswith("tracker")]
    words += ["tracker=mlflow", "tracker.experiment=x", "training.log_every=7", "problem=random"]
    assert here("-m", *words, "seed=0,1", "sweep.plan=true").ok().plan == "2 done"


@pytest.mark.usefixtures("two_seeds")
def test_what_can_change_the_result_runs_again(here: Here) -> None:
    words = [word for word in QUIET if not word.startswith("training.steps")]
    changes = ["threads:[2]", "precision:[fp64]", "problem.seed:[9]", "network.seed:[9]", "device:[cpu],optimizer:[adam]"]
    grids = ["training.steps:[20]", "training.steps:[21]", *(f"{change},training.steps:[20]" for change in changes)]
    parts = ",".join(f"{{grid:{{{grid}}}}}" for grid in grids)
    done = here("-m", *words, "seed=0,1", f"sweep.union=[{parts}]", "sweep.plan=true").ok()
    assert done.plan == "12 new, 2 done"
    assert [name for name, (state, _) in states(done.lines).items() if state == "done"] == [
        "steps=20 seed=0",
        "steps=20 seed=1",
    ]


@pytest.mark.usefixtures("two_seeds")
def test_another_version_runs_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    known = identity.version
    for other in ("exp", "numpy", "torch"):
        monkeypatch.setattr(identity, "version", lambda package, other=other: "0.0" if package == other else known(package))
        assert here("-m", *QUIET, "seed=0,1", "sweep.plan=true").ok().plan == "2 new"
    monkeypatch.setattr(identity, "version", known)
    assert here("-m", *QUIET, "seed=0,1", "sweep.plan=true").ok().plan == "2 done"


def test_a_changed_method_runs_again(here: Here, tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "seed=0,1")
    module, beside, unrelated = (tmp_path / "my" / f"{name}.py" for name in ("faulty", "beside", "unrelated"))
    in_the_working_directory = tmp_path / "beside_the_data.py"
    module.write_text("import beside\nimport beside_the_data\n" + module.read_text())
    for file in (beside, unrelated, in_the_working_directory):
        file.write_text("FACTOR = 1\n")

    def plan(*more: str) -> str:
        forget(tmp_path)
        return here(*words, *more).ok().plan

    assert plan() == "2 new"
    unrelated.write_text("FACTOR = 2\n")
    assert plan("sweep.plan=true") == "2 done"
    for file in (beside, in_the_working_directory):
        file.write_text("FACTOR = 2\n")
        assert plan("sweep.plan=true") == "2 new", "a file that the method imports"
        file.write_text("FACTOR = 1\n")
    module.write_text(module.read_text().replace("self.taken += 1", "self.taken += 1  # more"))
    assert plan() == "2 new"
    assert len(finished(tmp_path)) == 2 and counted(tmp_path) == {"FINISHED": 4}


def test_changed_data_run_again(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("a,b,y\n1,2,3\n2,3,4.5\n3,4,5\n4,5,6\n5,6,7.5\n")
    words = ("-m", "method=numpy", "problem=table", "problem.path=table.csv", "problem.target=y", "loss=mean_squared_error")
    words = (*words, "training.steps=5", "tracker=none", "seed=0,1")
    here(*words).ok()
    file.touch()
    assert here(*words, "sweep.plan=true").ok().plan == "2 done", "its bytes are the same"
    file.write_text(file.read_text().replace("4.5", "4.4"))
    assert here(*words).ok().plan == "2 new"
    assert counted(tmp_path) == {"FINISHED": 4}


def test_the_files_of_a_run_are_those_of_its_parts() -> None:
    found = sources(modules_of([NumPy]))
    assert {"exp/methods/manual.py", "exp/methods/base.py", "exp/activations.py"} <= found.keys()
    assert not any(name.startswith(("exp/tracking", "exp/sweep", "exp/tasks")) for name in found), [*found]


# Claims


def test_of_many_at_once_one_takes_a_run(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "runs")

    def take(number: int) -> RunFolder | None:
        begun = {"status": "RUNNING", "started": time.time(), "name": f"run {number}"}
        return claims.take("key", begun, lambda status: False)

    with ThreadPoolExecutor(8) as pool:
        taken = [folder for folder in pool.map(take, range(40)) if folder is not None]
    assert len(taken) == 1 and len(run_folders(tmp_path / "runs")) == 1
    assert claims.latest("key").path == taken[0].path  # type: ignore[union-attr]
    taken[0].release()
    second = take(41)
    assert second is not None and second.path != taken[0].path, "a dead owner's claim is free"
    second.update_status(status="FINISHED")
    second.release()
    assert take(42) is None


def test_a_claim_on_another_machine_expires_without_heartbeat(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs", "far")
    folder.release()
    assert not folder.alive
    (folder.path / ".lock").write_text("another.machine")
    assert folder.alive
    past = time.time() - EXPIRES_SECONDS - 5
    os.utime(folder.path / ".lock", (past, past))
    assert not folder.alive
    folder.beat()
    assert folder.alive


@pytest.mark.usefixtures("two_seeds")
def test_a_claim_that_was_broken_off_is_taken(tmp_path: Path, here: Here) -> None:
    """Killed before the folder had a status, before the claim was written, or with a claim on what was removed."""
    claims = tmp_path / "runs" / ".claims"
    for claim in claims.iterdir():
        if not claim.name.startswith("."):
            (claims / f".{claim.name}").write_text("torn")
    (tmp_path / "runs" / "20260101-000000-empty-000000").mkdir()
    assert here("-m", *QUIET, "seed=0,1").ok().plan == "2 done"
    (tmp_path / "runs" / finished(tmp_path)["seed=0"].path.name).rename(tmp_path / "away")
    assert here("-m", *QUIET, "seed=0,1").ok().plan == "1 new, 1 done"
    assert len(finished(tmp_path)) == 2


def test_the_plan_is_kept(here: Here, tmp_path: Path) -> None:
    here("-m", *QUIET, "seed=0,1", "precision=fp64,bf16").ok()
    plan = json.loads((the_sweep(tmp_path).path / "plan.json").read_text())
    assert plan["factors"] == ["seed", "precision"] and [run["name"] for run in plan["runs"]] == ["seed=0 fp64", "seed=1 fp64"]
    assert [skipped[:2] for skipped in plan["skipped"]] == [["seed=0 bf16", "unsupported"], ["seed=1 bf16", "unsupported"]]
    assert the_sweep(tmp_path).status()["command"][:4] == ["python", "-m", "exp", "-m"]


@pytest.mark.usefixtures("two_seeds")
def test_the_latest_sweep_is_that_which_was_worked_on_last(here: Here, tmp_path: Path) -> None:
    first = the_sweep(tmp_path).path.name
    here("-m", *QUIET, "optimizer.lr=1e-3,1e-4", "seed=5").ok()
    here("-m", *QUIET, "seed=0,1").ok()
    assert find_sweep(tmp_path / "runs", "latest").path.name == first


@pytest.mark.parametrize("typed", ["sweep.zip={optimizer.lr:[1e-3,1e-4],seed:[0,1]}", "sweep.zip.optimizer.lr=[1e-3,1e-4]"])
def test_a_zip_can_be_typed(typed: str, here: Here) -> None:
    done = here("-m", *QUIET, typed, *(["sweep.zip.seed=[0,1]"] if "seed" not in typed else []), "sweep.plan=true").ok()
    assert done.plan == "2 new" and {line.split("  ")[0] for line in done.lines[3:]} <= {"new", "new "}


@pytest.mark.parametrize("typed", ["seed == 0", "[seed == 0]", "['seed == 0']"])
def test_a_condition_can_be_typed_plainly(typed: str, here: Here) -> None:
    assert here("-m", *QUIET, "seed=0,1", f"sweep.exclude={typed}", "sweep.plan=true").ok().plan == "1 new, 1 excluded"


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("hydra.launcher.n_jobz=2", "hydra.launcher.n_jobz=2: is no key of the chosen launcher"),
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: allowed: a whole number >= 1, or -1"),
    ],
)
def test_a_mistake_in_a_launcher_is_one_line(word: str, start: str, tmp_path: Path) -> None:
    """In a process of its own: Hydra's warnings, which exp silences, would be errors in this one."""
    commanded(command("-m", "hydra/launcher=joblib", word, *QUIET, "seed=0,1", cwd=tmp_path)).refused(start)
    assert not (tmp_path / "runs").exists()


# Odd machines, odd moments


def test_a_system_that_does_not_tell_which_cores_it_gives_sweeps_too(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    here("-m", *QUIET, "seed=0,1").ok()
    assert {*finished(tmp_path)} == {"seed=0", "seed=1"}


def test_a_run_whose_folder_is_removed_while_the_sweep_goes_on_is_over(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(order: Order, *arguments: Any, **options: Any) -> list[str]:
        done = execute(order, *arguments, **options)
        forgotten = order.claims.latest(done[0])
        assert forgotten is not None
        shutil.rmtree(forgotten.path)
        return done

    monkeypatch.setattr("exp.sweep.running.execute", removing)
    here("-m", *QUIET, "seed=0,1", "sweep.fuse=off").ok(3)
    assert not run_folders(tmp_path / "runs")


def test_the_seeds_of_a_part_are_seeds_in_the_summary_too(here: Here, tmp_path: Path) -> None:
    here("-m", *QUIET, "training.seed=0,1", "optimizer.lr=1e-3,1e-4").ok()
    settings = the_sweep(tmp_path).read_json("summary.json")["settings"]
    assert [(each["setting"], each["values"]["n"]) for each in settings] == [("lr=0.001", 2), ("lr=0.0001", 2)]
