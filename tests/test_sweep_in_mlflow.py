"""What MLflow has of a sweep: flat runs that share a tag, one more run for the sweep itself, and nothing is missing."""

import colorsys
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from campaigns.chaos import armed
from commands import client, points, start, tracked, until
from commands import exp as command
from sweeping import TINY, Here, attempts, commanded, ended, here, the_sweep, with_faulty
from test_tracking import Server

from exp.run_folder import run_folders
from exp.sweep_folder import find_sweep

__all__ = ["here"]

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")


def assert_complete(uri: str, folder: Path) -> dict[str, Any]:
    """The store has every attempt and the sweep, as their folders say, with each point once; returns the runs by name."""
    runs = [run for run in run_folders(folder / "runs") if run.status()["tracking"]["uri"] == uri]
    store = tracked(uri)
    assert store.keys() == {run.path.name for run in runs}
    for run in runs:
        found, status = store[run.path.name], run.status()
        assert (found.info.status, found.info.run_name) == (status["status"], status["name"])
        assert points(uri, found, "train/loss") == list(enumerate(run.curve()["train/loss"]))
        assert "mlflow.parentRunId" not in found.data.tags
    sweep = the_sweep(folder)
    ((name, found),) = tracked(uri, sweeps=True).items()
    assert (name, found.info.status) == (sweep.path.name, sweep.status()["status"])
    assert "mlflow.parentRunId" not in found.data.tags and found.data.tags["kind"] == "sweep"
    return {run.info.run_name: run for run in store.values() if "sweep" in run.data.tags}


def artifact(uri: str, run: Any, name: str, folder: Path) -> str:
    return Path(client(uri).download_artifacts(run.info.run_id, name, str(folder))).read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[SimpleNamespace]:
    """A sweep with failures; mended and widened; and once more, tracked in another store."""
    cwd = tmp_path_factory.mktemp("story")
    shutil.copy(new_database, cwd / "mlflow.db")
    uri, other = f"sqlite:///{cwd}/mlflow.db", f"sqlite:///{cwd}/other.db"
    words = (*with_faulty(cwd), "method.fault=none,raises", "sweep.repeats=2")
    first = commanded(command(*words, cwd=cwd)).ok(3)
    before = SimpleNamespace(runs=tracked(uri), sweep=tracked(uri, sweeps=True), by_name=assert_complete(uri, cwd))
    (cwd / "mended").touch()
    second = commanded(command(*words, "optimizer.lr=1e-3,1e-4", cwd=cwd)).ok()
    third = commanded(command(*words, "optimizer.lr=1e-3,1e-4", "tracker.uri=sqlite:///other.db", cwd=cwd)).ok()
    yield SimpleNamespace(cwd=cwd, uri=uri, other=other, first=first, second=second, third=third, before=before)


def test_runs_are_flat_and_share_a_tag(story: SimpleNamespace) -> None:
    name = the_sweep(story.cwd).path.name
    assert {*story.before.by_name} == {f"fault={fault} seed={seed}" for fault in ("none", "raises") for seed in (0, 1)}
    for run in story.before.by_name.values():
        assert (run.data.tags["sweep"], run.data.tags["kind"]) == (name, "train")
        assert run.data.params["method"] == "faulty" and run.data.params["seed"] in ("0", "1")


def test_a_failure_is_a_tag_and_its_traceback_an_artifact(story: SimpleNamespace, tmp_path: Path) -> None:
    run = story.before.by_name["fault=raises seed=1"]
    assert run.info.status == "FAILED" and run.data.tags["error"] == "ValueError: planted at 0"
    trace = artifact(story.uri, run, "error.txt", tmp_path)
    assert trace.startswith("Traceback") and "in break_down" in trace
    assert "error" not in story.before.by_name["fault=none seed=1"].data.tags


def test_the_sweep_is_one_more_run(story: SimpleNamespace, tmp_path: Path) -> None:
    (run,) = story.before.sweep.values()
    assert run.info.status == "FAILED" and run.data.tags["error"] == "2 of 4 runs failed" and "sweep" not in run.data.tags
    metrics = run.data.metrics
    assert [metrics[f"sweep/{name}"] for name in ("runs", "finished", "failed", "left")] == [4, 2, 2, 0]
    (run,) = tracked(story.uri, sweeps=True).values()  # as it is now
    assert run.info.status == "FINISHED" and "error" not in run.data.tags
    plan, summary = (json.loads(artifact(story.uri, run, f"{name}.json", tmp_path)) for name in ("plan", "summary"))
    assert len(plan["runs"]) == 8 and plan["factors"] == ["method.fault", "optimizer.lr", "seed"]
    assert (summary["runs"], summary["finished"], len(summary["outcomes"])) == (8, 8, 8)


def test_aggregates_over_seeds_are_metrics_of_the_sweep(story: SimpleNamespace) -> None:
    (run,) = tracked(story.uri, sweeps=True).values()
    runs = tracked(story.uri).values()
    for rate in ("0.001", "0.0001"):
        setting = f"sweep/fault none lr {rate}"
        losses = [found.data.metrics["final/loss"] for found in runs if found.info.run_name.startswith(f"fault=none lr={rate}")]
        assert len(losses) == 2 and run.data.metrics[f"{setting} n"] == 2
        assert run.data.metrics[f"{setting} final loss mean"] == pytest.approx(np.mean(losses), rel=1e-12)
        assert run.data.metrics[f"{setting} final loss std"] == pytest.approx(np.std(losses, ddof=1), rel=1e-12)


