"""What users type to have methods timed: the plan, the table, what is kept, what MLflow hears, what fails."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import exp as command
from commands import tracked
from sweeping import Here, here

from exp.benchmark import machine
from exp.benchmark.crossing import answer, points
from exp.benchmark.page import charts, page
from exp.benchmark.peers import absences, peers
from exp.benchmark.session import LEAST_ROUNDS
from exp.benchmark.table import notes, rows_of, text
from exp.claims import Claim
from exp.composition import compose
from exp.configuration import instantiate
from exp.errors import InputError
from exp.report import Report
from exp.run_folder import RunFolder, run_folders
from exp.tasks.base import Member
from exp.tasks.benchmark import Benchmark

__all__ = ["here"]

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

SMALL = ["problem.samples=11", "problem.inputs=7", "problem.outputs=3", "network.hidden=[5]", "optimizer.lr=1e-4"]
QUICK = ["task=benchmark", "benchmark.seconds=0.2", "benchmark.processes=1"]
BROKEN = """
from dataclasses import dataclass

from exp.methods.manual import NumPy

@dataclass(kw_only=True)
class Broken(NumPy):
    def transition(self, state, x, y):
        raise ZeroDivisionError("nothing to divide by")
"""


def members(runs: Path, *methods: str, words: tuple[str, ...] = (), **claimed: Any) -> list[Member]:
    """Checked runs, as a sweep hands them over."""
    found = []
    for method in methods:
        experiment, _ = instantiate(*compose([f"method={method}", "tracker=none", f"runs={runs}", *SMALL, *words]))
        found.append(Member(experiment, experiment.check(), **claimed))
    return found


@pytest.mark.usefixtures("used_folder")
def test_a_single_method_is_timed_judged_and_recorded(tmp_path: Path) -> None:
    done = command(*QUICK, "benchmark.seed=1", "method=numpy", *SMALL, cwd=tmp_path)  # six orders of two may be one by chance
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("timing 1 combination, 1 twin for the noise floor: 0.2 s of timed blocks each")
    heads = "method device precision first step warm-up step 95 % quartiles speed verdict GFLOP/s GB/s bound memory"
    assert any(line.split() == heads.split() for line in lines)
    rows = [line for line in lines if " cpu " in line and " fp32 " in line and "equivalent" in line]
    assert [row.partition("  ")[0] for row in rows] == ["numpy"]
    known = any(line.startswith("noise floor ") for line in lines)
    assert known or any("too few blocks" in line for line in lines)  # so few say nothing where other tests disturb them
    (folder,) = run_folders(tmp_path / "runs")
    status, raw = folder.status(), folder.read_json("benchmark.json")
    assert (status["task"], status["verdict"]) == ("benchmark", "equivalent")
    assert raw["participants"] == [status["name"], f"{status['name']} (twin)"]
    (rounds,) = raw["order"]
    assert len(rounds) >= LEAST_ROUNDS and all(sorted(order) == [0, 1] for order in rounds)
    assert len(raw["blocks"][0]["seconds"]) == len(rounds)
    assert len({tuple(order) for order in rounds}) > 1  # drawn anew for each round
    losses = folder.curve()["train/loss"]
    assert len(losses) == sum(raw["blocks"][0]["steps"]) and np.isfinite(losses).all()
    recorded = tracked(f"sqlite:///{tmp_path}/mlflow.db")[folder.path.name]
    assert recorded.data.tags["kind"] == "benchmark" and recorded.data.tags["verdict"] == "equivalent"
    assert recorded.data.tags["bound"] in ("compute", "memory", "launch", "other")
    wanted = {"step_seconds", "step_seconds_low", "first_quartile", "first_step_seconds", "warm_up_steps"}
    wanted |= {"noise_floor"} if known else set()
    wanted |= {"operations_per_second", "share_of_arithmetic", "bytes_per_second", "share_of_memory", "blocks"}
    assert {f"speed/{name}" for name in wanted} <= set(recorded.data.metrics)


def test_members_are_timed_together_in_one_order_and_fail_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process; one of them raises, which keeps the others from nothing."""
    (tmp_path / f"broken_{tmp_path.name}.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    task = Benchmark(seconds=0.2, processes=1, isolated=False, seed=5, peers=["tutorial"])
    together = members(tmp_path, "numpy", "tensor", "numpy")
    module = __import__(f"broken_{tmp_path.name}")
    together[2].experiment.method = module.Broken()
    together[2].experiment.name = "broken"
    (group,) = task.groups([(each.experiment, each.data) for each in together], "auto")
    assert group.runs == [0, 1, 2]
    folders = task.record_together(together, Report(title="sweep"))
    statuses = [folder.status() for folder in folders]
    assert [status["status"] for status in statuses] == ["FINISHED", "FINISHED", "FAILED"]
    where = f"(broken_{tmp_path.name}.py line 9)"
    assert statuses[2]["error"] == f"NotMeasured: ZeroDivisionError: nothing to divide by {where}"  # a sentence
    assert 'raise ZeroDivisionError("nothing to divide by")' in (folders[2].path / "error.txt").read_text()
    said = capsys.readouterr().out
    assert "interleaved, in this process" in said and "timed 1 of 1 repetitions in this process" in said
    first, second = (folder.read_json("benchmark.json") for folder in folders[:2])
    assert first["order"] == second["order"] and first["seed"] == second["seed"] == 5
    assert statuses[0]["benchmark"]["is_baseline"]
    peers = {peer["name"]: peer["verdict"] for peer in statuses[0]["benchmark"]["peers"]}
    assert peers == dict.fromkeys(("tutorial numpy", "tutorial tensor", "tutorial autograd"), "equivalent")
    assert {"speed/ratio", "speed/ratio_low", "speed/ratio_high"} <= set(statuses[1]["metrics"])
    table = task.table(statuses[:2], ("run",))
    assert {row[0] for row in table.rows} == {*peers, *(status["name"] for status in statuses[:2])}
    assert "peers are judged by their timed blocks alone, not at probes" in table.notes
    assert {row[-1] for row in table.rows} == {"–"}  # the memory of a process that all of them share is nobody's
    assert (folders[0].path / "benchmark.html").exists()
    assert task.exit_code(statuses[:2]) == 0


def test_the_page_of_a_sweep_that_was_widened_shows_all_of_it(here: Here, tmp_path: Path) -> None:
    words = ["-m", *QUICK, "benchmark.isolated=false", "tracker=none", *SMALL]
    here(*words, "method=numpy").ok()
    done = here(*words, "method=numpy,tensor").ok()
    (written,) = (tmp_path / "runs" / "sweeps").glob("*/benchmark.html")
    assert done.plan == "1 new, 1 done" and any(line.startswith("see ") for line in done.lines)
    assert all(f"<tr><td>{method}</td>" in written.read_text() for method in ("numpy", "tensor"))


@pytest.mark.parametrize("tracker", ["none", "mlflow"])
@pytest.mark.parametrize("settles", [True, False])
def test_timing_begins_once_the_upload_process_is_idle(
    tracker: str, settles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    class Uploader:
        def settle(self) -> bool:
            told.append("settle")
            return settles

    def measured(*_: Any, **__: Any) -> None:
        told.append("measure")
        raise KeyboardInterrupt

    monkeypatch.setattr("exp.tasks.benchmark.shared_uploader", Uploader)
    monkeypatch.setattr("exp.tasks.benchmark.measure", measured)
    monkeypatch.setattr("exp.tasks.benchmark.end_early", lambda *_: [])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    together = members(tmp_path, "numpy", words=(f"tracker={tracker}",))
    with pytest.raises(KeyboardInterrupt):
        Benchmark().record_together(together, Report(title=""))
    assert told == ["settle", "measure"][tracker == "none" :]
    said = "the upload process still computes" in capsys.readouterr().out
    assert said is (tracker == "mlflow" and not settles)


def test_runs_that_other_processes_do_are_not_timed(tmp_path: Path) -> None:
    (each,) = members(tmp_path, "numpy")
    folder = RunFolder.create(tmp_path, "numpy")
    folder.update_status(status="RUNNING")
    (done,) = Benchmark().record_together([Member(each.experiment, each.data, Claim(folder, uploads=False))], Report(title=""))
    assert done.status()["status"] == "FAILED"
    assert "use hydra/launcher=basic" in done.status()["error"]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: pip install 'exp[jax]'")
def test_jax_is_timed_and_judged_beside_the_others(tmp_path: Path) -> None:
    """Its arrays are new for every block, its ceilings NumPy's. XLA has a thread beside the one that asks, not on one core."""
    task = Benchmark(seconds=0.1, processes=1)
    words = ("precision=fp64", "training.batch_size=4")  # fp64: a jax that was not told computes in float32
    folders = task.record_together(members(tmp_path, "numpy", "jax", words=words), Report(title=""))
    assert [folder.status()["verdict"] for folder in folders] == ["equivalent"] * 2
    status = folders[1].status()
    assert status["metrics"]["speed/share_of_arithmetic"] > 0
    if machine.quiet_core(0) is not None:
        assert status["metrics"]["speed/ratio"] > 0


def test_what_is_too_large_is_said_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("exp.benchmark.plan.free_bytes", lambda _: 1000)
    (done,) = Benchmark().record_together(members(tmp_path, "numpy"), Report(title=""))
    status = done.status()
    assert (status["status"], status["verdict"]) == ("FINISHED", "unsupported")
    assert status["verdict_reason"].startswith("needs about 0.0 GiB of memory")
    assert "skipped numpy" in capsys.readouterr().out
    table = Benchmark().table([status], ("run",))
    assert "–" in table.rows[0] and table.notes[0].startswith("skipped numpy")


def test_what_is_interrupted_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("exp.tasks.benchmark.measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Benchmark().record_together(members(tmp_path, "numpy", "tensor"), Report(title=""))
    assert [folder.status()["status"] for folder in run_folders(tmp_path)] == ["KILLED", "KILLED"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("benchmark.seconds=0", "benchmark.seconds=0: allowed: a number > 0 and <= 3600"),
        ("benchmark.processes=0", "benchmark.processes=0: allowed: a whole number >= 1"),
        ("benchmark.peers=[tutorials]", "benchmark.peers=[tutorials]: choose tutorial or lightning"),
        ("benchmark.seed=-1", "benchmark.seed=-1: allowed: a whole number >= 0 and < 4611686018427387904, or null"),
        (f"benchmark.seed={2**62}", f"benchmark.seed={2**62}: allowed: a whole number >= 0 and < {2**62}, or null"),
    ],
)
def test_a_mistake_is_one_line(word: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        instantiate(*compose(["task=benchmark", word]))
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ((), []),
        (("precision=fp64",), []),
        (("precision=bf16",), ["tutorial numpy", "lightning"]),
        (("experiment=digits",), ["tutorial"]),
    ],
)
def test_peers_that_cannot_do_the_experiment_are_told(words: tuple[str, ...], absent: list[str]) -> None:
    experiment, _ = instantiate(*compose(["method=tensor", "device=cpu", *words]))
    assert list(absences(experiment, ["tutorial", "lightning"])) == absent
    assert not set(absent) & peers(experiment, ["tutorial", "lightning"]).keys()


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exp.benchmark.peers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is not installed; pip install 'exp\[bench\]', or leave it out"):
        Benchmark(peers=["lightning"])


@pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="lightning is not installed: pip install 'exp[bench]'"
)
@pytest.mark.filterwarnings("ignore")
def test_a_lightning_loop_does_the_same_steps(tmp_path: Path) -> None:
    task = Benchmark(seconds=0.1, processes=1, isolated=False, peers=["lightning"])
    (folder,) = task.record_together(members(tmp_path, "module", words=("training.batch_size=4",)), Report(title=""))
    (peer,) = folder.status()["benchmark"]["peers"]
    assert (peer["name"], peer["verdict"]) == ("lightning", "equivalent")


