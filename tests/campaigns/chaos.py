"""The campaign of chaos: a tracked sweep of forty runs, whose processes are shot, is resumed until it is done, many times over.

    cd tests && python -m campaigns.chaos [rounds] [first seed]

In each of the first invocations of a round SIGKILL ends workers, the sweeper and the upload process: at a random moment, or
exactly when a process is about to make its n-th change in the runs folder, to write its n-th claim, or to send its n-th
statement to the database. Then the same command is repeated in peace. Exit code 1 if a run is missing, was done twice, has
another curve than undisturbed, is still RUNNING, or if MLflow lacks a point. The printed results are kept in
docs/campaigns/chaos.txt.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from campaigns.campaign import timed
from campaigns.machine import machine
from commands import COMMAND, clean, points, tracked
from sweeping import SIZE, all_gone, attempts, children, curves

from exp.run_folder import SWEEPS, run_folders

RUNS, STEPS = 40, 40
WORDS = ("-m", "method=numpy", *SIZE, f"training.steps={STEPS}")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LAST = 25
"""A sweep that needs more invocations than this goes round in circles."""

SHOOTING = '''
import os
import signal
import sys

KILLS, seen = os.environ["KILLS"], {}
words = " ".join(sys.orig_argv)
ROLES = {"exp.tracking.upload": "upload", "popen_loky": "worker", "-m exp ": "sweep"}
ROLE = next((role for part, role in ROLES.items() if part in words), None)


def count(kind):
    """The n-th event of a kind ends the process, if there is a file for it: once, for the file is gone then."""
    seen[kind] = seen.get(kind, 0) + 1
    try:
        os.unlink(f"{KILLS}/{ROLE}.{kind}.{seen[kind]}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def statement(text):
    if text.split(" ", 1)[0] in ("INSERT", "UPDATE", "DELETE", "COMMIT"):
        count("sql")


def connect(*arguments, **options):
    connection = connect_untraced(*arguments, **options)
    connection.set_trace_callback(statement)
    return connection


def hook(event, arguments):
    if event in ("os.rename", "os.mkdir") or (event == "open" and arguments[1] and arguments[1][0] in "wa"):
        path = str(arguments[1] if event == "os.rename" else arguments[0])
        if "/runs/" in f"/{path}" or "mlartifacts" in path:
            count("claim" if event == "os.rename" and "/.claims/" in path else "change")


if ROLE == "upload":
    import sqlite3

    connect_untraced = sqlite3.connect
    sqlite3.connect = sqlite3.dbapi2.connect = connect
if ROLE:
    sys.addaudithook(hook)
'''
"""A sitecustomize: every Python that the command starts, and it itself, can be shot at an exact place."""

PLACES = {
    "sweep.change": 30,
    "worker.change": 200,
    "worker.claim": 10,
    "upload.change": 30,
    "upload.sql": 300,
}
"""Where processes are shot, and the largest n from which one is drawn."""


@dataclass
class Round:
    """What became of one round."""

    seed: int
    invocations: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def undisturbed(folder: Path, runs: int = RUNS) -> dict[str, bytes]:
    """The curves of so many runs, done one after the other in peace."""
    command = [*COMMAND, *WORDS, f"seed=range({runs})", "tracker=none"]
    subprocess.run(command, cwd=folder, env=clean(), check=True, stdout=subprocess.DEVNULL, timeout=300)
    return curves(folder)


def play(folder: Path, seed: int, rough: int, expected: dict[str, bytes]) -> Round:
    """One round in an empty folder: `rough` invocations in which processes are shot, then others until it is done.

    `expected` are the curves of the undisturbed runs, from which their number is taken.
    """
    chance, found, started = random.Random(seed), Round(seed), time.monotonic()
    kills, env = folder / "kills", armed(folder)
    code = None
    while code != 0 and found.invocations < LAST:
        in_peace = found.invocations >= rough
        found.invocations += 1
        planned = set() if in_peace else planted(kills, chance)
        with (folder / f"said-{found.invocations}.txt").open("w") as said:
            words = [*COMMAND, *WORDS, f"seed=range({len(expected)})", *JOBLIB]
            process = subprocess.Popen(words, cwd=folder, env=env, stdout=said, stderr=said, start_new_session=True)
        if not in_peace:
            found.kills.update(shot(process, folder, chance))
        code = process.wait(timeout=300)
        found.kills.update(name.rpartition(".")[0] for name in planned if not (kills / name).exists())
        for left in kills.iterdir():
            left.unlink(missing_ok=True)
        told = (folder / f"said-{found.invocations}.txt").read_text()
        if code not in (0, 3, -signal.SIGKILL) or "Traceback" in told:
            found.problems.append(f"invocation {found.invocations} ended with {code}: {told[-300:]}")
        if in_peace and code == 3:
            found.problems.append(f"invocation {found.invocations}, in peace, had failures")
    all_gone(folder)
    found.statuses.update(status["status"] for status in attempts(folder))
    try:
        found.problems += problems(folder, expected)
    except Exception as error:  # a store that cannot be opened any more
        found.problems.append(f"cannot be looked at: {' '.join(str(error).split())[:300]}")
    found.seconds = time.monotonic() - started
    return found


def armed(folder: Path) -> dict[str, str]:
    """The environment in which processes are shot as the files in `folder`/kills say."""
    kills, spies = folder / "kills", folder / "spies"
    for made in (kills, spies):
        made.mkdir()
    (spies / "sitecustomize.py").write_text(SHOOTING)
    path = os.pathsep.join([str(spies), *filter(None, [os.environ.get("PYTHONPATH")])])
    return clean({"PYTHONPATH": path, "KILLS": str(kills)})


def planted(kills: Path, chance: random.Random) -> set[str]:
    """Say at which places the next invocation's processes are shot; returns the names of the files that say so."""
    places = chance.sample(sorted(PLACES), chance.randint(1, 3))
    names = {f"{place}.{chance.randint(1, PLACES[place])}" for place in places}
    for name in names:
        (kills / name).touch()
    return names


