"""What users type to have runs compared: what is printed and written, what is refused, exit codes, while a sweep runs."""

import json
import re
from pathlib import Path
from threading import Timer

import pytest
from commands import done_here, start, until
from commands import exp as command
from sweeping import Here, ended, here, with_faulty
from written_sweeps import ENVIRONMENT, falling, grid, written_run, written_sweep

from exp.comparison.charts import bars
from exp.comparison.report import compared
from exp.comparison.selection import selected
from exp.composition import names_quoted
from exp.errors import InputError
from exp.sweep_folder import sweeps

__all__ = ["here"]

SMALL = ["tracker=none", "training.steps=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a real sweep of two methods and two seeds has run, and one of the methods was verified."""
    folder = tmp_path_factory.mktemp("sweep")
    done = command("-m", "method=numpy,autograd", "seed=0,1", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert command("task=verify", "method=numpy", *SMALL, cwd=folder).returncode == 0
    return folder


def test_the_latest_sweep_is_compared(folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = here("task=compare")
    assert (done.code, done.err) == (0, "")
    lines = done.lines
    sweep = sweeps(folder / "runs")[-1].path
    assert lines[0] == f"sweep {sweep.name}: 4 runs"
    assert lines[1] == "declared: method, seed"
    kinds = "data, weights, batches, precision, threads, versions, code, hardware, configuration"
    assert lines[2:4] == [f"no undeclared difference in {kinds}", "relative to numpy:"]
    header, numpy, autograd = (line.split() for line in lines[4:7])
    assert header == ["setting", "n", "final", "loss", "seconds", "memory", "steps/s", "speed", "verdict"]
    assert (numpy[:2], autograd[:2]) == (["numpy", "2"], ["autograd", "2"])
    assert numpy[-1] == "equivalent" and "(unverified)" not in numpy
    assert autograd[-2:] == ["(unverified)", "–"] and "±" in autograd and "(1×)" in autograd
    assert lines[7].startswith(
        "warning: n = 2 cannot tell numpy and autograd apart: 95 % interval of the ratio of final losses"
    )
    assert lines[8].startswith("unverified: autograd has not the verdict equivalent") and "training.verify=true" in lines[8]
    assert lines[9] == f"see runs/sweeps/{sweep.name}/compare.html; beside it compare.csv and compare.json"
    assert {"compare.html", "compare.csv", "compare.json"} < {path.name for path in sweep.iterdir()}
    stored = json.loads((sweep / "compare.json").read_text())
    assert [row["verdict"] for row in stored["table"]] == ["equivalent", None]
    assert all(row["memory/host_bytes"] > 0 for row in stored["table"])


def test_a_condition_that_is_not_met_is_exit_code_5_and_says_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert done_here("task=compare", "compare.require=final/loss < 1e9 and failures == 0") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "met: final/loss < 1e9 and failures == 0"
    assert done_here("task=compare", "compare.require=verdict == equivalent") == 5
    assert capsys.readouterr().out.splitlines()[-1] == "unmet: verdict == equivalent: does not hold for autograd"


def test_two_runs_have_their_full_difference(folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder)
    words = ["compare.runs=[numpy seed=0,autograd seed=0]", f"compare.out={tmp_path}/page"]
    done = here("task=compare", *words)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.lines]
    assert ["configuration", "method._target_", "exp.methods.manual.NumPy", "exp.methods.autograd.Autograd"] in lines
    assert any(line[:2] == ["environment", "versions.torch"] for line in lines)
    assert any(line[:2] == ["metrics", "final/loss"] for line in lines) or "equal bit for bit" in done.out
    assert "declared: method" in done.out and "\nrelative to numpy:\n" in done.out
    assert (tmp_path / "page" / "compare.html").exists()


def test_another_seed_among_named_runs_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a sweep over seeds it is declared; of runs of their own it is not."""
    monkeypatch.chdir(tmp_path)
    for seed in "01":
        written_run(Path("runs"), f"seed{seed}", falling(9, 0.1), digests={"data": f"d{seed}", "weights": f"w{seed}"})
    words = ["task=compare", "compare.runs=[seed0,seed1]"]
    refused = (
        "^compare.allow=.*: refused, for the runs differ in more than the declared factors: .*weights: w0 in seed0; w1 in seed1"
    )
    with pytest.raises(InputError, match=rf"{refused}; to compare them all the same: compare.allow=\[data,weights\]$"):
        done_here(*words)
    printed = capsys.readouterr().out
    assert "differs, not declared: data: d0 in seed0; d1 in seed1\n" in printed and "\ndata " in printed
    with pytest.raises(InputError, match=refused.replace(".*weights", "weights")):
        done_here(*words, "compare.allow=data")
    assert not Path("comparison").exists()
    capsys.readouterr()
    assert done_here(*words, "compare.allow=[data,weights]") == 0
    assert "differs, allowed: data: " in capsys.readouterr().out
    assert Path("comparison/compare.html").exists()


def test_a_run_of_other_code_in_a_sweep_is_refused(here: Here, tmp_path: Path) -> None:
    planned = grid(("numpy", "autograd"), (1e-6,), (0,), steps=9)
    planned[1]["environment"] = ENVIRONMENT | {"sources": {"exp/training.py": "other"}}
    written_sweep(tmp_path / "runs", planned)
    done = here("task=compare")
    said = "code (exp/training.py): bb in numpy lr=1e-06 seed=0; other in autograd lr=1e-06 seed=0"
    assert done.code == 1 and said in done.err and said in done.out and "compare.allow=[code]" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare.sweep=nope"], "compare.sweep=nope: no such sweep in runs/; choose latest, 2"),
        (
            ["compare.runs=[numpy seed=0,numpi seed=1]"],
            "compare.runs=[numpy seed=0,numpi seed=1]: numpi seed=1: no such run in runs/; ",
        ),
        (["compare.runs=[numpy seed=0]"], "compare.runs=[numpy seed=0]: nothing to compare: give two runs"),
        (["compare.baseline=method=numpi"], "compare.baseline=method=numpi: none of the compared runs; choose method=numpy, "),
        (["compare.require=final/loss <"], "compare.require=final/loss <: cannot be read at its end"),
        (
            ["compare.require=finale/loss < 1"],
            "compare.require=finale/loss < 1: finale/loss is no name here; nearest: final/loss",
        ),
        (["compare.allow=[thread]"], "compare.allow=[thread]: thread is no kind of difference; choose threads, "),
        (["compare.watch=maybe"], "compare.watch=maybe: allowed: true or false"),
        (["compare.baselin=x"], "compare.baselin=x: no such key; nearest: compare.baseline"),
        (["runs=elsewhere"], "compare.sweep=latest: there is no sweep in elsewhere/ yet; python -m exp -m … makes one"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as raised:
        done_here("task=compare", *words)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""


def test_a_mistake_of_a_comparison_is_exit_code_1(folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = here("task=compare", "compare.baseline=method=numpi")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: compare.baseline=method=numpi: none of") and done.err.count("\n") == 1


def test_a_sweep_is_compared_while_it_runs_and_watched_to_its_end(tmp_path: Path) -> None:
    """Its second run waits for a file, so that however slow this machine is, nothing ends before it was seen."""
    running = start(*with_faulty(tmp_path), "method.fault=none,waits", "tracker=none", cwd=tmp_path)
    until(lambda: (tmp_path / "waiting-0").exists())
    watching = start("task=compare", "compare.watch=true", cwd=tmp_path)
    no_longer, printed = Timer(90, watching.kill), ""
    no_longer.start()
    assert watching.stdout
    try:
        while not re.search(r"^fault=waits +running .*\n", printed, re.MULTILINE):
            printed += (line := watching.stdout.readline())
            assert line, printed
        early = command("task=compare", cwd=tmp_path)
    finally:
        (tmp_path / "go").touch()
        printed += watching.communicate()[0]
        no_longer.cancel()
    ended(running).ok()
    assert (early.returncode, early.stderr, watching.returncode) == (0, "", 0), printed
    assert "\nrunning: 1 of 2 runs, not in the numbers: fault=waits\n" in early.stdout
    lines = printed.splitlines()
    assert lines[0].split() == ["run", "state", "step", "loss", "steps/s", "time", "left"]
    assert any(line.startswith("2 runs: 1 finished, 1 running; failures 0; time left ") for line in lines)
    assert "2 runs: 2 finished; failures 0; time left 0 s" in lines
    assert lines[-1].startswith("see runs/")


@pytest.mark.parametrize("words", [[], ["compare.watch=true"], ["compare.require=failures < 9 or speed > 1"]])
@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_a_sweep_is_compared_before_any_run_has_finished(
    status: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There are losses, and no final numbers of any run."""
    monkeypatch.chdir(tmp_path)
    planned = grid(("numpy", "tensor"), (1e-6,), (0,), steps=9)
    planned[0] |= {"status": status, "metrics": {}}
    del planned[1]["losses"]
    written_sweep(Path("runs"), planned, status=status)
    if not words:  # else it is found killed
        monkeypatch.setattr("exp.tasks.compare.mark_killed", lambda runs: [])
    assert done_here("task=compare", *words) == 0
    state = "killed" if words else status.lower()
    assert f"\n{state}: 1 of 2 runs, not in the numbers: numpy lr=1e-06 seed=0\n" in capsys.readouterr().out
    for name in ("final/loss", "speed", "steps_per_second"):
        assert not bars(compared(selected("runs", "latest"), "runs", None).rows, name)["data"][0]["x"]


def test_a_sweep_whose_process_is_gone_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = grid(("numpy", "autograd"), (1e-6,), (0, 1), steps=9)
    planned[1] |= {"status": "RUNNING", "metrics": {}}
    del planned[3]["losses"]
    written_sweep(Path("runs"), planned, status="RUNNING", ended=None)
    assert done_here("task=compare", "compare.watch=true") == 0
    printed = capsys.readouterr().out
    assert "killed: 1 of 4 runs" in printed and "planned: 1 of 4 runs" in printed


def test_500_settings_are_compared_in_time_and_printed_in_part(tmp_path: Path) -> None:
    rates = [round(1e-7 * 1.01**place, 12) for place in range(250)]
    written_sweep(tmp_path / "runs", grid(("numpy", "autograd"), rates, (0,), steps=500))
    done = command("task=compare", cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "… and 460 more settings in compare.csv and compare.html" in done.stdout
    assert len(sweeps(tmp_path / "runs")[0].path.joinpath("compare.csv").read_text().splitlines()) == 501


def test_texts_need_no_quotes_of_hydras() -> None:
    """As a shell hands them over, and with the quotes of those who know Hydra."""
    typed = ["compare.require=a < 'b'", "compare.require='a < 1'", "compare.baseline=method=numpy", "compare.runs=[a b,c=1]"]
    typed += [
        "compare.allow=threads",
        "compare.baseline=null",
        "compare.runs=[]",
        "compare.require=",
        "compare.require='a' < 'b'",
    ]
    quoted = [r"compare.require='a < \'b\''", "compare.require='a < 1'", "compare.baseline='method=numpy'"]
    quoted += ["compare.runs=['a b','c=1']", "compare.allow=['threads']", "compare.baseline=null", "compare.runs=[]"]
    assert names_quoted(typed) == [*quoted, "compare.require=", r"compare.require='\'a\' < \'b\''"]


def test_a_comparison_is_not_swept(here: Here) -> None:
    done = here("-m", "task=compare", "seed=0,1")
    assert (done.code, done.err) == (1, "error: task=compare: cannot be swept; leave -m out\n")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "other"):
        written_run(Path("runs"), name, falling(5, 0.1))
    Path("file").write_text("")
    with pytest.raises(InputError, match=r"^compare.out=file: cannot be written \("):
        done_here("task=compare", "compare.runs=[one,other]", "compare.out=file")


@pytest.mark.parametrize("answer", [{"run": "x"}, {"error": "the store is down"}])
def test_the_files_are_attached_to_the_sweeps_run(
    answer: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The uploader is told of the sweep's folder once the files lie in it, and that there is something new."""
    told: list[tuple[str, object]] = []

    class Uploader:
        def open(self, uri: str) -> None:
            told.append(("open", uri))

        def send(self, folder: Path) -> None:
            told.append(("send", sorted(path.name for path in folder.glob("compare.*"))))

        def wait(self, names: list[str], uri: str) -> dict[str, dict[str, str]]:
            return {names[0]: answer}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exp.tasks.compare.shared_uploader", Uploader)
    planned = grid(("numpy", "autograd"), (1e-6,), (0,), steps=9)
    sweep = written_sweep(Path("runs"), planned, tracking={"uri": "sqlite:///x.db", "experiment": "exp"}, revision=2)
    assert done_here("task=compare") == 0
    assert told == [("open", "sqlite:///x.db"), ("send", ["compare.csv", "compare.html", "compare.json"])]
    assert sweep.status()["revision"] == 3
    said = "not attached in MLflow yet (the store is down)" if "error" in answer else "attached to the sweep's run in MLflow"
    assert capsys.readouterr().out.splitlines()[-1] == said
    sweep.update_status(status="RUNNING")
    monkeypatch.setattr("exp.tasks.compare.mark_killed", lambda runs: [])
    assert done_here("task=compare") == 0 and len(told) == 2 and sweep.status()["revision"] == 3
    assert capsys.readouterr().out.splitlines()[-1] == "attached to the sweep's run in MLflow when the sweep ends"
