"""Which runs a sweep has: what is described in `conf/sweep` and what is typed, together; and the values as they are typed."""

import math
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from exp import registry
from exp.composition import axis_parser, axis_values, compose, resolved
from exp.configuration import described_sweep, instantiate
from exp.errors import InputError
from exp.override_text import meaning, value_text
from exp.sweep.specification import Part, Setting, Sweep, excluded, expand


def plain(key: str, text: str) -> list[str]:
    """Stands for Hydra's parser."""
    return {"glob(*)": ["autograd", "numpy"], "none()": []}.get(text) or [word for word in text.split(",") if word != "none()"]


def runs(
    sweep: Sweep, axes: dict[str, list[str]] | None = None, constants: dict[str, str] | None = None, seed: int = 0
) -> list[str]:
    """Every setting on a line, as it would be typed."""
    found = expand(sweep, axes or {}, constants or {}, seed, plain)
    return [" ".join(f"{key}={value}" for key, value in setting.values.items()) for setting in found]


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


GRID = Sweep(grid={"method": ["numpy", "tensor"], "optimizer.lr": [1e-6, 1e-5]})
ZIP = Sweep(zip={"network.hidden": [[7], [5, 4]], "training.batch_size": [None, 32]})
UNION = Sweep(
    grid={"precision": ["fp32", "fp64"]},
    union=[{"grid": {"method": "numpy", "seed": [3]}}, {"zip": {"method": ["tensor", "module"], "seed": [1, 2]}}],
)


def test_what_is_typed_alone_is_every_combination_first_slowest() -> None:
    assert runs(Sweep(), {"seed": ["0", "1"], "method": ["numpy", "tensor"]}) == [
        "seed=0 method=numpy",
        "seed=0 method=tensor",
        "seed=1 method=numpy",
        "seed=1 method=tensor",
    ]
    assert runs(Sweep()) == [""]


def test_a_grid_is_every_combination() -> None:
    assert runs(GRID) == [
        "method=numpy optimizer.lr=1e-6",
        "method=numpy optimizer.lr=1e-5",
        "method=tensor optimizer.lr=1e-6",
        "method=tensor optimizer.lr=1e-5",
    ]


def test_nested_keys_single_values_and_texts() -> None:
    nested = Sweep(grid={"optimizer": {"lr": [1e-6], "betas": [[0.9, 0.99]]}, "method": "glob(*)", "device": "cpu", "seed": 3})
    assert runs(nested) == [
        f"optimizer.lr=1e-6 optimizer.betas=[0.9,0.99] method={method} device=cpu seed=3" for method in ("autograd", "numpy")
    ]


def test_a_zip_takes_the_values_together() -> None:
    assert runs(ZIP) == ["network.hidden=[7] training.batch_size=null", "network.hidden=[5,4] training.batch_size=32"]
    both = Sweep(grid={"method": ["numpy", "tensor"]}, zip=ZIP.zip)
    assert [line.split()[0] for line in runs(both)] == ["method=numpy"] * 2 + ["method=tensor"] * 2


def test_a_union_is_its_parts_one_after_the_other() -> None:
    assert runs(UNION) == [
        "precision=fp32 method=numpy seed=3",
        "precision=fp64 method=numpy seed=3",
        "precision=fp32 method=tensor seed=1",
        "precision=fp32 method=module seed=2",
        "precision=fp64 method=tensor seed=1",
        "precision=fp64 method=module seed=2",
    ]


def test_what_several_parts_have_is_run_once() -> None:
    overlapping = Sweep(union=[{"grid": {"lr": [1e-6, 1e-7]}}, {"grid": {"lr": ["1e-7", "1e-8"]}}, {"grid": {"lr": "1e-06"}}])
    found = expand(overlapping, {}, {}, 0, plain)
    assert [setting.parts for setting in found if setting.values["lr"] == "1e-6"] == [(0, 2)]
    quoted = Sweep(union=[{"grid": {"a": "x", "b": "y"}}, {"grid": {"b": "y", "a": ["x", "z"]}}])
    assert expand(quoted, {}, {}, 0, plain) == [
        Setting({"a": "x", "b": "y"}, (0, 1)),
        Setting({"b": "y", "a": "z"}, (1,)),
    ]


