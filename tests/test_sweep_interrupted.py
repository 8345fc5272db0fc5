"""A sweep that is told to stop, or shot, or done by two at once: repeated, it goes on, and every run is done exactly once."""

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from campaigns.chaos import play, undisturbed
from commands import exp as command
from commands import start, tracked, until
from sweeping import (
    SIZE,
    TINY,
    Done,
    Here,
    all_gone,
    attempts,
    commanded,
    counted,
    ended,
    finished,
    here,
    the_sweep,
    with_faulty,
)

from exp.claims import Claims
from exp.interruption import Terminated
from exp.program import Program
from exp.run_folder import SWEEPS, RunFolder, run_folders

__all__ = ["here"]

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LAUNCHERS = {"basic": (), "joblib": JOBLIB, "ray": ("hydra/launcher=ray",), "submitit": ("hydra/launcher=submitit_local",)}


def waiting(folder: Path, runs: int) -> tuple[str, ...]:
    """What is typed for so many runs that wait in their third step until there is a file called go."""
    places = ",".join(map(str, range(runs)))
    return (*with_faulty(folder), "tracker=none", "method.fault=waits", f"method.place={places}")


def at_work(folder: Path, runs: int = 1) -> dict[int, int]:
    """As soon as so many runs wait: the process of each, by its place."""
    found = until(lambda: files if len(files := list(folder.glob("waiting-*"))) >= runs else None)
    return {int(file.name.partition("-")[2]): int(until(file.read_text)) for file in found}


def to_resume(done: Done) -> list[str]:
    """The words of the command that is printed to go on."""
    (line,) = [line for line in done.lines if line.startswith("resume: ")]
    assert line == done.lines[-1]
    words = shlex.split(line.removeprefix("resume: "))
    assert words[:3] == ["python", "-m", "exp"]
    return words[3:]


PLACES = [(RunFolder, "update_status"), (Claims, "take"), (RunFolder, "write_config")]
PLACES += [(Program, "compared_alone"), (RunFolder, "release")]


@pytest.mark.usefixtures("used_folder")
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
def test_wherever_it_is_told_to_stop_no_run_says_that_it_runs(
    owner: type, name: str, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = getattr(owner, name)

    def told(self: object, *arguments: object, **more: object) -> object:
        done = own(self, *arguments, **more)
        if run_folders("runs") and not (isinstance(self, RunFolder) and self.path.parent.name == SWEEPS):
            monkeypatch.setattr(owner, name, own)
            raise Terminated
        return done

    monkeypatch.setattr(owner, name, told)
    assert here("-m", *TINY, "seed=1,2", "sweep.fuse=2").code == 143
    statuses = [folder.status()["status"] for folder in run_folders("runs")]
    assert statuses and set(statuses) <= {"KILLED", "FINISHED"} and ("KILLED" in statuses or name == "release")
    assert not any(folder.alive for folder in run_folders("runs"))
    recorded = tracked(f"sqlite:///{tmp_path}/mlflow.db").values()
    assert sorted(run.info.status for run in recorded if run.data.tags["kind"] == "train") == sorted(statuses)
    assert here("-m", *TINY, "seed=1,2").ok().code == 0
    assert [run.status()["status"] for run in finished(tmp_path).values()] == ["FINISHED"] * 2


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        ("basic", signal.SIGINT, 130),
        ("basic", signal.SIGTERM, 143),
        ("joblib", signal.SIGINT, 130),
        ("submitit", signal.SIGINT, 130),
    ],
)
def test_what_is_told_to_stop_goes_on_when_repeated(launcher: str, number: int, code: int, here: Here, tmp_path: Path) -> None:
    runs = 3
    sweeper = start(*waiting(tmp_path, runs), *LAUNCHERS[launcher], cwd=tmp_path)
    try:
        at_work(tmp_path)
        sweeper.send_signal(number)
    finally:
        done = ended(sweeper)
    assert done.code == code and "Traceback" not in done.out, done.out
    killed = len(attempts(tmp_path))
    assert counted(tmp_path) == {"KILLED": killed} and 1 <= killed <= (1 if launcher == "basic" else 2)
    assert the_sweep(tmp_path).status()["status"] == "KILLED"
    all_gone(tmp_path)
    (tmp_path / "go").touch()
    words = to_resume(done)
    again = here(*words) if launcher == "basic" else commanded(command(*words, cwd=tmp_path, timeout=180))
    again.ok()
    assert again.plan == f"{runs - killed} new, {killed} retry"
    assert counted(tmp_path) == {"FINISHED": runs, "KILLED": killed} and len(finished(tmp_path)) == runs
    assert the_sweep(tmp_path).status()["status"] == "FINISHED"