# The answer of many sizes

GIGA = {"speed/operations_per_second": 1e9, "speed/bytes_per_second": 1e9}


def status(
    device: str, hidden: int, rows: int, seconds: float, verdict: str = "equivalent", threads: int = 16
) -> dict[str, Any]:
    ends = dict.fromkeys(("step_seconds", "step_seconds_low", "step_seconds_high", "first_quartile"), seconds)
    ends |= {"third_quartile": seconds, "start_seconds": 2.0, "first_step_seconds": 1.0, "warm_up_steps": 9.0}
    return {
        "name": f"{device} {hidden} {rows}",
        "verdict": verdict,
        "choices": {"method": "autograd", "device": device, "precision": "fp32"},
        "metrics": GIGA | {f"speed/{name}": value for name, value in ends.items()},
        "benchmark": {
            "session": "s",
            "size": hidden * rows,
            "shape": [hidden, rows],
            "speed": "1",
            "size_key": f"{hidden} {rows}",
            "threads": threads,
            "cores": 16,
        },
    }


SIZES = [(16, 64), (16, 4096), (4096, 64), (4096, 4096)]


def test_where_a_gpu_begins_to_win_is_computed_from_the_table() -> None:
    cpu = [status("cpu", *size, 1.0) for size in SIZES]
    gpu = [status("cuda", *size, seconds) for size, seconds in zip(SIZES, (4.0, 0.5, 0.25, 0.0125), strict=True)]
    assert answer([*cpu, *gpu]) == [
        "the GPU wins from 16 hidden units, batch 4096 on; at most it is 80 times as fast as the CPU's fastest "
        "(4096 hidden units, batch 4096)",
        "50 times or more, as the tutorial says: true from 4096 hidden units, batch 4096 on",
    ]
    idle = [status("cpu", *size, 1.0, threads=1) for size in SIZES]
    assert answer([*idle, *gpu])[2:] == ["the CPU computed with 1 of its 16 cores; threads=16 gives it all of them"]
    both = [status("cpu", *size, 1.0, threads=threads) for size in SIZES for threads in (1, 16)]
    assert len(answer([*both, *gpu])) == 2
    wide = [each | {"metrics": each["metrics"] | {"speed/step_seconds_high": 0.03}} for each in gpu]
    assert answer([*cpu, *wide])[1].endswith(
        "not sure at any of these sizes, perhaps from 4096 hidden units, batch 4096 on: the intervals are too wide"
    )
    vague = [each | {"metrics": each["metrics"] | {"speed/step_seconds_high": 5.0}} for each in gpu]
    assert answer([*cpu, *vague])[0].startswith(
        "the GPU is not sure to win at any of these sizes, perhaps from 16 hidden units, batch 4096 on: the intervals are"
    )
    unproven = [*cpu, *gpu[:3], status("cuda", 4096, 4096, 0.0125, verdict="different")]
    assert answer(unproven)[1].endswith("not true at any of these sizes")
    figures = charts([*cpu, *gpu])
    assert set(figures) == {"Time of a step over the batch", "GPU relative to CPU"}
    (shown,) = figures["GPU relative to CPU"]["data"]
    assert shown["text"] == [["0.25", "2"], ["4", "80"]] and shown["z"][1][1] == pytest.approx(np.log10(80))