def shot(process: subprocess.Popen[bytes], folder: Path, chance: random.Random) -> list[str]:
    """Shoot something after a random number of further runs, and a little later; returns what was hit."""
    victim = chance.choice(["sweep", "sweep", "everything", "everything", "worker", "upload"])
    enough, moment = len(run_folders(folder / "runs")) + chance.randint(0, 15), chance.uniform(0, 0.3)
    while process.poll() is None and len(run_folders(folder / "runs")) < enough:
        time.sleep(0.02)
    time.sleep(moment)
    if process.poll() is not None:
        return []
    below = {child: commandline(child) for child in children(process.pid)}
    workers = [child for child, words in below.items() if "loky" in words and "resource_tracker" not in words]
    uploads = [child for child, words in below.items() if "exp.tracking.upload" in words]
    if victim == "everything":
        hit = [process.pid, *below]
    elif victim == "sweep":
        hit = [process.pid]
    else:
        hit = chance.sample(found, 1) if (found := workers if victim == "worker" else uploads) else []
    for pid in hit:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{victim} at random"] if hit else []


def commandline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def problems(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """What is not as it should be once the sweep is done."""
    found = []
    runs = run_folders(folder / "runs")
    finished = [run for run in runs if run.status()["status"] == "FINISHED"]
    names = Counter(run.status()["name"] for run in finished)
    found += [f"{name} finished {count} times" for name, count in names.items() if count != 1]
    found += [f"{name} never finished" for name in expected if name not in names]
    found += [f"{run.path.name} is RUNNING" for run in runs if run.status()["status"] == "RUNNING"]
    losses = {run.status()["name"]: np.ascontiguousarray(run.curve()["train/loss"]).tobytes() for run in finished}
    found += [f"the curve of {name} is another" for name in expected if name in losses and losses[name] != expected[name]]
    sweeps = run_folders(folder / "runs" / SWEEPS)
    if [sweep.status()["status"] for sweep in sweeps] != ["FINISHED"]:
        found.append(f"the sweeps are {[sweep.status()['status'] for sweep in sweeps]}")
    uri = f"sqlite:///{folder}/mlflow.db"
    store, kept = tracked(uri), {run.path.name: run for run in runs}
    if store.keys() != kept.keys():
        found.append(
            f"MLflow lacks {sorted(kept.keys() - store.keys())}, and has {sorted(store.keys() - kept.keys())} too much"
        )
    for name in store.keys() & kept.keys():
        status, curve = kept[name].status(), kept[name].curve().get("train/loss", np.empty(0))
        if store[name].info.status != status["status"]:
            found.append(f"{name} is {status['status']}, in MLflow {store[name].info.status}")
        if points(uri, store[name], "train/loss") != list(enumerate(curve)):
            found.append(f"{name} has not the points in MLflow that it has in its folder")
    in_view = sum("sweep" in run.data.tags for run in store.values())
    if in_view != len(expected):
        found.append(f"the sweep's view has {in_view} runs")
    told = [(run.info.status, run.data.metrics.get("sweep/finished")) for run in tracked(uri, sweeps=True).values()]
    if told != [("FINISHED", len(expected))]:
        found.append(f"MLflow says of the sweep: {told}")
    return found


def campaign(rounds: int, first: int, rough: int = 5) -> Callable[[], bool]:
    def run() -> bool:
        print(machine("1 thread"))
        print(f"{RUNS} runs by joblib on 2 workers, tracked in SQLite; {rough} invocations with shots, then in peace\n")
        heads = {"seed": 6, "invocations": 11, "shots": 5, "attempts": 8, "finished": 8, "killed": 6, "failed": 6, "s": 4}
        print(" ".join(f"{head:>{width}}" for head, width in heads.items()), " problems")
        total, kills, good, invocations = Counter[str](), Counter[str](), 0, 0
        with tempfile.TemporaryDirectory() as reference:
            expected = undisturbed(Path(reference))
        for seed in range(first, first + rounds):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                each = play(Path(folder), seed, rough, expected)
            counts = [each.statuses[status] for status in ("FINISHED", "KILLED", "FAILED")]
            numbers = f"{sum(each.statuses.values()):8} {counts[0]:8} {counts[1]:6} {counts[2]:6} {each.seconds:4.0f}"
            print(f"{seed:6} {each.invocations:11} {sum(each.kills.values()):5} {numbers}  {each.problems or '–'}", flush=True)
            total, kills = total + each.statuses, kills + each.kills
            good, invocations = good + (not each.problems), invocations + each.invocations
        print(f"\nwithout a problem: {good} of {rounds} rounds; {invocations} invocations, {sum(kills.values())} shots:")
        print("\n".join(f"  {count:4} {place}" for place, count in sorted(kills.items())))
        print(", ".join(f"{count} {status.lower()}" for status, count in sorted(total.items())))
        return good == rounds

    return run


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(timed(campaign(*(given + [10, 0][len(given) :]))))