def test_the_sweeper_is_shot(here: Here, tmp_path: Path) -> None:
    words = waiting(tmp_path, 3)
    sweeper = start(*words, cwd=tmp_path)
    try:
        at_work(tmp_path)
        sweeper.kill()
    finally:
        assert ended(sweeper).code == -signal.SIGKILL
    assert counted(tmp_path) == {"RUNNING": 1} and the_sweep(tmp_path).status()["status"] == "RUNNING"
    (tmp_path / "go").touch()
    done = here(*words).ok()
    assert done.plan == "2 new, 1 retry" and "retry place=0: killed in runs/" in done.out
    assert counted(tmp_path) == {"FINISHED": 3, "KILLED": 1} and the_sweep(tmp_path).status()["status"] == "FINISHED"


def test_the_sweeper_is_shot_and_its_workers_go_on(tmp_path: Path) -> None:
    """What they are at is not done once more: the next invocation waits for it."""
    words = (*waiting(tmp_path, 4), *JOBLIB)
    sweeper = start(*words, cwd=tmp_path)
    at_work(tmp_path, 2)
    sweeper.kill()
    sweeper.wait()
    second = start(*words, cwd=tmp_path)
    try:
        until(lambda: len(attempts(tmp_path)) == 4)
        (tmp_path / "go").touch()
    finally:
        done = ended(second).ok()
        ended(sweeper)
    assert done.plan == "2 new, 2 running"
    assert counted(tmp_path) == {"FINISHED": 4} and len(finished(tmp_path)) == 4
    assert the_sweep(tmp_path).status()["status"] == "FINISHED"
    all_gone(tmp_path)


def test_a_worker_is_shot(tmp_path: Path) -> None:
    sweeper = start(*waiting(tmp_path, 5), *JOBLIB, cwd=tmp_path)
    try:
        os.kill(at_work(tmp_path, 2)[0], signal.SIGKILL)
        (tmp_path / "go").touch()
    finally:
        done = ended(sweeper).ok()
    assert any(
        re.match(r"the process of place=0( and 1 more)? died; (it|each) is tried once more, alone", line) for line in done.lines
    )
    counts = counted(tmp_path)
    assert counts["FINISHED"] == 5 and counts["KILLED"] in (1, 2) and len(counts) == 2 and len(finished(tmp_path)) == 5
    assert the_sweep(tmp_path).read_json("summary.json")["finished"] == 5


@pytest.mark.parametrize(("places", "sweeps"), [("0,1,2,3,4,5", 1), ("4,5,6,7", 2)])
def test_two_at_once_do_every_run_once(places: str, sweeps: int, tmp_path: Path) -> None:
    words = waiting(tmp_path, 6)
    shells = [start(*words, cwd=tmp_path), start(*words[:-1], f"method.place={places}", cwd=tmp_path)]
    try:
        at_work(tmp_path, 2)
        (tmp_path / "go").touch()
    finally:
        done = [ended(shell) for shell in shells]
    for shell in done:
        shell.ok()
    runs = 6 if sweeps == 1 else 8
    assert counted(tmp_path) == {"FINISHED": runs} and len(finished(tmp_path)) == runs
    assert len({status["invocation"] for status in attempts(tmp_path)}) == 2, "both had a part in it"
    found = run_folders(tmp_path / "runs" / SWEEPS)
    assert [sweep.status()["status"] for sweep in found] == ["FINISHED"] * sweeps
    assert sorted(sweep.read_json("summary.json")["finished"] for sweep in found) == ([6] if sweeps == 1 else [4, 6])


