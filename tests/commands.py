"""`python -m exp …` in a folder, with an environment in which only what a test sets can matter; and what MLflow then says."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

COMMAND = [sys.executable, "-m", "exp"]
T = TypeVar("T")
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # no test talks to anything but this machine


def clean(env: dict[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without its MLflow settings, with one thread; plus `env`. Modules are compiled once for all."""
    unwanted = ("PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_") and key not in unwanted}
    return kept | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"} | (env or {})


def exp(*words: str, cwd: Path, env: dict | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `python -m exp *words` in `cwd` to its end."""
    return subprocess.run([*COMMAND, *words], cwd=cwd, env=clean(env), capture_output=True, text=True, timeout=timeout)


def start(*words: str, cwd: Path, env: dict | None = None) -> subprocess.Popen[str]:
    """Start `python -m exp *words` in `cwd`; all it says can be read from its `stdout`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in the background of a shell: children would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [*COMMAND, *words], cwd=cwd, env=clean(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def done_here(*words: str) -> int:
    """The exit code of `python -m exp *words` done in this process and folder: fast, and what is raised is raised."""
    from exp.composition import compose
    from exp.config_errors import as_typed
    from exp.configuration import instantiate

    experiment, task = instantiate(*compose(list(words)))
    with as_typed(list(words)):
        return task(experiment)


def until(condition: Callable[[], T | None], seconds: float = 90) -> T:
    """What `condition` returns, as soon as it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@cache
def client(uri: str) -> Any:
    """MLflow's own client. It is imported late and without its warnings: they are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def tracked(uri: str, *, sweeps: bool = False) -> dict[str, Any]:
    """All runs in the store, by the name of their run folder; or all `sweeps`. Fails where a folder was recorded twice."""
    experiments = [experiment.experiment_id for experiment in client(uri).search_experiments()]
    runs = client(uri).search_runs(experiments, max_results=1000)
    by_folder = {run.data.tags["exp.run"]: run for run in runs}
    assert len(by_folder) == len(runs), "a run folder is in the store more than once"
    return {name: run for name, run in by_folder.items() if (run.data.tags.get("kind") == "sweep") is sweeps}


def points(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    """Every (step, value) that the store has of a metric, in the order of the steps."""
    return sorted((point.step, point.value) for point in client(uri).get_metric_history(run.info.run_id, metric))