def test_typed_values_replace_described_ones_in_place() -> None:
    assert runs(GRID, {"method": ["module", "function"]}) == [
        "method=module optimizer.lr=1e-6",
        "method=module optimizer.lr=1e-5",
        "method=function optimizer.lr=1e-6",
        "method=function optimizer.lr=1e-5",
    ]
    assert runs(GRID, {"+method": ["module"]}, {"+optimizer.lr": "1"}) == ["+method=module"]


def test_a_typed_constant_removes_the_axis() -> None:
    assert runs(GRID, constants={"method": "numpy"}) == ["optimizer.lr=1e-6", "optimizer.lr=1e-5"]
    assert runs(GRID, constants={"method": "numpy", "optimizer.lr": "1"}) == [""]
    assert runs(ZIP, constants={"training.batch_size": "16"}) == ["network.hidden=[7]", "network.hidden=[5,4]"]
    assert runs(ZIP, constants={"training.batch_size": "16", "network.hidden": "[3]"}) == [""]


def test_typed_values_in_a_zip_are_as_many() -> None:
    assert runs(ZIP, {"training.batch_size": ["4", "3"]})[1] == "network.hidden=[5,4] training.batch_size=3"
    said = refused(runs, ZIP, {"training.batch_size": ["5", "4", "3"]})
    assert said == ("sweep.zip: network.hidden has 2 and training.batch_size has 3 typed values; give both the same number")


def test_what_else_is_typed_multiplies_every_part() -> None:
    assert runs(ZIP, {"seed": ["0", "1"]}) == [f"{line} seed={seed}" for line in runs(ZIP) for seed in (0, 1)]
    union = Sweep(union=[{"grid": {"method": ["numpy"]}}, {"grid": {"precision": ["fp64"]}}])
    assert runs(union, {"method": ["tensor", "module"]}) == [
        "method=tensor",
        "method=module",
        "precision=fp64 method=tensor",
        "precision=fp64 method=module",
    ]


def test_repeats_are_the_fastest_axis_from_the_seed_on() -> None:
    repeated = Sweep(grid={"method": ["numpy", "tensor"]}, repeats=2)
    assert runs(repeated, seed=7) == [f"method={method} seed={seed}" for method in ("numpy", "tensor") for seed in (7, 8)]
    assert runs(Sweep(repeats=3), {"problem.seed": ["1"]}, {"seed": "4"}, seed=4) == [
        f"problem.seed=1 seed={seed}" for seed in (4, 5, 6)
    ]
    assert len(runs(Sweep(repeats=2, grid={"seed": [0, 1]}), constants={"seed": "5"}, seed=5)) == 2


@pytest.mark.parametrize(
    ("sweep", "axes"),
    [
        (Sweep(repeats=2, grid={"seed": [0, 1]}), {}),
        (Sweep(repeats=2, zip={"seed": [0, 1]}), {}),
        (Sweep(repeats=2, union=[{"grid": {"seed": [0]}}]), {}),
        (Sweep(repeats=2), {"seed": ["0", "1"]}),
    ],
)
def test_repeats_and_seeds_exclude_each_other(sweep: Sweep, axes: dict[str, list[str]]) -> None:
    assert refused(runs, sweep, axes).startswith("sweep.repeats=2: ") and "leave one of them" in refused(runs, sweep, axes)


