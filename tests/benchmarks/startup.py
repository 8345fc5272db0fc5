"""How long a single run takes to start and to end: `python -m benchmarks.startup [repeats]`, in the folder `tests`.

Seconds from the start of the process to the end of the first step (by the run's own record), until the prompt is back, and
until MLflow's database has the finished run with every point; in a folder that has been used before, and in a new one.
Everything is interleaved, and beside it stands what others ask before they do anything: importing torch, importing mlflow.
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from campaigns.machine import machine
from commands import COMMAND, clean

from exp.run_folder import run_folders

STEPS = 500
METHODS = ("numpy", "autograd")
PEERS = {"python -c 'import torch'": "import torch", "python -c 'import mlflow'": "import mlflow"}
WHAT = ("the first step is done", "the prompt is back", "all of it is in MLflow")


def taken(method: str, folder: Path) -> list[float]:
    """Seconds to each of `WHAT`."""
    known = len(run_folders(folder / "runs"))
    with (folder / "output").open("w") as output:
        began, started = time.time(), time.perf_counter()
        process = subprocess.Popen([*COMMAND, f"method={method}"], cwd=folder, env=clean(), stdout=output, stderr=output)
        prompt = stored = 0.0
        while not (prompt and stored):
            now = time.perf_counter() - started
            if not prompt and process.poll() is not None:
                prompt = now
            if not stored and whole(folder / "mlflow.db") > known:
                stored = now
            time.sleep(0.01)
    assert process.returncode == 0, (folder / "output").read_text()
    run = run_folders(folder / "runs")[-1]
    return [float(run.curve()["train/time"][0]) - began, prompt, stored]


def whole(database: Path) -> int:
    """How many finished runs have all of their points."""
    if not database.exists():
        return 0
    per_run = "SELECT count(*) FROM metrics JOIN runs USING (run_uuid) WHERE key = 'train/loss' AND status = 'FINISHED'"
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0)) as connection:
            return connection.execute(f"{per_run} GROUP BY run_uuid").fetchall().count((STEPS,))
    except sqlite3.OperationalError:  # it is being written at this moment
        return 0


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=clean(), check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as used:
        for method in METHODS:
            taken(method, Path(used))
        for _ in range(repeats):
            for method in METHODS:
                for where in ("a used folder", "a new folder"):
                    with tempfile.TemporaryDirectory() as new:
                        times = taken(method, Path(used if where == "a used folder" else new))
                    for what, value in zip(WHAT, times, strict=True):
                        rows.setdefault(f"method={method}, {where}: {what}", []).append(value)
            for name, statement in PEERS.items():
                rows.setdefault(name, []).append(seconds(statement))
    print(machine("1 thread"))
    print(f"load of the machine in the last minutes: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    torch = rows[next(iter(PEERS))]
    print(f"\nseconds, median of {repeats} (least to greatest); and as a multiple of importing torch in the same round\n")
    for name, values in rows.items():
        ratio = statistics.median(value / peer for value, peer in zip(values, torch, strict=True))
        print(f"{statistics.median(values):6.2f}  ({min(values):.2f} to {max(values):.2f})  {ratio:5.2f}  {name}")


if __name__ == "__main__":
    main()
