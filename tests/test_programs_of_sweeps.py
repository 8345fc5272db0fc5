"""Sweeps in programs: what the plan says, that nothing else changes, and what happens to a program that fails."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import start, tracked, until
from sweeping import SIZE, Here, all_gone, attempts, curves, ended, finished, here, with_faulty

from exp.agreement import Agreement
from exp.composition import compose
from exp.configuration import instantiate
from exp.experiment import Experiment
from exp.fusion import CACHE_BYTES, groups, member_bytes
from exp.interruption import Terminated, exit_code
from exp.methods.graphed import Graphed
from exp.methods.manual import Tensor
from exp.network import Network
from exp.optimizers import SGD
from exp.problems import Data
from exp.program import Program
from exp.run_folder import run_folders
from exp.sweep.grouping import Together, grouped, rules, shared_out
from exp.sweep.planning import Entry
from exp.tasks import train
from exp.tasks.recording import _wants_memory

__all__ = ["here"]
WORDS = ("-m", "method=numpy", "precision=fp64", *SIZE[:-2], "training.steps=20")
"""Without widths and a rate."""

WRONG = '''
from dataclasses import dataclass

import numpy as np

from exp.methods.manual import NumPy


@dataclass(kw_only=True)
class Stacked(NumPy):
    """NumPy's step, but for what happens to stacks of more than `at_most`."""

    leading_axes = True

    at_most: int = 1
    fault: str = "memory"

    def transition(self, state, x, y):
        runs = len(state.count) if np.ndim(state.count) else 1
        if runs > self.at_most:
            if self.fault == "memory":
                raise MemoryError("planted")
            loss, after = super().transition(state, x, y)
            return loss, after._replace(params={name: np.roll(array, 1, axis=0) for name, array in after.params.items()})
        return super().transition(state, x, y)
