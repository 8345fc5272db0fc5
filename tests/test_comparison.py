"""The parts of a comparison on runs written by code: what differs, statistics, table, baseline, verdicts, curves, memory."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from written_sweeps import ENVIRONMENT, falling, grid, written_run, written_sweep

from exp.comparison.charts import loss_curves
from exp.comparison.curves import band, distances, levels, losses, time_to
from exp.comparison.differences import differences, require_allowed, require_kinds
from exp.comparison.pair import curves_differ, pair
from exp.comparison.report import compared
from exp.comparison.selection import Selection, find_run, selected
from exp.comparison.spread import Spread, welch
from exp.comparison.surroundings import surroundings
from exp.comparison.table import baseline_of, relative_to, rows
from exp.comparison.trials import Trial, seconds_of
from exp.comparison.verdicts import verdicts
from exp.comparison.warnings import indistinct, notes
from exp.comparison.watch import live_rows, over, summary_line, time_left
from exp.errors import InputError
from exp.memory import measured
from exp.run_folder import run_folders

METHODS, RATES, SEEDS = ("numpy", "autograd"), (1e-7, 1e-6), (0, 1, 2)


def environment(**changes: Any) -> dict[str, Any]:
    """That of `written_run` with dotted keys changed: `versions.numpy`."""
    found = copy.deepcopy(ENVIRONMENT)
    for key, value in changes.items():
        *path, end = key.split("__")
        node: Any = found
        for part in path:
            node = node[part]
        node[end] = value
    return found


TORCH = environment(conditions={"torch_threads": 1})


def runs_of(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Two methods, two seeds; the last run has these changes."""
    found = grid(METHODS, (1e-6,), (0, 1), steps=20)
    for change in changes:
        found[-1] |= change
    return found


@pytest.fixture
def swept(tmp_path: Path) -> Selection:
    written_sweep(tmp_path, grid(METHODS, RATES, SEEDS, steps=40))
    return selected(tmp_path, "latest")


# What differs

DIFFERING = {
    "data": ({"digests": {"data": "other", "weights": "w1"}}, "data"),
    "weights": ({"digests": {"data": "d1", "weights": "other"}}, "weights"),
    "batches": ({"digests": {"data": "d1", "weights": "w1", "rows": "r"}}, None),
    "precision": ({"choices": {"method": "autograd", "precision": "fp64"}}, "precision"),
    "tf32": ({"environment": environment(conditions__tf32=True)}, None),
    "threads": ({"environment": environment(conditions__threads=[{"internal_api": "openblas", "num_threads": 2}])}, "threads"),
    "torch threads": ({"environment": environment(conditions={"torch_threads": 2})}, "threads"),
    "numpy": ({"environment": environment(versions__numpy="2.0.0")}, "versions"),
    "no torch": ({"environment": environment(versions={"python": "3.11.9", "numpy": "2.4.0"})}, None),
    "system": ({"environment": environment(platform="Darwin")}, "versions"),
    "code": ({"environment": environment(sources={"exp/methods/manual.py": "aa", "exp/training.py": "cc"})}, "code"),
    "own code": ({"environment": environment(sources={"mine.py": "cc", "exp/training.py": "bb"})}, None),
    "cpu": ({"environment": environment(cpu="another")}, "hardware"),
    "cores": ({"environment": environment(cores=64)}, "hardware"),
    "device": ({"choices": {"method": "autograd", "device": "cuda"}}, "hardware"),
    "configuration": ({"config": {"training": {"steps": 21}, "threads": 1, "seed": 1}}, "configuration"),
    "rate": ({"config": {"training": {"steps": 20}, "threads": 1, "optimizer": {"lr": 1.0}}}, None),
}
"""What the last of four runs has that is its own, and the kind of difference that is (None: none)."""