@pytest.mark.parametrize(
    ("described", "start"),
    [
        ({"repeats": 0}, "repeats=0: allowed: a whole number >= 1"),
        ({"rerun": "fail"}, "rerun=fail: choose failed, all or missing"),
        ({"grid": {"method": []}}, "grid.method=[]: has no values; give some, or leave method out"),
        ({"zip": {"method": []}}, "zip.method=[]: has no values"),
        ({"grid": {"optimizer": {}}}, "grid.optimizer={}: has no values"),
        ({"grid": {"a.b": [1], "a": {"b": [2]}}}, "grid.a.b: is given twice"),
        ({"grid": {"a": [1]}, "zip": {"a": [1]}}, "grid.a: is given in zip too"),
        ({"grid": {"a": [1]}, "union": [{}, {"grid": {"a": [2]}}]}, "union.1.grid.a: is given in grid too"),
        ({"zip": {"a": [1]}, "union": [{"grid": {"a": [2]}}]}, "union.0.grid.a: is given in zip too"),
        ({"grid": {"a": [1]}, "union": [{"zip": {"a": [2]}}]}, "union.0.zip.a: is given in grid too"),
        ({"union": [{"grid": {"a": [1]}, "zip": {"a": [2]}}]}, "union.0.grid.a: is given in zip too"),
        ({"union": [{"gird": {"a": [1]}}]}, "union.0.gird: no such key of a part; nearest: grid,"),
        ({"union": [5]}, "union.0=5: allowed: a part, such as"),
        ({"union": [{"grid": 5}]}, "union.0.grid=5: allowed: keys with their values"),
        ({"union": [{"zip": None}]}, "union.0.zip=null: allowed: keys with their values"),
        ({"union": [{"exclude": "seed == 1"}]}, "union.0.exclude=seed == 1: allowed: a list of conditions"),
        ({"union": [{"exclude": [5]}]}, "union.0.exclude=5: allowed: a condition"),
        ({"union": [{"grid": {"a": []}}]}, "union.0.grid.a=[]: has no values"),
        ({"exclude": ["a = 1"]}, "exclude=a = 1: cannot be read"),
        ({"grid": {"sweep": ["x"]}}, "grid.sweep: cannot be swept: all runs of a sweep have one folder"),
        ({"grid": {"task": "train"}}, "grid.task: cannot be swept"),
        ({"grid": {"+tracker.uri": ["a"]}}, "grid.+tracker.uri: cannot be swept"),
        ({"zip": {"runs": ["a"]}}, "zip.runs: cannot be swept"),
        ({"grid": {"tracker": {"uri": ["a"]}}}, "grid.tracker.uri: cannot be swept"),
        ({"union": [{"grid": {"hydra/launcher": ["a"]}}]}, "union.0.grid.hydra/launcher: cannot be swept"),
    ],
)
def test_a_description_that_cannot_be_is_one_line(described: dict[str, Any], start: str) -> None:
    assert refused(Sweep, **described).startswith(start), refused(Sweep, **described)


@pytest.mark.parametrize(
    ("sweep", "axes", "start"),
    [
        (Sweep(zip={"a": [1, 2, 3], "b": [1, 2]}), {}, "sweep.zip: a has 3 and b has 2 values; give both the same number"),
        (Sweep(union=[{}, {"zip": {"a": [1], "b": "1,2"}}]), {}, "sweep.union.1.zip: a has 1 and b has 2 values"),
        (Sweep(grid={"a": "none()"}), {}, "sweep.grid.a=[]: has no values"),
        (Sweep(), {"a": []}, "a=[]: has no values"),
        (Sweep(), {"tracker": ["a", "b"]}, "tracker: cannot be swept"),
        (Sweep(), {"+task.port": ["1", "2"]}, "task.port: cannot be swept"),
        (Sweep(grid={"lr": [1e-6, 1e-5, 1e-6]}), {}, "sweep.grid.lr=1e-6: is there twice; give every value once"),
        (Sweep(), {"lr": ["1e-6", "1e-06"]}, "lr=1e-06: is there twice"),
        (Sweep(grid={"lr": [math.nan, math.nan]}), {}, "sweep.grid.lr=nan: is there twice"),
        (Sweep(zip={"a": [1, 2, 1], "b": [3, 3, 3]}), {}, "sweep.zip=1,3: is there twice"),
    ],
)
def test_axes_that_cannot_be_are_one_line(sweep: Sweep, axes: dict[str, list[str]], start: str) -> None:
    assert refused(runs, sweep, axes).startswith(start), refused(runs, sweep, axes)


@pytest.mark.parametrize(("given", "fuse"), [("off", "off"), (False, "off"), ("auto", "auto"), (64, "64"), ("64", "64")])
def test_what_is_fused_is_written_in_a_file_as_on_the_command_line(given: Any, fuse: str) -> None:
    """YAML reads a plain `off` as false."""
    assert described_sweep({"sweep": {"_target_": "exp.sweep.specification.Sweep", "fuse": given}}, []).fuse == fuse


@pytest.mark.parametrize("given", [True, None, [3], 0, 1, 3.5, "abc"])
def test_what_is_fused_is_auto_off_or_a_number(given: Any) -> None:
    with pytest.raises(InputError, match=r"auto, off, or how many runs at most, a whole number >= 2"):
        described_sweep({"sweep": {"_target_": "exp.sweep.specification.Sweep", "fuse": given}}, [])