def test_told_to_stop_before_the_first_run_nothing_is_lost(tmp_path: Path) -> None:
    """Ctrl-C while it plans."""
    words = ("-m", "method=numpy", *SIZE, "training.steps=20", "tracker=none", "seed=range(300)")
    sweeper = start(*words, cwd=tmp_path)
    maps = Path(f"/proc/{sweeper.pid}/maps")
    until(lambda: "numpy" in maps.read_text())  # it composes: 300 runs take seconds
    sweeper.send_signal(signal.SIGTERM)
    done = ended(sweeper)
    assert done.code == 143 and "Traceback" not in done.out, done.out
    assert not attempts(tmp_path)


def test_chaos(tmp_path: Path) -> None:
    """One round of the campaign, with fewer runs and shots."""
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    calm.mkdir()
    wild.mkdir()
    found = play(wild, 7, 2, undisturbed(calm, runs=12))
    assert not found.problems, found
    assert found.kills


def test_a_second_shell_that_types_it_otherwise_disturbs_nobody(tmp_path: Path) -> None:
    """It writes the sweep's plan anew, and is shot; the runs of the first wait meanwhile, and are done by it."""
    first = start(*waiting(tmp_path, 4), *JOBLIB, cwd=tmp_path)
    try:
        at_work(tmp_path, 2)
        words = [*with_faulty(tmp_path / "again"), "tracker=none", "method.place=0,1,2,3", "method.fault=waits"]
        second = start(*words, *JOBLIB, cwd=tmp_path)
        plan = the_sweep(tmp_path).path / "plan.json"
        before = plan.stat().st_mtime_ns
        until(lambda: plan.stat().st_mtime_ns != before)
        second.kill()
        second.communicate()
        (tmp_path / "go").touch()
        ended(first).ok()
    finally:
        all_gone(tmp_path)
    assert counted(tmp_path) == {"FINISHED": 4} and len(run_folders(tmp_path / "runs" / SWEEPS)) == 1


def test_what_fails_is_done_once_by_two_shells(tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "method.fault=raises,waits", "method.place=0")
    first = start(*words, cwd=tmp_path)
    at_work(tmp_path)  # the first has failed by then
    before = the_sweep(tmp_path).status()["touched"]
    second = start(*words, cwd=tmp_path)
    until(lambda: the_sweep(tmp_path).status()["touched"] > before)
    (tmp_path / "go").touch()
    assert [ended(first).code, ended(second).code] == [3, 3]
    assert counted(tmp_path) == {"FINISHED": 1, "FAILED": 1}


def test_what_takes_its_process_with_it_goes_last(tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "tracker=none", "method.fault=vanishes,none")
    command(*words, cwd=tmp_path)
    assert counted(tmp_path) == {"RUNNING": 1}
    command(*words, cwd=tmp_path)
    assert counted(tmp_path) == {"KILLED": 1, "FINISHED": 1, "RUNNING": 1}


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_run_that_sleeps_is_ended_too(launcher: str, tmp_path: Path) -> None:
    """The signal wakes it: a flag alone would wait for its sleep to end."""
    words = waiting(tmp_path, 3)
    file = tmp_path / "my" / "faulty.py"
    file.write_text(file.read_text().replace("time.sleep(0.02)", "time.sleep(1000)"))
    sweeper = start(*words, *LAUNCHERS[launcher], cwd=tmp_path)
    at_work(tmp_path)
    sweeper.send_signal(signal.SIGINT)
    assert ended(sweeper, timeout=60).code == 130
    assert set(counted(tmp_path)) == {"KILLED"}