@pytest.mark.parametrize("name", DIFFERING)
def test_what_differs_in_one_run_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    change, kind = DIFFERING[name]
    planned = runs_of(change)
    if name == "torch threads":
        planned[-2]["environment"] = TORCH
    written_sweep(tmp_path, planned)
    selection = selected(tmp_path, "latest")
    found = differences(selection.trials, selection.declared, planned=True)
    assert {difference.kind for difference in found} - {"configuration"} == ({kind} if kind else set()) - {"configuration"}
    assert kind != "configuration" or any("training.steps" in str(difference) for difference in found)
    if kind:
        assert selection.trials[-1].name in str(found[0])
        with pytest.raises(InputError, match=rf"allow=\[\]: refused.*compare.allow=\[.*{kind}"):
            require_allowed(found, [])
        require_allowed(found, [*{difference.kind for difference in found}])


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("seed", {"digests": {"data": "other", "weights": "other"}}),
        ("problem", {"digests": {"data": "other", "weights": "other"}}),
        ("network.hidden", {"digests": {"data": "d0", "weights": "other"}}),
        ("training.batch_size", {"digests": {"data": "d0", "weights": "w0", "rows": "r"}}),
        ("precision", {"choices": {"precision": "bf16"}, "environment": environment(conditions__autocast="bfloat16")}),
        ("device", {"choices": {"device": "cuda"}, "environment": environment(gpu={"name": "H100"})}),
        ("threads", {"environment": environment(conditions__threads=[{"internal_api": "openblas", "num_threads": 2}])}),
        ("experiment", {"digests": {"data": "other", "weights": "other"}, "config": {"training": {"steps": 3}}}),
    ],
)
def test_a_declared_factor_may_change_what_depends_on_it(key: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """And undeclared the same is a difference."""
    digests = {"data": "d0", "weights": "w0", "rows": "q"}
    plain = environment(conditions__autocast=None, gpu={"name": "A100"})
    first = {"name": "first", "factors": {key: 1}, "losses": falling(9, 0.1), "digests": digests, "environment": plain}
    second = {**first, "name": "second", "factors": {key: 2}, **changes}
    written_sweep(tmp_path, [first, second])
    selection = selected(tmp_path, "latest")
    left_out = {"configuration"} if key == "experiment" else set()
    assert [str(found) for found in differences(selection.trials, [key], planned=True)] == []
    assert {found.kind for found in differences(selection.trials, ["method"], planned=True)} - left_out


def test_without_recorded_sources_the_commits_are_compared(tmp_path: Path) -> None:
    one, other = (environment(sources=None, git_of_exp={"commit": commit, "dirty": False}) for commit in ("a" * 40, "b" * 40))
    planned = [run | {"environment": one} for run in runs_of()]
    planned[-1]["environment"] = other
    written_sweep(tmp_path, planned)
    selection = selected(tmp_path, "latest")
    [found] = differences(selection.trials, selection.declared, planned=True)
    assert (found.kind, found.what) == ("code", "commit of exp")


def test_a_kind_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^allow=\[thread\]: thread is no kind of difference; choose threads,"):
        require_kinds("allow", ["thread"])


# Runs that are named


def test_named_runs_declare_what_differs_but_not_what_is_controlled(tmp_path: Path) -> None:
    def config(**changes: Any) -> dict[str, Any]:
        return {"optimizer": {"lr": 1e-6}, "threads": 1, "seed": 0, "problem": {"seed": 0}} | changes

    written_run(tmp_path, "one", falling(5, 0.1), config=config())
    written_run(tmp_path, "rate", falling(5, 0.1), config=config(optimizer={"lr": 1e-5}))
    written_run(tmp_path, "threads", falling(5, 0.1), config=config(threads=2))
    written_run(
        tmp_path, "seed", falling(5, 0.1), config=config(seed=1, problem={"seed": 1}), digests={"data": "x", "weights": "w"}
    )

    def kinds(other: str) -> tuple[list[str], set[str]]:
        selection = selected(tmp_path, "latest", ["one", other])
        return selection.declared, {found.kind for found in differences(selection.trials, selection.declared, planned=False)}

    assert kinds("rate") == (["optimizer.lr"], set())
    assert kinds("threads") == ([], {"threads"})
    assert kinds("seed") == ([], {"data"})
    both = selected(tmp_path, "latest", ["one", "rate"])
    assert [trial.setting for trial in both.trials] == ["lr=1e-6", "lr=1e-5"]


def test_a_run_is_found_by_folder_name_or_end_and_a_wrong_one_is_told_the_nearest(tmp_path: Path) -> None:
    first, second = written_run(tmp_path, "numpy lr=1e-6", falling(5, 0.1)), written_run(tmp_path, "tensor", falling(5, 0.1))
    end = second.path.name.rpartition("-")[2]
    for name in ("tensor", second.path.name, str(second.path), f"runs/{second.path.name}/", end, "latest"):
        assert find_run(tmp_path, name).path == second.path
    assert find_run(tmp_path, "numpy lr=1e-6").path == first.path
    with pytest.raises(InputError, match=r"tensr: no such run in .*; nearest: tensor,"):
        selected(tmp_path, "latest", ["numpy lr=1e-6", "tensr"])
    with pytest.raises(InputError, match="nothing to compare: give two runs"):
        selected(tmp_path, "latest", ["tensor", end])
    with pytest.raises(InputError, match="there is no run in"):
        find_run(tmp_path / "nowhere", "x")


def test_a_verification_is_no_run_to_compare(tmp_path: Path) -> None:
    """By a name, or as the latest, the newest training run is meant, whatever was verified since."""
    trained = [written_run(tmp_path, name, falling(5, 0.1)) for name in ("numpy", "tensor")]
    verified = [written_run(tmp_path, name, falling(0, 0.1), task="verify") for name in ("numpy", "tensor", "compiled")]
    selection = selected(tmp_path, "latest", ["numpy", "tensor"])
    assert [trial.folder and trial.folder.path for trial in selection.trials] == [folder.path for folder in trained]
    assert find_run(tmp_path, "latest").path == trained[1].path
    for name, found in {"compiled": verified[2], verified[0].path.name: verified[0]}.items():
        said = f"{found.path.name} is a run of task=verify; only training runs can be compared"
        with pytest.raises(InputError, match=f"^runs=.*: {re.escape(name)}: {re.escape(said)}$"):
            selected(tmp_path, "latest", ["numpy", name])


def test_a_sweep_of_verifications_is_not_the_latest_and_refused_by_its_name(tmp_path: Path) -> None:
    planned = runs_of()
    sweep = written_sweep(tmp_path / "both", planned)
    begun = written_sweep(tmp_path / "both", [run | {"task": "verify"} for run in planned])
    assert selected(tmp_path / "both", "latest").title == sweep.path.name
    said = "is a sweep of task=verify; only training runs can be compared"
    with pytest.raises(InputError, match=f"^sweep={begun.path.name}: {said}$"):
        selected(tmp_path / "both", begun.path.name)
    to_begin = written_sweep(tmp_path / "one", [{key: run[key] for key in ("name", "factors")} for run in planned])
    plan = to_begin.read_json("plan.json")
    for entry in plan["runs"]:
        entry["overrides"] = ["task=verify"]
    to_begin.write_json("plan.json", plan)
    with pytest.raises(InputError, match=f"^sweep=latest: {to_begin.path.name} {said}$"):
        selected(tmp_path / "one", "latest")
    mixed = written_sweep(tmp_path / "mixed", [run | {"task": "verify"} if at == 1 else run for at, run in enumerate(planned)])
    assert [trial.name for trial in selected(tmp_path / "mixed", mixed.path.name).trials] == [
        run["name"] for run in (planned[0], *planned[2:])
    ]


def test_everything_that_differs_between_two_runs(tmp_path: Path) -> None:
    one = written_run(tmp_path, "one", falling(5, 0.1))
    other = written_run(
        tmp_path,
        "other",
        falling(5, 0.1) * [1, 1, 1.5, 1, 1],
        factors={"optimizer.lr": 1e-3},
        environment=environment(versions__numpy="9", sources={"exp/training.py": "zz", "mine.py": "m"}),
        digests={"data": "x", "weights": "w"},
    )
    trials = [Trial(folder.path.name, {}, folder, folder.status()) for folder in (one, other)]
    found = {(where, what): (first, second) for where, what, first, second in pair(*trials)}
    assert found["configuration", "optimizer.lr"] == ("1e-06", "0.001")
    assert found["data", "data"] == ("d", "x") and ("data", "weights") not in found
    assert found["code", "exp/training.py"] == ("bb", "zz") and found["code", "mine.py"] == ("–", "m")
    assert found["environment", "versions.numpy"] == ("2.4.0", "9")
    assert found["metrics", "loss curves"] == ("differ by at most 0.5 relative, at step 2", "")
    assert {where for where, _ in found} == {"configuration", "data", "code", "environment", "metrics"}


def test_digests_are_shown_short(tmp_path: Path) -> None:
    digests = ({"data": "ab" * 32, "weights": "w"}, {"data": "ba" * 32, "weights": "w"})
    runs = [written_run(tmp_path, name, falling(5, 0.1), digests=each) for name, each in zip("ab", digests, strict=True)]
    lines = pair(*(Trial(folder.path.name, {}, folder, folder.status()) for folder in runs))
    assert [line for line in lines if line[0] == "data"] == [("data", "data", "ab" * 6, "ba" * 6)]


def test_what_is_only_planned_has_no_difference_in_full(tmp_path: Path) -> None:
    planned = runs_of()[:2]
    written_sweep(tmp_path / "both", planned)
    assert compared(selected(tmp_path / "both", "latest"), tmp_path, None).pair
    del planned[1]["losses"]
    written_sweep(tmp_path / "one", planned)
    assert compared(selected(tmp_path / "one", "latest"), tmp_path, None).pair is None


def test_curves_that_are_equal_are_said_to_be_bit_for_bit() -> None:
    curve = falling(9, 0.1)
    assert curves_differ(curve, curve.copy()) == "equal bit for bit"
    assert curves_differ(curve, np.nextafter(curve, 0)).startswith("differ by at most ")
    assert curves_differ(curve, curve[:5]) == "equal bit for bit (9 and 5 steps: the first 5 are compared)"


def test_the_order_in_which_libraries_were_loaded_is_no_difference() -> None:
    pools = [{"internal_api": "openmp", "version": None}, {"internal_api": "openblas", "version": "0.3"}]
    assert surroundings({"blas": pools}) == surroundings({"blas": pools[::-1]})
    assert surroundings({"blas": pools}) == {"blas.openmp": "loaded", "blas.openblas": "0.3"}


# Statistics


def test_welch_is_that_of_scipy_on_logarithms() -> None:
    first, second = (3.0, 4.0, 3.5, 5.0), (2.0, 2.5, 2.2)
    found = welch(first, second)
    expected = stats.ttest_ind(np.log(first), np.log(second), equal_var=False).confidence_interval(0.95)
    assert found is not None and found.ratio
    np.testing.assert_allclose(np.log([found.low, found.high]), [expected.low, expected.high], rtol=1e-12)
    assert found.apart and not expected.low <= 0 <= expected.high


def test_welch_of_what_is_not_positive_is_a_difference_of_means() -> None:
    found = welch((-1.0, 0.0, 1.0), (-1.5, 0.2, 1.1))
    assert found is not None and not found.ratio and found.low < 0 < found.high and not found.apart


def test_one_value_tells_nothing_and_equal_values_are_not_apart() -> None:
    assert welch((1.0,), (2.0, 3.0)) is None
    same, other = welch((2.0, 2.0), (2.0, 2.0)), welch((2.0, 2.0), (3.0, 3.0))
    assert same is not None and not same.apart and other is not None and other.apart


def test_a_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread((1.0, 2.0, 4.0))
    assert (spread.n, spread.mean) == (3, pytest.approx(7 / 3)) and spread.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert np.isnan(Spread((1.0,)).std) and np.isnan(Spread(()).mean)


# The table


def test_a_setting_is_the_factors_without_the_seed(swept: Selection) -> None:
    found = rows(swept.trials, [None] * 12)
    assert [row.setting for row in found] == ["numpy lr=1e-7", "numpy lr=1e-6", "autograd lr=1e-7", "autograd lr=1e-6"]
    assert [row.n for row in found] == [3] * 4 and found[0].factors == {"method": "numpy", "optimizer.lr": 1e-7}
    assert [row.verified for row in found] == [False] * 4
    finals = [trial.metrics["final/loss"] for trial in found[1].trials]
    assert found[1].numbers["final/loss"].mean == pytest.approx(np.mean(finals))


@pytest.mark.parametrize(
    ("rate", "said"), [(1.0, "lr=1"), (0.5, "lr=0.5"), (1e-6, "lr=1e-6"), (1234567.5, "lr=1234567.5"), (2e6, "lr=2e6")]
)
def test_a_setting_is_called_as_the_plan_calls_it(rate: float, said: str) -> None:
    assert Trial("x", {"optimizer.lr": rate, "seed": 1}, None, {}).setting == said


def test_numbers_are_relative_to_the_baseline(swept: Selection) -> None:
    found = rows(swept.trials, ["equivalent"] * 12)
    related = relative_to(found[0], found)
    slow = related[2].values
    assert slow["seconds_relative"] == pytest.approx(2) and slow["speed"] == pytest.approx(0.5, rel=1e-3)
    assert slow["speed_std"] == pytest.approx(0.5 * np.std([1, 1 / 1.01, 1 / 1.02], ddof=1), rel=0.02)
    assert related[0].values["final/loss_relative"] == pytest.approx(1) and related[0].values["speed"] == pytest.approx(1)
    assert slow["verdict"] == "equivalent" and slow["method"] == "autograd" and slow["optimizer.lr"] == 1e-7


def test_what_blew_up_or_failed_is_counted_and_not_averaged(tmp_path: Path) -> None:
    planned = grid(METHODS, (1e-6,), SEEDS, steps=20)
    planned[0] |= {"blew_up_at_step": 7}
    planned[1] |= {"status": "FAILED", "error": "it broke"}
    del planned[5]["losses"]
    written_sweep(tmp_path, planned)
    found = rows(selected(tmp_path, "latest").trials, [None] * 6)
    assert (found[0].n, found[0].failures, found[1].n, found[1].failures) == (1, 2, 2, 0)
    assert found[0].numbers["final/loss"].values == (planned[2]["losses"][-1],)
    said = notes(found, found[1])
    assert [line for line in said if line.startswith("blew up: 1 of 6 runs, not in the numbers: numpy lr=1e-06 seed=0")]
    assert any(line.startswith("failed: 1 of 6") for line in said) and any(line.startswith("planned: 1 of 6") for line in said)


@pytest.mark.parametrize(
    "asked",
    ["method=autograd", "autograd lr=1e-7", "method=autograd lr=1e-7", "lr=1e-07,method=autograd", "autograd lr=1e-07 seed=2"],
)
def test_the_baseline_is_a_setting_a_run_or_factors(asked: str, swept: Selection) -> None:
    assert baseline_of(rows(swept.trials, [None] * 12), asked).setting == "autograd lr=1e-7"


def test_the_baseline_is_a_run_folder_or_the_first_that_finished(swept: Selection, tmp_path: Path) -> None:
    found = rows(swept.trials, [None] * 12)
    last = swept.trials[-1]
    assert last.folder and baseline_of(found, str(last.folder.path)).setting == last.setting
    assert baseline_of(found, None) is found[0]
    with pytest.raises(InputError, match=r"^baseline=method=nupy: none of the compared runs; choose method=numpy,"):
        baseline_of(found, "method=nupy")


def test_where_n_cannot_tell_two_settings_apart_it_is_said(swept: Selection) -> None:
    found = rows(swept.trials, [None] * 12)
    unclear = indistinct(found, found[0])
    best = ("autograd lr=1e-6", "numpy lr=1e-6", 3)
    assert [(each.first, each.second, each.n) for each in unclear] == [("numpy lr=1e-7", "autograd lr=1e-7", 3), best]
    assert str(unclear[0]).startswith("n = 3 cannot tell numpy lr=1e-7 and autograd lr=1e-7 apart: 95 % interval of the ratio")
    alone = rows([trial for trial in swept.trials if trial.factors["seed"] == 0], [None] * 4)
    said = "one run shows no spread; sweep seed=0,1,2 too"
    assert notes(alone, alone[0])[0] == f"warning: n = 1 cannot tell any two of the 4 settings apart: {said}"
    two = f"warning: n = 1 cannot tell numpy lr=1e-7 and numpy lr=1e-6 apart: {said}"
    assert notes(alone[:2], alone[0])[0] == two
    mixed = [alone[0], *found[1:]]
    assert notes(mixed, mixed[0])[0] == f"warning: n = 1 cannot tell numpy lr=1e-7 from any other setting: {said}"
    mixed = [*alone[:2], *found[2:]]
    which = "numpy lr=1e-7 or numpy lr=1e-6"
    assert notes(mixed, mixed[0])[0] == f"warning: n = 1 cannot tell {which} from any other setting: {said}"


# Verdicts


def test_a_verdict_is_the_runs_own_or_that_of_a_verification_of_the_same_step(tmp_path: Path) -> None:
    own = {"method": {"_target_": "N"}, "optimizer": {"lr": 1e-6, "momentum": 0.0}, "seed": 0, "problem": {"seed": 0}}

    def trained(name: str, **changes: Any) -> Trial:
        folder = written_run(tmp_path, name, falling(5, 0.1), config=own | changes.pop("config", {}), **changes)
        return Trial(name, {}, folder, folder.status())

    written_run(tmp_path, "old", np.empty(0), task="verify", verdict="different", started=1.0, config=own)
    judged = own | {"optimizer": {"lr": 0.5, "momentum": 0.0}, "problem": {"seed": 9}}
    written_run(tmp_path, "new", np.empty(0), task="verify", verdict="equivalent", started=2.0, config=judged)
    cases = [
        (trained("same"), "equivalent"),
        (trained("own", verdict="different"), "different"),
        (trained("momentum", config={"optimizer": {"lr": 1e-6, "momentum": 0.5}}), None),
        (trained("precision", choices={"precision": "fp64"}), None),
        (trained("code", environment=environment(sources={"exp/training.py": "zz"})), None),
    ]
    assert verdicts([trial for trial, _ in cases], tmp_path) == [verdict for _, verdict in cases]


# Curves


def test_a_band_is_mean_least_and_greatest_and_as_long_as_the_longest() -> None:
    found = band([np.array([1.0, 2.0]), np.array([3.0, 6.0, 5.0])])
    np.testing.assert_array_equal([found.mean, found.low, found.high], [[2, 4, 5], [1, 2, 5], [3, 6, 5]])


def test_distances_pair_the_runs_of_one_seed(swept: Selection) -> None:
    found = rows(swept.trials, [None] * 12)
    same = distances(found[0], found[0])
    assert not same.high.any() and len(same.high) == 40
    apart = distances(found[2], found[0])
    expected = [
        np.abs(other.losses - base.losses) / base.losses for other, base in zip(found[2].trials, found[0].trials, strict=True)
    ]
    np.testing.assert_allclose(apart.mean, np.mean(expected, axis=0), rtol=1e-12)
    assert losses(found[0]).n == 3


def test_the_time_to_a_loss_is_when_it_was_first_reached(tmp_path: Path) -> None:
    folder = written_run(tmp_path, "one", np.array([8.0, 4.0, 6.0, 2.0, 1.0]), step_seconds=0.5)
    trial = Trial("one", {}, folder, folder.status())
    np.testing.assert_allclose(trial.seconds, [0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(time_to(trial, np.array([8.0, 5.0, 2.0, 1.5, 0.5])), [0.5, 1, 2, 2.5, np.nan])
    found = rows([trial], [None])
    assert (levels(found)[0], levels(found)[-1]) == (pytest.approx(8), pytest.approx(1))


def test_within_a_block_the_steps_are_taken_as_equally_long() -> None:
    times = np.array([10.0, 12.0, 12.0, 12.0, 12.0, 14.0])
    np.testing.assert_allclose(seconds_of(times, 1.0), [1, 1.5, 2, 2.5, 3, 5])


# What is written, and asked


def test_a_condition_is_asked_of_every_row(swept: Selection, tmp_path: Path) -> None:
    comparison = compared(swept, tmp_path, None)
    assert comparison.unmet("require", "final/loss < 99 and n == 3 and failures == 0 and speed > 0.4") == []
    assert comparison.unmet("require", "optimizer.lr < 5e-7 or method == numpy") == ["autograd lr=1e-6"]
    assert comparison.unmet("require", "verdict == equivalent") == [row.setting for row in comparison.rows]
    with pytest.raises(InputError, match=r"^require=final/los < 1: .*nearest: final/loss"):
        comparison.unmet("require", "final/los < 1")
    unfinished = [run | {"status": "RUNNING", "metrics": {}} for run in runs_of()]
    written_sweep(tmp_path / "other", unfinished)
    early = compared(selected(tmp_path / "other", "latest"), tmp_path, None)
    assert early.unmet("require", "final/loss < 99 and speed > 0.4") == [row.setting for row in early.rows]


def test_csv_and_json_hold_the_table(swept: Selection, tmp_path: Path) -> None:
    import pandas

    comparison = compared(swept, tmp_path, "method=autograd")
    (tmp_path / "table.csv").write_text(comparison.csv())
    table = pandas.read_csv(tmp_path / "table.csv")
    stored = json.loads(comparison.json())
    assert list(table["setting"]) == [row["setting"] for row in stored["table"]] == [row.setting for row in comparison.rows]
    np.testing.assert_array_equal(table["final/loss"], [row["final/loss"] for row in stored["table"]])
    assert stored["baseline"] == "autograd lr=1e-7" and len(stored["runs"]) == 12
    assert stored["declared"] == ["method", "optimizer.lr", "seed"] and stored["differences"] == []
    assert ["versions.numpy", "2.4.0"] in stored["environment"]


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    planned = [{key: run[key] for key in ("name", "factors")} for run in runs_of()]
    written_sweep(tmp_path, planned)
    with pytest.raises(
        InputError,
        match=r"^sweep=latest: nothing to compare: 0 of 4 runs in .*-sweep-\w+ have measured anything \(4 planned\); name",
    ):
        compared(selected(tmp_path, "latest"), tmp_path, None)
    going_on = [run | {"status": "RUNNING", "losses": falling(0, 0.1), "metrics": {}} for run in runs_of()]
    written_sweep(tmp_path / "going_on", going_on)
    with pytest.raises(InputError, match=r"\(4 running\); wait until one has$"):
        compared(selected(tmp_path / "going_on", "latest"), tmp_path, None)
    failed = {"status": "FAILED", "losses": falling(0, 0.1), "metrics": {}}
    sweep = written_sweep(tmp_path, [run | failed for run in runs_of()])
    said = "nothing to compare: 0 of 4 runs have measured anything (4 failed); name other runs or another sweep"
    with pytest.raises(InputError, match=rf"^sweep={sweep.path.name}: {re.escape(said)}$"):
        compared(selected(tmp_path, sweep.path.name), tmp_path, None)
    named = [folder.path.name for folder in run_folders(tmp_path)[:2]]
    with pytest.raises(InputError, match=rf"^runs=\[{','.join(named)}\]: nothing to compare: 0 of 2 runs have "):
        compared(selected(tmp_path, "latest", named), tmp_path, None)
    alone = written_sweep(tmp_path, [runs_of()[0]]).path.name
    said = "is a sweep of one run; there is nothing to compare it with"
    with pytest.raises(InputError, match=f"^sweep=latest: {alone} {said}"):
        selected(tmp_path, "latest")
    with pytest.raises(InputError, match=f"^sweep={alone}: {said}"):
        selected(tmp_path, alone)
    with pytest.raises(InputError, match="there is no sweep in"):
        selected(tmp_path / "nowhere", "latest")


# The live table


def test_the_live_table_has_state_step_loss_pace_time_left_and_failures(tmp_path: Path) -> None:
    planned = runs_of()
    planned[0] |= {"started": 100.0, "ended": 104.0}
    planned[1] |= {"status": "RUNNING", "metrics": {}, "config": {"training": {"steps": 60}}}
    planned[2] |= {"status": "FAILED", "error": "ZeroDivisionError: nothing to divide by"}
    del planned[3]["losses"]
    written_sweep(tmp_path, planned)
    selection = selected(tmp_path, "latest")
    found = {row[0]: row[1:] for row in live_rows(selection)}
    first, second, third, fourth = (run["name"] for run in planned)
    assert found[first][:2] == ["finished", "20/20"] and found[first][3] == "1e+03"
    assert found[second][:2] == ["running", "20/60"] and float(found[second][3]) == pytest.approx(1 / 1.01e-3, rel=0.02)
    assert found[second][4] == "1 s" and found[third][0] == "failed: ZeroDivisionError: nothing to divide by"
    assert found[fourth] == ["planned", "–", "–", "–", "–"]
    assert time_left(selection) == pytest.approx(4 + 40 * 1.01e-3, rel=0.05)
    assert summary_line(selection) == "4 runs: 1 finished, 1 running, 1 failed, 1 planned; failures 1; time left 5 s"
    assert not over(selection)


# Memory


def test_the_memory_of_a_run_is_its_own() -> None:
    held = np.ones(30_000_000 // 8)  # of an earlier run: not counted
    taken = measured(None)
    if "memory/host_bytes" not in taken():
        pytest.skip("this system does not tell")
    block = np.ones(50_000_000 // 8)
    del block
    assert 45e6 < taken()["memory/host_bytes"] < 70e6
    assert measured(None)()["memory/host_bytes"] < 5e6 and held.any()


def test_a_curve_that_blew_up_does_not_press_the_others_flat(tmp_path: Path) -> None:
    planned = grid(METHODS, (1e-6,), (0,), steps=20)
    planned[1] |= {"losses": np.array([100.0, 1e9, 1e30]), "blew_up_at_step": 3}
    written_sweep(tmp_path, planned)
    comparison = compared(selected(tmp_path, "latest"), tmp_path, None)
    layout = loss_curves(comparison.rows)["layout"]
    low, high = np.log10([planned[0]["losses"].min(), planned[0]["losses"].max()])
    assert layout["yaxis"]["range"] == layout["meta"]["log"] == pytest.approx([low - 0.1, high + 0.1])
    assert "range" not in loss_curves(comparison.rows[:1])["layout"]["yaxis"]