'''


def of(*words: str) -> tuple[Any, Any]:
    """An experiment, and its data."""
    experiment, _ = instantiate(*compose([*words, "tracker=none"]))
    return experiment, experiment.problem.load()


# Which runs go together


SMALL = ("method=numpy", "problem=digits", "network=mlp", "network.hidden=[5]", "loss=cross_entropy", "training.batch_size=8")


@pytest.mark.parametrize(
    "words",
    [
        ("seed=1",),
        ("network.hidden=[9]",),
        ("network.initial=glorot",),
        ("optimizer.lr=0.5",),
        ("optimizer.weight_decay=0.1",),
        ("problem.seed=7",),
        ("training.seed=7",),
        ("name=another",),
    ],
)
def test_runs_that_differ_in_numbers_go_together(words: tuple[str, ...]) -> None:
    (group,) = groups([of(*SMALL), of(*SMALL, *words)], "2")
    assert group.runs == [0, 1] and group.rule == "at most 2: sweep.fuse=2"


@pytest.mark.parametrize(
    "words",
    [
        ("method=tensor",),
        ("precision=fp64",),
        ("threads=2",),
        ("network.hidden=[5,5]",),
        ("network.activation=tanh",),
        ("network.bias=false",),
        ("loss=mean_squared_error",),
        ("optimizer=adam",),
        ("training.batch_size=9",),
        ("training.steps=7",),
        ("training.evaluate_every=7",),
        ("training.log_every=7",),
        ("problem.valid_fraction=0.3",),
    ],
)
def test_others_do_not(words: tuple[str, ...]) -> None:
    found = groups([of(*SMALL), of(*SMALL, *words)], "2")
    assert [group.runs for group in found] == [[0], [1]]
    assert {group.rule for group in found} == {"no other is like it, or left"}


def test_a_rule_of_the_same_kind_with_another_form_does_not() -> None:
    momentum = (*SMALL, "optimizer=momentum")
    assert len(groups([of(*momentum), of(*momentum, "optimizer.nesterov=true")], "2")) == 2
    assert len(groups([of(*momentum), of(*momentum, "optimizer.momentum=0.5")], "2")) == 1


def test_how_many_is_a_matter_of_the_cache_or_of_what_is_typed() -> None:
    runs = [of(*SMALL)] * 300
    size = member_bytes(*runs[0], own_data=False)
    found = groups(runs, "auto")
    assert [len(group.runs) for group in found[:-1]] == [CACHE_BYTES // size] * (len(found) - 1)
    assert sorted(number for group in found for number in group.runs) == [*range(300)]
    assert [len(group.runs) for group in groups(runs, "128")] == [128, 128, 44]
    assert {len(group.runs) for group in groups(runs, "off")} == {1}
    assert [len(group.runs) for group in groups(runs[:10], "auto", workers=2)] == [5, 5]
    assert [len(group.runs) for group in groups(runs[:10], "16", workers=4)] == [3, 3, 3, 1]
    tutorial = groups([of("method=numpy")] * 3, "auto")
    assert [group.runs for group in tutorial] == [[0], [1], [2]] and "not even 8 fit" in tutorial[0].rule
    assert [group.runs for group in groups([of("method=numpy")] * 3, "2")] == [[0, 1], [2]]
    module = groups([of("method=module", *SMALL[1:])] * 2, "auto")
    assert [group.rule for group in module] == ["method=module trains one run at a time"] * 2


def test_auto_makes_no_program_of_a_few_on_a_cpu() -> None:
    one = of(*SMALL)
    held = CACHE_BYTES // member_bytes(*one, own_data=False)
    runs = [one] * (held + 2)
    why = "one of a program is trained alone too, together they would be slower"

    def said(count: int, fuse: str = "auto", workers: int = 1) -> list[str]:
        return [f"{len(group.runs)} {group.rule}" for group in groups(runs[:count], fuse, workers=workers)]

    assert said(4) == ["4 as many as 4 MiB of cache hold"]
    assert said(3) == [f"1 fewer than 4 like it, or left: {why}"] * 3
    assert said(held + 2) == [f"{held} as many as 4 MiB of cache hold"] + [f"1 fewer than 4 like it, or left: {why}"] * 2
    assert said(6, workers=2) == [f"1 fewer than 4 for each worker: {why}"] * 6
    assert said(1) == ["1 no other is like it, or left"]
    assert said(2, "8") == ["2 at most 8: sweep.fuse=8"]


def test_what_is_evaluated_needs_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of data that all runs share: every run has its own activations of the validation split."""
    experiment, data = of(*SMALL, "problem.valid_fraction=0.5")
    evaluation = len(data.valid.inputs) * 2 * (5 + 10) * 4
    step = member_bytes(experiment, data, own_data=False)
    monkeypatch.setattr("exp.fusion.free_bytes", lambda device: 2 * 3 * (step + evaluation))
    assert [len(group.runs) for group in groups([(experiment, data)] * 6, "100")] == [3, 3]
    few = groups([(experiment, data)] * 6, "auto")
    assert len(few) == 6 and few[0].rule.startswith("fewer than 4 fit into half of the free memory: ")


OWN = """
from dataclasses import dataclass

from exp import optimizers
from exp.losses import SquaredError
from exp.methods.base import Wrapper
from exp.methods.manual import NumPy
from exp.network import Network
from exp.optimizers import SGD


@dataclass(kw_only=True)
class Heavy(SGD):
    mu: float = 0.5

    def rule(self, p, g, slots, c):
        return p - self.mu * c["lr"] * g, {}


@dataclass(kw_only=True)
class Known(Heavy):
    leading_axes = True


@dataclass(kw_only=True)
class HeavyBall(SGD):
    leading_axes = True
    momentum: float = 0.9


@dataclass(kw_only=True)
class Told(HeavyBall):
    leading_axes = True

    def constants(self):
        return super().constants() | {"momentum": self.momentum}


class SGD(optimizers.SGD):
    leading_axes = True


class OwnLoss(SquaredError): ...


class OwnMethod(NumPy): ...


class KnownMethod(NumPy):
    leading_axes = True


@dataclass(kw_only=True)
class OwnWrapper(Wrapper):
    pure = True

    def step(self, x, y):
        return self.running.step(x, y)


class KnownWrapper(OwnWrapper):
    leading_axes = True


@dataclass(kw_only=True)
class Scaled(Network):
    scale: float = 1.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with OWN."""
    (tmp_path / f"own_{tmp_path.name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(f"own_{tmp_path.name}")


@pytest.fixture(scope="module")
def small() -> tuple[Experiment, Data]:
    return of(*SMALL)


def sizes_and_rules(small: tuple[Experiment, Data], **parts: Callable[[int], Any]) -> list[str]:
    """Of two runs with these parts, made from 0 and 1, at most two in a program."""
    experiment, data = small
    runs = [replace(experiment, **{name: made(number) for name, made in parts.items()}) for number in (0, 1)]
    return [f"{len(group.runs)} {group.rule}" for group in groups([(run, data) for run in runs], "2")]


TOGETHER, APART = ["2 at most 2: sweep.fuse=2"], ["1 no other is like it, or left"] * 2


def test_what_is_ones_own_has_to_say_that_it_knows_stacks(own: Any, small: tuple[Experiment, Data]) -> None:
    found = partial(sizes_and_rules, small)
    says = "does not say leading_axes = True, that it knows stacks"
    assert found(optimizer=lambda _: own.Heavy(lr=0.1)) == [f"1 optimizer=sgd {says}"] * 2
    assert found(loss=lambda _: own.OwnLoss()) == [f"1 loss=cross_entropy {says}"] * 2
    assert found(method=lambda _: own.OwnMethod()) == [f"1 method=numpy {says}"] * 2
    assert found(method=lambda _: own.OwnWrapper(inner=Tensor())) == [f"1 method=numpy {says}"] * 2
    assert found(method=lambda _: Graphed(inner=own.OwnWrapper(inner=Tensor()))) == [f"1 method=numpy {says}"] * 2
    assert found(method=lambda _: own.KnownWrapper(inner=Tensor())) == TOGETHER
    assert found(optimizer=lambda _: own.Known(lr=0.1)) == TOGETHER


def test_what_a_program_takes_from_its_first_run_is_the_same_in_all(own: Any, small: tuple[Experiment, Data]) -> None:
    """Numbers that are no constants of the rule, fields of a network, the class itself, whatever it is called."""
    found = partial(sizes_and_rules, small)
    assert found(optimizer=lambda number: own.Known(lr=0.1, mu=0.1 + number)) == APART
    assert found(optimizer=lambda number: own.HeavyBall(lr=0.1, momentum=0.1 + number)) == APART
    assert found(optimizer=lambda number: own.HeavyBall(lr=0.1 + number)) == TOGETHER
    assert found(optimizer=lambda number: own.Told(lr=0.1, momentum=0.1 + number)) == TOGETHER
    assert found(optimizer=lambda number: (SGD, own.SGD)[number](lr=0.1)) == APART
    assert found(network=lambda number: own.Scaled(hidden=[5], scale=1.0 + number)) == APART
    assert found(network=lambda number: own.Scaled(hidden=[5], initial=("he", "glorot")[number], seed=number)) == TOGETHER


def test_only_what_is_shipped_is_padded(own: Any, small: tuple[Experiment, Data]) -> None:
    """A rule such as the sign of a gradient may move units of zero weights."""
    networks = {"network": lambda number: Network(hidden=[5 + number])}
    found = partial(sizes_and_rules, small)
    assert found(**networks) == TOGETHER
    assert found(**networks, method=lambda _: Graphed(inner=Tensor())) == TOGETHER
    assert found(**networks, optimizer=lambda _: own.SGD(lr=0.1)) == APART
    assert found(**networks, method=lambda _: own.KnownMethod()) == APART
    assert found(**networks, method=lambda _: own.KnownWrapper(inner=Tensor())) == APART
    assert found(network=lambda number: own.Scaled(hidden=[5 + number])) == APART


def test_alike_widths_are_neighbours() -> None:
    runs = [of(*SMALL, f"network.hidden=[{width}]") for width in (3, 40, 4, 39, 5, 41)]
    assert [group.runs for group in groups(runs, "3")] == [[0, 2, 4], [1, 3, 5]]


# As commands


@pytest.mark.usefixtures("used_folder")
def test_nothing_else_changes(here: Here, tmp_path: Path) -> None:
    words = (*WORDS, "network.hidden=[4],[7]", "optimizer.lr=1e-3,1e-2,1e40", "seed=0,1")
    done = here(*words).ok()
    assert "12 runs in 1 program: as many as 4 MiB of cache hold" in done.lines
    together = {status["name"]: status for status in attempts(tmp_path)}
    first, largest = curves(tmp_path), {name: run.state("final") for name, run in finished(tmp_path).items()}
    (program,) = {status["program"]["first"] for status in together.values()}
    assert all(status["program"]["runs"] == 12 and status["program"]["checked"]["agrees"] for status in together.values())
    assert here(*words, "sweep.fuse=off", "sweep.plan=true").ok().plan == "12 done", "how runs are grouped is no part of them"
    store = tracked(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(store) == 12 and {run.data.tags["program"] for run in store.values()} == {program}
    checked = together["hidden=[4] lr=0.001 seed=0"]["program"]["checked"]
    assert {run.data.tags["program.checked"] for run in store.values()} == {checked["run"]}
    assert checked["largest"] <= 20 * 1e-12

    here(*words, "sweep.fuse=off", "runs=alone", "tracker=none").ok()
    (tmp_path / "runs").rename(tmp_path / "together")
    (tmp_path / "alone").rename(tmp_path / "runs")
    alone = {status["name"]: status for status in attempts(tmp_path)}
    assert alone.keys() == together.keys()
    for name, status in alone.items():
        same = ("key", "factors", "digests", "blew_up_at_step", "not_finite", "dead_units", "status")
        assert {key: status.get(key) for key in same} == {key: together[name].get(key) for key in same}
        assert status["metrics"].keys() == together[name]["metrics"].keys()
        one, other = (np.frombuffer(found[name]) for found in (first, curves(tmp_path)))
        assert len(one) == len(other)
        np.testing.assert_allclose(one, other, rtol=20 * 1e-12)
        final = finished(tmp_path)[name].state("final")
        assert (final is None) == (largest[name] is None) == ("lr=1e40" in name)
        if final is not None and (kept := largest[name]) is not None:
            for key, array in final.named().items():
                np.testing.assert_allclose(array, kept.named()[key], rtol=0, atol=20 * 1e-12 * np.abs(array).max())


@pytest.mark.parametrize("fault", ["memory", "values"])
def test_a_program_that_fails_is_done_in_halves(fault: str, here: Here, tmp_path: Path) -> None:
    (tmp_path / "my" / "method").mkdir(parents=True)
    (tmp_path / "my" / "stacked.py").write_text(WRONG)
    (tmp_path / "my" / "method" / "stacked.yaml").write_text("_target_: stacked.Stacked\nat_most: 1\nfault: memory\n")
    own = ("--config-dir", "my", *WORDS, "method=stacked", f"method.fault={fault}", "method.at_most=2", "seed=range(0,5)")
    done = here(*own, "tracker=none").ok()
    said = [line for line in done.lines if "they are done" in line]
    expected = ["MemoryError: planted", "Disagreement"][fault == "values"]
    halves = ["the program of 5 runs", "the program of 3 runs"]
    assert [line.split(":")[0] for line in said] == (halves if fault == "memory" else halves[:1]), done.out
    assert all(expected in line for line in said)
    assert all(line.endswith("in two halves" if fault == "memory" else "one by one") for line in said)
    sizes = sorted(status.get("program", {}).get("runs", 1) for status in attempts(tmp_path))
    assert sizes == ([1, 2, 2, 2, 2] if fault == "memory" else [1] * 5)
    assert all(expected in status["program_refused"] for status in attempts(tmp_path))
    wrong = curves(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "first")
    here(*WORDS, "seed=range(0,5)", "tracker=none", "sweep.fuse=off").ok()
    for name, curve in curves(tmp_path).items():
        np.testing.assert_allclose(np.frombuffer(wrong[name]), np.frombuffer(curve), rtol=20 * 1e-12)


def test_want_of_memory_is_told_by_every_library() -> None:
    jax = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.")
    torch = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to …")
    assert all(map(_wants_memory, (jax, torch, MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})())))
    assert not _wants_memory(RuntimeError("INVALID_ARGUMENT: shapes"))


@pytest.mark.parametrize("error", [Terminated(), KeyboardInterrupt()])
def test_the_curves_of_a_program_that_is_interrupted_in_its_check_stay(
    error: BaseException, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupts(*arguments: Any) -> Agreement:
        raise error

    monkeypatch.setattr(Program, "compared_alone", interrupts)
    done = here(*WORDS, "seed=0,1", "sweep.fuse=2", "tracker=none")
    assert done.code == exit_code(error)
    assert [status["status"] for status in attempts(tmp_path)] == ["KILLED"] * 2
    assert [len(run.curve()["train/loss"]) for run in run_folders(tmp_path / "runs")] == [20, 20]


@pytest.mark.parametrize(("error", "code", "others"), [(Terminated(), 143, "KILLED"), (ValueError("planted"), 0, "FINISHED")])
def test_what_is_over_when_the_next_run_of_a_program_fails_stays(
    error: BaseException, code: int, others: str, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = train._ended, iter(range(1, 100))

    def fails_once(*arguments: Any, **more: Any) -> dict[str, Any]:
        if next(calls) == 3:
            raise error
        return own(*arguments, **more)

    monkeypatch.setattr(train, "_ended", fails_once)
    done = here(*WORDS, "seed=range(0,4)", "tracker=none")
    assert done.code == code
    statuses = sorted(attempts(tmp_path), key=lambda status: status["name"])
    assert [status["status"] for status in statuses] == ["FINISHED"] * 2 + [others] * 2
    assert [bool(status.get("program")) for status in statuses] == [True, True, False, False]
    refused = [status.get("program_refused") for status in statuses]
    assert refused == [None, None, *([None] * 2 if others == "KILLED" else ["ValueError: planted"] * 2)]


def test_a_program_that_was_shot_is_resumed(tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "method.fault=waits", "seed=range(0,4)", "sweep.fuse=4", "tracker=none")
    shot = start(*words, cwd=tmp_path)
    until(lambda: (tmp_path / "waiting-0").exists())
    assert [status["status"] for status in attempts(tmp_path)] == ["RUNNING"] * 4
    os.kill(shot.pid, signal.SIGKILL)
    shot.communicate()
    (tmp_path / "go").touch()
    resumed = ended(start(*words, cwd=tmp_path)).ok()
    assert "4 runs: 4 retry" in resumed.out
    assert "4 runs in 2 programs: the process of the last attempt died, of 4 together" in resumed.lines
    assert sorted(finished(tmp_path)) == [f"seed={seed}" for seed in range(4)]
    assert sorted(status["status"] for status in attempts(tmp_path)) == ["FINISHED"] * 4 + ["KILLED"] * 4
    all_gone(tmp_path)


@pytest.mark.parametrize("launcher", ["joblib"])
def test_a_launcher_is_given_programs(launcher: str, tmp_path: Path) -> None:
    words = (*WORDS, "seed=range(0,6)", "network.hidden=[3],[5]", "tracker=none", f"hydra/launcher={launcher}")
    done = ended(start(*words, "hydra.launcher.n_jobs=2", cwd=tmp_path)).ok()
    assert "12 runs in 2 programs: as many as 4 MiB of cache hold" in done.lines
    found = [status["program"] for status in attempts(tmp_path)]
    assert sorted(program["runs"] for program in found) == [6] * 12 and len({program["first"] for program in found}) == 2
    assert len(finished(tmp_path)) == 12
    all_gone(tmp_path)


def test_groups_are_shared_out_among_few_jobs_and_what_died_is_alone() -> None:
    groups = [Together([Entry(name, [])], alone=name == "x") for name in "abcdefgx"]

    def shared(jobs: int | None) -> list[str]:
        return ["".join(entry.name for group in job for entry in group.entries) for job in shared_out(groups, jobs)]

    assert shared(None) == [*"abcdefg", "x"]
    assert shared(4) == ["ab", "cd", "ef", "g", "x"]
    assert shared(100) == [*"abcdefg", "x"]
    assert shared_out([], 4) == []


def test_the_plan_says_why_what_died_is_alone() -> None:
    entries = [Entry(name, [], key=name, died=1) for name in "ab"]
    assert rules(grouped(entries, "auto")) == ["2 runs one by one: the process of the last attempt died"]


def test_many_runs_in_few_jobs_of_joblib_are_each_done_once(tmp_path: Path) -> None:
    words = (*with_faulty(tmp_path), "method.fault=none,raises", "seed=range(0,10)", "tracker=none", "sweep.fuse=off")
    ended(start(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)).ok(3)
    assert sorted(status["status"] for status in attempts(tmp_path)) == ["FAILED"] * 10 + ["FINISHED"] * 10
