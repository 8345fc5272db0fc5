"""Sweeps written by code: as many run folders as a test wants, in an instant."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exp.run_folder import RunFolder
from exp.sweep_folder import new_sweep

ENVIRONMENT = {
    "versions": {"python": "3.11.9", "numpy": "2.4.0", "torch": "2.13.0"},
    "platform": "Linux",
    "cpu": "one",
    "cores": 2,
    "gpu": None,
    "blas": [{"user_api": "blas", "internal_api": "openblas", "version": "0.3", "architecture": "Haswell"}],
    "git": None,
    "git_of_exp": None,
    "sources": {"exp/methods/manual.py": "aa", "exp/training.py": "bb"},
    "conditions": {"threads": [{"internal_api": "openblas", "version": "0.3", "num_threads": 1}]},
}


def falling(steps: int, rate: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A loss curve: 100 exp(−rate · step), with relative noise."""
    return 100 * np.exp(-rate * np.arange(steps) + noise * np.random.default_rng(seed).normal(size=steps))


def written_run(
    runs: Path,
    name: str,
    losses: np.ndarray,
    *,
    environment: Mapping[str, Any] = ENVIRONMENT,
    step_seconds: float = 1e-3,
    **status: Any,
) -> RunFolder:
    """A finished training run with this curve; `status` overrides what its status says."""
    folder = RunFolder.create(runs, name)
    choices = {"method": "numpy", "device": "cpu", "precision": "fp32", "problem": "random", "network": "two_layer"}
    choices |= {"loss": "squared_error", "optimizer": "sgd", "training": "steps", "tracker": "none"}
    said: dict[str, Any] = {
        "name": name,
        "status": "FINISHED",
        "task": "train",
        "started": time.time(),
        "ended": time.time() + 1,
    }
    said |= {"digests": {"data": "d", "weights": "w"}, "factors": {}, "choices": choices | status.pop("choices", {})}
    numbers = {"time/step_seconds": step_seconds, "time/first_step_seconds": step_seconds}
    numbers |= {"time/train_seconds": step_seconds * len(losses)}
    said["metrics"] = numbers | ({"final/loss": float(losses[-1])} if len(losses) else {})
    said |= status
    config = status.get("config") or {
        "method": {"_target_": f"exp.methods.{said['choices']['method']}"},
        "precision": {"_target_": said["choices"]["precision"]},
        "optimizer": {"_target_": "exp.optimizers.SGD", "lr": said["factors"].get("optimizer.lr", 1e-6)},
        "training": {"steps": len(losses)},
        "threads": 1,
        "seed": said["factors"].get("seed", 0),
    }
    said.pop("config", None)
    folder.write_config(config)
    folder.write_json("environment.json", environment)
    folder.write_curve({"train/loss": losses, "train/time": 1e9 + step_seconds * np.arange(1, len(losses) + 1)})
    folder.update_status(**said)
    folder.release()
    return folder


def written_sweep(runs: Path, planned: Sequence[Mapping[str, Any]], **status: Any) -> RunFolder:
    """A sweep of runs, each given by the arguments of `written_run`; one without `losses` has not begun."""
    sweep = new_sweep(runs)
    keys = list(dict.fromkeys(key for run in planned for key in run["factors"]))
    entries = [{"key": run["name"], "name": run["name"], "factors": run["factors"], "overrides": []} for run in planned]
    sweep.write_json("plan.json", {"factors": keys, "runs": entries})
    begun = {"task": "sweep", "name": sweep.path.name, "status": "FINISHED", "started": time.time(), "ended": time.time() + 9}
    sweep.update_status(**begun | {"choices": {}} | status)
    sweep.release()
    for run in planned:
        if "losses" in run:
            method = run["factors"].get("method", "numpy")
            chosen = {"choices": {"method": method}, "sweep": sweep.path.name, "key": run["name"]}
            written_run(runs, **{**chosen, **run})
    return sweep


def grid(methods: Sequence[str], rates: Sequence[float], seeds: Sequence[int], *, steps: int) -> list[dict[str, Any]]:
    """Runs of every combination: greater rates fall faster, seeds differ by noise, digests by seed."""
    return [
        {
            "name": f"{method} lr={rate:g} seed={seed}",
            "factors": {"method": method, "optimizer.lr": rate, "seed": seed},
            "losses": falling(steps, rate * 1e4 * (1 + 0.01 * place), 0.02, seed),
            "digests": {"data": f"d{seed}", "weights": f"w{seed}"},
            "step_seconds": 1e-3 * (1 + place) * (1 + 0.01 * seed),
        }
        for place, method in enumerate(methods)
        for rate in rates
        for seed in seeds
    ]
