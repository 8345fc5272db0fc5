"""`exp.results`: a tidy frame of a sweep with full histories."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import exp as command
from written_sweeps import grid, written_sweep

import exp
from exp.errors import InputError
from exp.run_folder import run_folders


def test_a_real_sweep_with_validation_is_a_tidy_frame(tmp_path: Path) -> None:
    words = ["problem=diabetes", "loss=mean_squared_error", "optimizer.lr=1e-4,1e-3", "training.steps=20", "tracker=none"]
    assert command("-m", "method=numpy", "training.evaluate_every=7", *words, cwd=tmp_path).returncode == 0
    frame: Any = exp.results(runs_folder=tmp_path / "runs")
    assert list(frame.columns[:5]) == ["run", "folder", "status", "verdict", "optimizer.lr"]
    assert {"final/loss", "final/valid_r2", "time/step_seconds", "step", "seconds", "train/loss", "valid/loss", "valid/r2"} < {
        *frame
    }
    assert set(frame["status"]) == {"finished"}
    assert set(frame["optimizer.lr"]) == {1e-4, 1e-3}
    for found in run_folders(tmp_path / "runs"):
        if found.status().get("task") != "train":
            continue
        curve, mine = found.curve(), frame[frame["folder"] == found.path.name]
        assert list(mine["step"]) == list(range(21))
        np.testing.assert_array_equal(mine["train/loss"].to_numpy()[:20], curve["train/loss"])
        assert np.isnan(mine["train/loss"].iloc[20]) and mine["seconds"].is_monotonic_increasing
        measured = mine.dropna(subset=["valid/r2"])
        assert list(measured["step"]) == [0, 7, 14, 20]
        np.testing.assert_array_equal(measured["valid/r2"], curve["valid/r2"])


def test_runs_of_any_length_and_state_are_in_it(tmp_path: Path) -> None:
    planned = grid(("numpy", "autograd"), (1e-6,), (0, 1), steps=9)
    planned[1] |= {"losses": planned[1]["losses"][:4], "blew_up_at_step": 4}
    planned[2] |= {"status": "RUNNING", "metrics": {}, "verdict": "equivalent"}
    del planned[3]["losses"]
    sweep = written_sweep(tmp_path / "runs", planned)
    frame: Any = exp.results(sweep.path.name, tmp_path / "runs")
    assert frame.groupby("run", sort=False).size().tolist() == [9, 4, 9]
    assert frame.groupby("run", sort=False)["status"].first().tolist() == ["finished", "blew up", "running"]
    assert frame["final/loss"].isna().sum() == 9 and frame["seed"].tolist() == [0] * 9 + [1] * 4 + [0] * 9
    assert frame["verdict"].dropna().tolist() == ["equivalent"] * 9
    assert frame["step"].dtype == np.int64


def test_a_sweep_that_has_measured_nothing_is_an_empty_frame(tmp_path: Path) -> None:
    planned = [{key: run[key] for key in ("name", "factors")} for run in grid(("numpy",), (1e-6,), (0, 1), steps=9)]
    written_sweep(tmp_path, planned)
    frame: Any = exp.results("latest", tmp_path)
    assert len(frame) == 0 and {"run", "status", "step", "train/loss"} <= {*frame}


def test_a_sweep_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no sweep in"):
        exp.results("latest", tmp_path)


def test_pandas_and_plotly_are_imported_only_when_used() -> None:
    program = (
        "import sys, exp; exp.results; sys.exit(any(name in sys.modules for name in ('pandas', 'plotly', 'scipy', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