def test_a_wider_sweep_renames_what_it_reuses(story: SimpleNamespace) -> None:
    assert story.second.plan == "4 new, 2 retry, 2 done"
    expected = {f"fault={f} lr={rate} seed={s}" for f in ("none", "raises") for rate in ("0.001", "0.0001") for s in (0, 1)}
    assert {*assert_complete(story.other, story.cwd)} == expected
    in_view = [run for run in tracked(story.uri).values() if "sweep" in run.data.tags]
    assert {run.info.run_name for run in in_view} == expected and {run.info.status for run in in_view} == {"FINISHED"}


def test_attempts_that_were_replaced_leave_the_view(story: SimpleNamespace) -> None:
    replaced = [run for run in tracked(story.uri).values() if "sweep.superseded" in run.data.tags]
    assert len(tracked(story.uri)) == 10 and len(replaced) == 2
    for run in replaced:
        assert run.info.status == "FAILED" and "sweep" not in run.data.tags
        assert run.data.tags["sweep.superseded"] == the_sweep(story.cwd).path.name


def test_another_store_gets_the_runs_that_are_reused(story: SimpleNamespace) -> None:
    assert story.third.plan == "8 done" and len(attempts(story.cwd)) == 10
    assert len(assert_complete(story.other, story.cwd)) == 8


@pytest.mark.parametrize("database", ["mlflow.db", "other.db"])
def test_the_database_counts_its_rows(database: str, story: SimpleNamespace) -> None:
    with closing(sqlite3.connect(story.cwd / database)) as connection:
        counted = {row[0] for row in connection.execute("SELECT tbl FROM sqlite_stat1")}
    assert {"metrics", "runs", "tags"} <= counted


def test_eight_workers_on_a_fresh_database_lose_nothing(tmp_path: Path) -> None:
    words = (*(word for word in with_faulty(tmp_path) if "method" not in word), "method=numpy,faulty", "seed=range(8)")
    done = commanded(command(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=8", cwd=tmp_path, timeout=240)).ok()
    assert "viewStateShareKey=" in done.lines[-1] and not any("not in MLflow" in line for line in done.lines)
    runs = assert_complete(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    assert {*runs} == {f"{method} seed={seed}" for method in ("numpy", "faulty") for seed in range(8)}
    hues: dict[str, set[int]] = {}
    for name, run in runs.items():
        colour = run.data.tags["mlflow.runColor"]
        red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        hues.setdefault(name.split()[0], set()).add(round(36 * colorsys.rgb_to_hls(red, green, blue)[0]))
    assert all(len(found) == 1 for found in hues.values()) and len(set.union(*hues.values())) == 2, hues
    assert len({run.data.tags["mlflow.runColor"] for run in runs.values()}) == 16, "a shade for each"


@pytest.mark.parametrize("statement", [60])
def test_a_database_that_was_shot_in_the_making_is_made(statement: int, tmp_path: Path) -> None:
    """MLflow's migrations cannot be gone on with in the middle."""
    work, env = tmp_path / "work", armed(tmp_path)
    work.mkdir()
    (tmp_path / "kills" / f"upload.sql.{statement}").touch()
    done = commanded(command("-m", *TINY, "seed=0,1", cwd=work, env=env)).ok()
    assert not (tmp_path / "kills" / f"upload.sql.{statement}").exists(), "it was shot"
    assert commanded(command("-m", *TINY, "seed=0,1", cwd=work, env=env)).ok().plan == "2 done"
    assert len(assert_complete(f"sqlite:///{work}/mlflow.db", work)) == 2, done.out
    assert {path.name for path in work.iterdir()} == {"runs", "mlflow.db", ".mlflow.db.lock", "mlartifacts"}


def test_a_server_that_dies_in_the_middle_gets_everything(tmp_path: Path, new_database: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, new_database)
    server.start()
    words = (*with_faulty(tmp_path), "method.fault=none,waits", "method.place=0,1", f"tracker.uri={server.uri}")
    sweeper = start(*words, cwd=tmp_path)
    try:
        until((tmp_path / "waiting-0").exists)
        until(lambda: len(tracked(server.uri)) == 3)
        server.die()
        (tmp_path / "go").touch()
        done = ended(sweeper).ok()
        assert sum("not in MLflow yet" in line for line in done.lines) == 1 and "Traceback" not in done.out
        assert {status["status"] for status in attempts(tmp_path)} == {"FINISHED"}
        server.start()
        again = commanded(command(*words, cwd=tmp_path)).ok()
        assert again.plan == "4 done" and not any("not in MLflow" in line for line in again.lines)
        assert len(assert_complete(server.uri, tmp_path)) == 4
    finally:
        server.die()
        ended(sweeper)


@pytest.mark.usefixtures("used_folder")
def test_a_sweep_that_reuses_runs_of_another_shows_them_all(here: Here, tmp_path: Path) -> None:
    here("-m", *TINY, "seed=0,1").ok()
    first = the_sweep(tmp_path).path.name
    here("-m", *TINY, "seed=1,2").ok()
    second = find_sweep(tmp_path / "runs", "latest").path.name
    runs = tracked(f"sqlite:///{tmp_path}/mlflow.db").values()
    in_second = [run for run in runs if run.data.tags.get(f"sweep.{second}") == "member"]
    assert {run.data.params["seed"] for run in in_second} == {"1", "2"}
    assert {run.data.params["seed"] for run in runs if run.data.tags["sweep"] == first} == {"0", "1"}
    (experiment,) = (found for found in client(f"sqlite:///{tmp_path}/mlflow.db").search_experiments() if found.name == "exp")
    states = {json.loads(json.loads(value)["state"])["searchFilter"] for key, value in experiment.tags.items() if "View" in key}
    assert states == {f"tags.sweep = '{first}'", f"tags.`sweep.{second}` = 'member'"}
