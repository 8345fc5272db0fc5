"""Many runs that differ in numbers only: `python -m benchmarks.fused [part …]`, in the folder `tests`.

Parts: tutorial, small, widths (small ones of twenty widths).

End to end, whole commands in fresh folders, until the prompt is back and every point of every run is in MLflow: they are
counted. A run more, as the difference of two sweeps: of exp, of exp one by one (sweep.fuse=off), of the usual script (Hydra and
`mlflow.log_metric` in every step), of Lightning with its MLFlowLogger. For the bare computation a peer is `jax.vmap` over runs
and `lax.scan` over steps, compiled before it is timed. Peers that are not installed are named.
"""

import importlib.util
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from campaigns.machine import machine

from benchmarks.peers import JAX, LIGHTNING, STEPS, USUAL, filled
from benchmarks.sweeps import ours, script, seconds, seeds
from exp.run_folder import run_folders

REPEATS = 3
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Part:
    """A sweep: what is typed for its runs, what varies beside the seed and with how many seeds, and the network for peers."""

    words: tuple[str, ...]
    varied: str
    seeds: tuple[int, int]
    inputs: int
    widths: tuple[int, ...]
    batch: int | None

    @property
    def values(self) -> int:
        return len(self.varied.split(","))

    def peer(self, text: str) -> str:
        """Another's script for the same training."""
        together = self.seeds[1] * (self.values // len(self.widths))
        return filled(text, self.inputs, self.widths, self.batch, together)


SMALL = ("method=numpy", "problem=digits", "network=mlp", "loss=cross_entropy", "training.batch_size=64")
WIDTHS = (*range(2, 32, 2), 33, 36, 40, 44, 48)
PARTS = {
    "tutorial": Part(
        ("method=numpy",), "optimizer.lr=" + ",".join(f"{rate}e-8" for rate in range(20, 84, 4)), (2, 16), 1000, (100,), None
    ),
    "small": Part(
        (*SMALL, "network.hidden=[32]"),
        "optimizer.lr=" + ",".join(f"{rate / 100}" for rate in range(1, 17)),
        (2, 16),
        64,
        (32,),
        64,
    ),
    "widths": Part(SMALL, "network.hidden=" + ",".join(f"[{width}]" for width in WIDTHS), (5, 50), 64, WIDTHS, 64),
}


def waited(folder: Path, runs: int) -> float:
    """Seconds until every run is over in the store, and has every point there: what the prompt did not wait for."""
    began, over = time.perf_counter(), 0
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as store:
        while over < runs:  # whoever reads keeps others from writing: few rows, not often
            assert time.perf_counter() - began < PATIENCE_SECONDS, f"{over} of {runs} runs"
            time.sleep(0.1)
            finished = "JOIN tags USING (run_uuid) WHERE status = 'FINISHED' AND key = 'kind' AND value = 'train'"
            over = store.execute(f"SELECT count(*) FROM runs {finished}").fetchone()[0]
        took = time.perf_counter() - began
        points = store.execute("SELECT count(*) FROM metrics WHERE key = 'train/loss'").fetchone()[0]
    assert points == runs * STEPS, f"{points} points of {runs} runs"
    return took


CLIENT = {"MLFLOW_ENABLE_WORKSPACES": "0"}
"""With any value of it the bulk path leaves everything to MLflow's client."""


def a_run_of_ours(part: Part, *how: str, env: dict[str, str] | None = None) -> Callable[[], float]:
    """Seconds for one more run of exp, of a long sweep less a short one; every point counted."""

    def measured() -> float:
        took = []
        for count in part.seeds:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                words = (*part.words, part.varied, seeds(count), f"training.steps={STEPS}", *how)
                took.append(seconds(ours(*words), Path(name), env) + waited(Path(name), part.values * count))
                BARE[(part, how)] = bare(Path(name))
        return (took[1] - took[0]) / (part.values * (part.seeds[1] - part.seeds[0]))

    return measured


BARE: dict[tuple[Part, tuple[str, ...]], tuple[float, float]] = {}


def bare(folder: Path) -> tuple[float, float]:
    """Seconds of a step of a run in the training proper, mean over all runs: of all steps, and of the median one."""
    metrics = [run.status()["metrics"] for run in run_folders(folder / "runs")]
    every = float(np.mean([each["time/train_seconds"] for each in metrics])) / STEPS
    return every, float(np.mean([each["time/step_seconds"] for each in metrics]))


def a_run_of(text: str, part: Part, *, few: int, many: int, hydra: bool) -> Callable[[], float]:
    """Seconds for one more run of a peer's script."""

    def measured() -> float:
        took = []
        for count in (few, many):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                store = f"{folder}/mlflow.db"
                command = script(folder, part.peer(text), seeds(count, "+seed"), f"+store={store}")
                took.append(seconds(command if hydra else [sys.executable, "script.py", str(count), store], folder))
        return (took[1] - took[0]) / (many - few)

    return measured


def jax_step(part: Part) -> float:
    """Seconds of a step of a run in JAX."""
    import subprocess

    return float(subprocess.check_output([sys.executable, "-c", part.peer(JAX)], text=True).split()[-1])


def main() -> None:
    """Measure and print."""
    chosen = sys.argv[1:] or list(PARTS)
    has = {name: importlib.util.find_spec(name) is not None for name in ("lightning", "jax")}
    print(machine("1 thread in each of at most 2 processes"))
    for name in chosen:
        part = PARTS[name]
        measurements: dict[str, Callable[[], float]] = {
            "exp": a_run_of_ours(part),
            "exp, joblib": a_run_of_ours(part, "hydra/launcher=joblib"),
            "exp, through MLflow's client": a_run_of_ours(part, env=CLIENT),
            "exp, joblib, through MLflow's client": a_run_of_ours(part, "hydra/launcher=joblib", env=CLIENT),
            "exp, one by one": a_run_of_ours(part, "sweep.fuse=off"),
            "the usual script": a_run_of(USUAL, part, few=1, many=3, hydra=True),
        }
        if has["lightning"]:
            measurements["Lightning"] = a_run_of(LIGHTNING, part, few=1, many=3, hydra=False)
        taken: dict[str, list[float]] = {peer: [] for peer in measurements}
        steps: list[float] = []
        for _ in range(REPEATS):
            for peer, measure in measurements.items():
                taken[peer].append(measure())
            if has["jax"]:
                steps.append(jax_step(part))
        runs = part.values * part.seeds[1]
        print(f"\n{name}: {runs} runs, {STEPS} steps; seconds for one more run, median of {REPEATS} (least to greatest)")
        first = statistics.median(taken["exp"])
        for peer, values in taken.items():
            told = f"{statistics.median(values):8.4f}  ({min(values):.4f} to {max(values):.4f})  {peer}"
            print(f"{told}: {statistics.median(values) / first:.1f} times exp")
        for how, label in (((), "exp"), (("sweep.fuse=off",), "exp, one by one")):
            print(f"{BARE[(part, how)][0] * 1e6:8.0f} µs a step in the training proper: {label}")
        if steps:
            how = f"vmap over all runs of a width, scan over {STEPS} steps"
            print(f"{statistics.median(steps) * 1e6:8.0f} µs a step of JAX, {how}")
        for peer in (peer for peer, there in has.items() if not there):
            print(f"not measured: {peer} is not installed")


if __name__ == "__main__":
    main()
