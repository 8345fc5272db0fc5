"""What it costs to get a run into a local MLflow database: `python -m benchmarks.upload [repeats]`, in the folder `tests`.

The same finished runs of the tutorial (500 points, its parameters, tags and artifacts) are recorded by MLflow's client and
straight into the tables, one by one and many in a transaction. Each repeat takes all of them in turn, each into a database of
its own, in this process: MLflow is imported and the database is there before the clock starts.
"""

import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from campaigns.machine import machine
from commands import exp

from exp.run_folder import RunFolder, run_folders
from exp.tracking.record import Store

RUNS = 64


def copied(run: Path, database: Path, folder: Path) -> tuple[Store, list[RunFolder]]:
    """A store with a fresh database in `folder`, and so many copies of a run that are to be told to it."""
    shutil.copyfile(database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    folders = []
    for number in range(RUNS):
        folders.append(RunFolder(shutil.copytree(run, folder / "runs" / f"{number} {run.name}")))
        folders[-1].update_status(tracking={"uri": uri, "experiment": "exp"})
    return Store(uri), folders


def seconds(run: Path, database: Path, way: str) -> float:
    """Seconds for one run."""
    with tempfile.TemporaryDirectory() as name:
        store, folders = copied(run, database, Path(name))
        if way == CLIENT:
            store._bulk = None
            store.open()
        started = time.perf_counter()
        if way == TOGETHER:
            store.record_together(folders)
        else:
            for folder in folders:
                store.record_together([folder])
        return (time.perf_counter() - started) / RUNS


CLIENT, ALONE, TOGETHER = "MLflow's client", "into the tables, a transaction each", f"into the tables, {RUNS} in a transaction"


def main() -> None:
    """Measure and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    warnings.simplefilter("ignore")
    taken: dict[str, list[float]] = {way: [] for way in (CLIENT, ALONE, TOGETHER)}
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        done = exp("method=numpy", cwd=here)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder,) = run_folders(here / "runs")
        (folder.path / "tracking.json").unlink()
        empty = here / "empty.db"
        store = Store(f"sqlite:///{empty}")
        store._bulk = None
        store.open()
        for _ in range(repeats):
            for way, values in taken.items():
                values.append(seconds(folder.path, empty, way))
    print(machine("1 thread"))
    print(f"\nmilliseconds a run of 500 points: median of {repeats} (least to greatest), {RUNS} runs each\n")
    for way, values in taken.items():
        low, middle, high = (1000 * value for value in (min(values), statistics.median(values), max(values)))
        print(f"{middle:8.2f}  ({low:.2f} to {high:.2f})  {way}")
    for way in (ALONE, TOGETHER):
        ratios = [client / bulk for client, bulk in zip(taken[CLIENT], taken[way], strict=True)]
        print(f"the client to {way}: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