def test_large_seeds_are_told_apart() -> None:
    assert len(runs(Sweep(grid={"seed": [2**53, 2**53 + 1]}))) == 2


def test_a_key_that_only_begins_alike_may_be_swept() -> None:
    assert runs(Sweep(grid={"trackers": [1], "runs_": [2]})) == ["trackers=1 runs_=2"]


# What is excluded.


def test_a_condition_of_the_sweep_or_of_every_part_excludes() -> None:
    sweep = Sweep(
        exclude=["seed == 9"],
        union=[
            {"grid": {"seed": [0, 1]}, "exclude": ["seed == 1"]},
            {"grid": {"seed": [1, 9]}, "exclude": ["method == tensor"]},
        ],
    )
    first, second, third = expand(sweep, {}, {}, 0, plain)
    assert (first.parts, second.parts, third.parts) == ((0,), (0, 1), (1,))
    assert excluded(sweep, first, {"seed": 0, "method": "numpy"}) is None
    assert excluded(sweep, second, {"seed": 1, "method": "numpy"}) is None, "the second part has it"
    assert excluded(sweep, second, {"seed": 1, "method": "tensor"}) == "seed == 1"
    assert excluded(sweep, third, {"seed": 9, "method": "numpy"}) == "seed == 9"


def test_settings_are_separated_by_the_columns_of_all_rows() -> None:
    """A key that only some choices have is no mistake."""
    sweep = Sweep(grid={"optimizer": ["sgd", "momentum"]}, exclude=["optimizer.momentum > 0.5"])
    found = expand(sweep, {}, {}, 0, plain)
    rows = [{"optimizer": "sgd"}, {"optimizer": "momentum", "optimizer.momentum": 0.9}]
    names = ["optimizer", "optimizer.momentum"]
    left_out = [excluded(sweep, setting, row, names) for setting, row in zip(found, rows, strict=True)]
    assert left_out == [None, "optimizer.momentum > 0.5"]
    assert "optimizer.momentum is no name here" in refused(excluded, sweep, found[0], rows[0])


def test_an_error_in_a_condition_names_its_key() -> None:
    sweep = Sweep(exclude=["sed == 1"], union=[{}, {"exclude": ["methd == 1"]}])
    row = {"seed": 1, "method": "numpy"}
    assert refused(excluded, sweep, Setting({}, (1,)), row).startswith("sweep.exclude=sed == 1: sed is no name here")
    sweep.exclude = []
    assert refused(excluded, sweep, Setting({}, (1,)), row).startswith("sweep.union.1.exclude=methd == 1: methd is no name")