def test_what_does_not_hold_at_all_larger_sizes_is_not_said_of_them() -> None:
    cpu = [status("cpu", *size, 1.0) for size in SIZES]
    gpu = [status("cuda", *size, seconds) for size, seconds in zip(SIZES, (4.0, 0.0125, 2.0, 0.0125), strict=True)]
    wins, true = answer([*cpu, *gpu])
    assert wins.startswith("the GPU wins at 2 of 4 sizes, the smallest 16 hidden units, batch 4096; at most")
    assert true.endswith("true at 2 of 4 sizes, the smallest 16 hidden units, batch 4096")


def test_sizes_of_one_shape_are_kept_apart_and_named_by_what_differs() -> None:
    """A CPU is not compared with a GPU that does other steps, nor do both lie on one line."""
    found = []
    for optimizer, (on_cpu, on_gpu) in {"sgd": (1.0, 2.0), "adam": (8.0, 4.0)}.items():
        for each in [status(device, *size, s) for size in SIZES for device, s in (("cpu", on_cpu), ("cuda", on_gpu))]:
            each["choices"]["optimizer"] = optimizer
            each["choices"]["tracker"] = f"of {each['name']}"  # tells no sizes apart: runs of one differ in it
            each["benchmark"]["size_key"] += optimizer
            found.append(each)
    assert answer(found)[0] == (
        "the GPU wins at 4 of 8 sizes, the smallest 16 hidden units, batch 64, optimizer=adam; "
        "at most it is 2 times as fast as the CPU's fastest (16 hidden units, batch 64, optimizer=adam)"
    )
    figures = charts(found)
    maps = {"GPU relative to CPU, optimizer=sgd": "0.5", "GPU relative to CPU, optimizer=adam": "2"}
    assert set(figures) == {"Time of a step over the batch", *maps}
    assert {title: figures[title]["data"][0]["text"][0][0] for title in maps} == maps
    lines = figures["Time of a step over the batch"]["data"]
    assert len(lines) == 8 and all(len(line["x"]) == 2 for line in lines)
    assert "autograd cuda fp32, optimizer=adam, hidden 16" in {line["name"] for line in lines}
    for each in found:
        each["choices"]["optimizer"] = "sgd"  # nothing that is known tells them apart: their keys do
    assert len(points(found)) == 8


