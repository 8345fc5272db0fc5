"""What a sweep costs beside the training: `python -m benchmarks.sweeps [repeats]`, in the folder `tests`.

Every figure is the median of interleaved repeats, with the least and the greatest; a peer does the same work in the same run:
Hydra's own sweeper with the same configuration and an empty function, and the usual script, Hydra with `mlflow.log_metric` in
every step. Costs per run are differences of a long and a short sweep, so start-up is not in them.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from campaigns.machine import machine
from commands import COMMAND, clean, free_port, until

from benchmarks.peers import STEPS, USUAL, filled
from exp.registry import conf_folder

TINY = ("method=numpy", "network.hidden=[4]", "problem.inputs=5", "problem.samples=8", "training.steps=1")

STOCK = f"""
import hydra

@hydra.main(config_path={str(conf_folder())!r}, config_name="config", version_base="1.3")
def main(config):
    pass

main()
"""
TUTORIAL = filled(USUAL, 1000, [100], None, together=1)


def seconds(command: list[str], folder: Path, env: dict[str, str] | None = None) -> float:
    """How long a command takes as a whole process."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=clean(env), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def ours(*words: str) -> list[str]:
    return [*COMMAND, "-m", *words]


def script(folder: Path, text: str, *words: str) -> list[str]:
    (folder / "script.py").write_text(text)
    return [sys.executable, "script.py", "-m", *words]


def seeds(count: int, key: str = "seed") -> str:
    return f"{key}=range(0,{count})"


def per_run(build: Callable[[Path, int], list[str]], few: int, many: int) -> Callable[[], float]:
    """Seconds for one more run: of a sweep of `many` runs less one of `few`, each in a fresh folder."""

    def measured() -> float:
        took = []
        for count in (few, many):
            with tempfile.TemporaryDirectory() as folder:
                took.append(seconds(build(Path(folder), count), Path(folder)))
        return (took[1] - took[0]) / (many - few)

    return measured


def planning() -> float:
    """Seconds to plan 1,000 runs: learning rates times seeds, everything composed, checked and shown; start-up included."""
    rates = ",".join(f"{1 + rate}e-8" for rate in range(20))
    with tempfile.TemporaryDirectory() as folder:
        words = (f"optimizer.lr={rates}", seeds(50), "method=numpy", "tracker=none", "sweep.plan=true")
        return seconds(ours(*words), Path(folder))


def visible() -> tuple[float, float]:
    """Seconds from typing a sweep of 9 tutorial runs until it ends, and until the server has every point of every curve."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        store = f"sqlite:///{folder}/mlflow.db"
        seconds([*COMMAND, "method=numpy", "training.steps=1"], folder)  # makes the database
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store],
            env=clean({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: answers(port, "health") is not None)
            started = time.perf_counter()
            words = ("method=numpy,tensor,autograd", "optimizer.lr=1e-7,3e-7,1e-6")
            sweep = subprocess.Popen(ours(*words), cwd=folder, env=clean(), stdout=subprocess.DEVNULL)
            ended = None
            while curves(port) < 9:
                ended = ended or (time.perf_counter() - started if sweep.poll() is not None else None)
                time.sleep(0.05)
            shown = time.perf_counter() - started
            sweep.wait()
            return ended or time.perf_counter() - started, shown
        finally:
            server.terminate()
            server.wait()


def curves(port: int) -> int:
    """How many runs of the sweep the server shows with all their steps."""
    query = json.dumps({"experiment_ids": ["1"], "filter": "tags.sweep LIKE '%'", "max_results": 100})
    found = answers(port, "api/2.0/mlflow/runs/search", query) or {}
    whole = 0
    for run in found.get("runs", []):
        history = answers(port, f"api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key=train/loss")
        whole += len((history or {}).get("metrics", [])) == STEPS
    return whole


def answers(port: int, path: str, query: str | None = None) -> dict | None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{path}", query.encode() if query else None, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
            return json.loads(text) if text.startswith("{") else {}
    except OSError:
        return None


MEASUREMENTS: dict[str, Callable[[], float]] = {
    "a run more, one tiny step, untracked: exp": per_run(lambda _, n: ours(*TINY, "tracker=none", seeds(n)), 1, 101),
    "a run more, empty function, same configuration: Hydra's own sweeper": per_run(
        lambda folder, n: script(folder, STOCK, "hydra/sweeper=basic", "method=numpy", seeds(n)), 1, 101
    ),
    "a run more, the tutorial by autograd, tracked: exp": per_run(lambda _, n: ours("method=autograd", seeds(n)), 1, 11),
    "a run more, the tutorial by autograd: the usual script": per_run(
        lambda folder, n: script(folder, TUTORIAL, seeds(n, "+seed"), f"+store={folder}/mlflow.db"), 1, 6
    ),
    "planning 1,000 runs": planning,
}


def main() -> None:
    """Measure and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    taken: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
    ended: list[float] = []
    shown: list[float] = []
    for _ in range(repeats):
        for name, measure in MEASUREMENTS.items():
            taken[name].append(measure())
        for times, value in zip((ended, shown), visible(), strict=True):
            times.append(value)
    taken |= {
        "9 tutorial runs, until the prompt is back": ended,
        "the same, until the last curve is whole in the server": shown,
    }
    print(machine("1 thread"))
    print(f"\nseconds: median of {repeats} (least to greatest)\n")
    for name, values in taken.items():
        print(f"{statistics.median(values):8.3f}  ({min(values):.3f} to {max(values):.3f})  {name}")
    medians = [statistics.median(values) for values in taken.values()]
    print(f"\nexp to Hydra's own sweeper, a run more: {medians[0] / medians[1]:.2f}")
    print(f"exp to the usual script, a tracked tutorial run more: {medians[2] / medians[3]:.2f}")


if __name__ == "__main__":
    main()