# Values as they are typed.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1e-6"),
        (1.5, "1.5"),
        (0.1234567891, "0.1234567891"),
        (1e22, "1e22"),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ("numpy", "numpy"),
        ("a b", "'a b'"),
        ("1e-6", "'1e-6'"),
        ("null", "'null'"),
        ("nan", "'nan'"),
        ("", "''"),
        ("it's", r"'it\'s'"),
        ("data/my.csv", "data/my.csv"),
        ([100, 50], "[100,50]"),
        (["a", 1e-6, None, [True]], "[a,1e-6,null,[true]]"),
        ({"a": 1, "b c": "x,y"}, "{a:1,'b c':'x,y'}"),
    ],
)
def test_a_value_is_written_as_it_would_be_typed(value: object, text: str) -> None:
    assert value_text(value) == text


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    ["\\", "\\'", "'\\", "a\\", "TRUE", "Inf", "-nan", ".5", "1_0", "a+b", "x%y", "./a", "a@b", "..", "-", "null", "e5", "a-1"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(values)
def test_hydra_reads_what_was_written(value: object) -> None:
    read: Any = OverridesParser.create().parse_override(f"key={value_text(value)}").value()
    assert read == value and repr(read) == repr(value)


def test_texts_of_one_number_mean_the_same() -> None:
    assert meaning("1e-6") == meaning("1e-06") == meaning("0.000001") != meaning("1e-7")
    assert meaning("1") == meaning("1.0") == meaning("1e0")
    assert meaning("numpy") == "numpy" and meaning("'1'") != meaning("1")


@pytest.fixture
def loader() -> Any:
    """Hydra's, of the folder `conf/`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(registry.conf_folder()), version_base="1.3"):
        hydra_compose("config")
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("optimizer.lr", "1e-7,1e-06", ["1e-7", "1e-6"]),
        ("seed", "range(0,3)", ["0", "1", "2"]),
        ("a", "range(0,0.3,0.1)", ["0.0", "0.1", "0.2"]),
        ("network.hidden", "[100,50],[7]", ["[100,50]", "[7]"]),
        ("method", "numpy", ["numpy"]),
        ("method", "choice(numpy,'tensor')", ["numpy", "tensor"]),
        ("name", "'a b','1',true,null", ["'a b'", "'1'", "true", "null"]),
        ("debug", "glob(*)", ["fast", "'nan'"]),
        ("method", "glob(f*)", ["function", "functional"]),
        ("method", "glob(nothing*)", []),
    ],
)
def test_hydra_splits_a_text(key: str, text: str, expected: list[str], loader: Any) -> None:
    assert axis_parser(loader)(key, text) == expected
    override = OverridesParser.create(config_loader=loader).parse_overrides([f"{key}={text}"])[0]
    assert axis_values(override) == expected


@pytest.mark.parametrize("text", ["interval(0,1)", "[1", "a=b=c'", "range(0,1,0.0)"])
def test_what_hydra_cannot_split_is_one_line(text: str, loader: Any) -> None:
    sweep = Sweep(grid={"seed": text})
    assert refused(expand, sweep, {}, {}, 0, axis_parser(loader)).startswith(f"sweep.grid.seed={text}: ")


@pytest.mark.parametrize(
    ("text", "problem"), [("interval(0,1)", "allowed: values, such as"), ("range(0,1,0.0)", "cannot be read as values: ")]
)
def test_what_was_typed_and_has_no_values_is_one_line(text: str, problem: str) -> None:
    override = OverridesParser.create().parse_overrides([f"seed={text}"])[0]
    assert refused(axis_values, override).startswith(f"seed={text}: {problem}")


# conf/sweep and the configuration.


def described(*typed: str) -> Sweep:
    config, _, overrides = compose(list(typed))
    return described_sweep(resolved(config), overrides)


@pytest.mark.parametrize("choice", registry.choices("sweep"))
def test_every_choice_is_a_sweep_that_expands(choice: str, loader: Any) -> None:
    sweep = described(f"sweep={choice}", "sweep.rerun=all")
    assert sweep.rerun == "all" and expand(sweep, {}, {}, 0, axis_parser(loader))


def test_the_choices_have_the_runs_they_promise(loader: Any) -> None:
    count = {choice: len(expand(described(f"sweep={choice}"), {}, {}, 0, axis_parser(loader))) for choice in ("typed", "seeds")}
    assert count == {"typed": 1, "seeds": 5}
    methods = expand(described("sweep=methods"), {}, {}, 0, axis_parser(loader))
    assert [setting.values["method"] for setting in methods] == [*registry.choices("method")]
    rates = [setting.values["optimizer.lr"] for setting in expand(described("sweep=learning_rate"), {}, {}, 0, plain)]
    default = yaml.safe_load((registry.conf_folder() / "optimizer" / "sgd.yaml").read_text())["lr"]
    assert default in rates and rates.index(default) not in (0, len(rates) - 1)


def test_the_default_describes_nothing() -> None:
    assert described() == Sweep()


def test_keys_are_the_users_own_and_classes_are_not_called() -> None:
    sweep = described("+sweep.grid={optimizer.lr:[1e-6],network:{hidden:[[5],[6,7]]}}")
    assert runs(sweep) == ["optimizer.lr=1e-6 network.hidden=[5]", "optimizer.lr=1e-6 network.hidden=[6,7]"]
    called = described("+sweep.grid={method:{_target_:[builtins.exit]}}", "+sweep.zip={_target_:builtins.exit}")
    assert runs(called) == ["method._target_=builtins.exit _target_=builtins.exit"]
    assert runs(described("+sweep.grid.seed='${threads}'")) == ["seed=1"]


def test_a_run_does_not_know_the_sweep() -> None:
    """It is the same run in every sweep, and alone."""
    experiment, _ = instantiate(*compose(["sweep=seeds", "sweep.rerun=all"]))
    alone, _ = instantiate(*compose([]))
    assert (experiment.config, experiment.choices, experiment.name) == (alone.config, alone.choices, alone.name)


def test_a_part_is_a_description_too() -> None:
    assert Part(grid={"optimizer": {"lr": [1]}}).grid == {"optimizer.lr": [1]}
