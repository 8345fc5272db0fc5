"""Tiny sweeps for tests: what is typed, a method that can be told to fail, and what is found of a sweep afterwards."""

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exp.__main__ import main
from exp.run_folder import SWEEPS, RunFolder, run_folders
from exp.tracking.uploader import close_shared_uploader

SIZE = ("problem.samples=8", "problem.inputs=6", "problem.outputs=3", "network.hidden=[4]", "optimizer.lr=1e-3")
TINY = ("method=numpy", *SIZE, "training.steps=20")
QUIET = (*TINY, "tracker=none")

FAULTY = '''
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from exp.methods.manual import NumPy


class Unpicklable(Exception):
    def __init__(self, *, told):
        super().__init__(told)
        self.kept = lambda: None


@dataclass(kw_only=True)
class Faulty(NumPy):
    """NumPy's step, but for `fault`; `place` only tells runs apart. A file called mended ends all faults."""

    leading_axes = True

    fault: str = "none"
    place: int = 0
    taken = 0

    def transition(self, state, x, y):
        self.taken += 1
        if self.taken == 3 and not Path("mended").exists():
            self.break_down()
        return super().transition(state, x, y)

    def break_down(self):
        if self.fault == "raises":
            raise ValueError(f"planted at {self.place}")
        if self.fault == "unpicklable":
            raise Unpicklable(told="planted, and cannot be pickled")
        if self.fault == "leaves":
            sys.exit(0)
        if self.fault == "vanishes":
            os._exit(0)
        if self.fault == "waits":
            Path(f"waiting-{self.place}").write_text(str(os.getpid()))
            while not Path("go").exists():
                time.sleep(0.02)
'''
"""my/faulty.py"""


def with_faulty(folder: Path) -> tuple[str, ...]:
    """Write the method `faulty` into `folder`/my; returns what is typed to have it, behind -m."""
    (folder / "my" / "method").mkdir(parents=True)
    (folder / "my" / "faulty.py").write_text(FAULTY)
    (folder / "my" / "method" / "faulty.yaml").write_text("_target_: faulty.Faulty\nfault: none\nplace: 0\n")
    return ("--config-dir", "my", "-m", "method=faulty", *SIZE, "training.steps=20")


@dataclass(frozen=True)
class Done:
    """What `python -m exp` returned and said."""

    code: object
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def ok(self, code: int = 0) -> "Done":
        """This, if it ended with `code` and complained of nothing."""
        assert (self.code, self.err) == (code, ""), self.out + self.err
        return self

    def refused(self, start: str) -> "Done":
        """This, if it is one line that begins so, and exit code 1."""
        assert self.code == 1 and self.err.startswith(f"error: {start}") and self.err.count("\n") == 1, self.out + self.err
        return self

    @property
    def plan(self) -> str:
        """`2 new, 1 done`"""
        told = re.compile(r"(plan|sweep \S+): (\d+) runs?(?:: (.+)|, \d+ to do)?")
        found = [match for line in self.lines if (match := told.fullmatch(line))]
        return found[0][3] or f"{found[0][2]} new"

    def failures(self) -> list[str]:
        """The lines at the end about runs that failed, without their beginning."""
        return [line.removeprefix("failed ") for line in self.lines if line.startswith("failed ")]


Here = Callable[..., Done]
"""Does `python -m exp …` in this process, in the test's folder."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["exp", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(ended.value.code, out, err)

    yield run
    signal.signal(signal.SIGTERM, before)
    forget(tmp_path)


@pytest.fixture(scope="module")
def one_uploader() -> Iterator[None]:
    """All commands of a module that are done in this process share the upload process: MLflow takes seconds to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exp.__main__.close_shared_uploader", lambda **how: None)
        yield
    close_shared_uploader()


def forget(folder: Path) -> None:
    """Let what was imported from `folder` be imported anew, as by a process of its own."""
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
            del sys.modules[name]


def ended(process: Any, timeout: float = 120) -> Done:
    """What a process from `commands.start` ended with; all it says is in `out`."""
    try:
        out = process.communicate(timeout=timeout)[0]
    finally:
        process.kill()
        process.communicate()
    return Done(process.returncode, out, "")


def commanded(done: Any) -> Done:
    """What `commands.exp` returned, as `here` would have."""
    return Done(done.returncode, done.stdout, done.stderr)


def attempts(folder: Path) -> list[dict[str, Any]]:
    """The status of every run in `folder`/runs, oldest first."""
    return [found.status() for found in run_folders(folder / "runs")]


def counted(folder: Path) -> dict[str, int]:
    """How many runs there are in each status."""
    return dict(Counter(status["status"] for status in attempts(folder)))


def finished(folder: Path) -> dict[str, RunFolder]:
    """The folder of every finished run, by its name; fails where a run finished twice."""
    found = [run for run in run_folders(folder / "runs") if run.status()["status"] == "FINISHED"]
    assert len({run.status()["key"] for run in found}) == len(found), "a run finished twice"
    return {run.status()["name"]: run for run in found}


def curves(folder: Path) -> dict[str, bytes]:
    """The bytes of `train/loss` of every finished run, by its name."""
    return {name: np.ascontiguousarray(run.curve()["train/loss"]).tobytes() for name, run in finished(folder).items()}


def the_sweep(folder: Path) -> RunFolder:
    """The only sweep in `folder`/runs."""
    (sweep,) = run_folders(folder / "runs" / SWEEPS)
    return sweep


def children(pid: int) -> list[int]:
    """The processes that process `pid` started, and those that they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [grandchild for child in found for grandchild in children(child)]


def working_in(folder: Path) -> dict[int, str]:
    """The other processes (not zombies) whose working directory is `folder`, each with its command line.

    Ray's agents aside: they end by themselves, but a minute after the rest.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and not re.match(r"ray::\w+Agent", words) and (process / "cwd").readlink() == folder.resolve():
                found[int(process.name)] = words
    found.pop(os.getpid(), None)
    return found


def all_gone(folder: Path, seconds: float = 60) -> None:
    """Wait until no process works in `folder` any more.

    A worker of joblib that had no run yet when its sweeper was shot would wait for five minutes: it is ended.
    """
    deadline = time.monotonic() + seconds
    while left := working_in(folder):
        assert time.monotonic() < deadline, left
        idle = [pid for pid, command in left.items() if "popen_loky_posix" in command]
        if time.monotonic() > deadline - seconds / 2 and idle:
            for pid in idle:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