def test_without_a_gpu_the_answer_is_that_nobody_knows() -> None:
    (line,) = answer([status("cpu", *size, 1.0) for size in SIZES])
    assert line == "50 times or more on a GPU, as the tutorial says: not measured, no GPU was timed beside a CPU here"
    assert answer([status("cpu", 16, 64, 1.0)]) == []  # of one size nobody asked


def test_the_page_holds_the_table_and_its_plots_and_loads_nothing() -> None:
    written = page([status("cpu", *size, 1.0) for size in SIZES])
    assert "not measured, no GPU" in written and "Time of a step over the batch" in written
    assert "default-src 'none'" in written
    assert json.dumps("autograd cpu fp32, hidden 4096") in written


def test_rows_of_two_sessions_are_told_apart() -> None:
    one, other = status("cpu", 16, 64, 1.0), status("cuda", 16, 64, 2.0)
    other["benchmark"]["session"] = "t"
    assert [row["name"] for row in rows_of([one, other])] == ["cpu 16 64", "cuda 16 64"]
    assert notes([one, other])[-1].startswith("runs of one size were timed in different sessions")
    skipped = one | {"metrics": {}, "benchmark": {"session": "none", "size": 0, "notes": []}}
    large = status("cpu", 64, 64, 1.0)  # where they are many, each size has a session of its own
    large["benchmark"]["session"] = "u"
    assert notes([one, skipped, large]) == []
    assert text(one, "first step") == "3 s"  # work that is done at the start is in it
    assert text(one, "step") == "1 s" and text(one, "95 %") == "1–1 s" and text(one, "memory") == "–"
