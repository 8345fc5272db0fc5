"""Data: digests, splits, scaling, tables in files, what is said of bad ones, and predictions in the user's units."""

import gc
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import sklearn.metrics
from sklearn.datasets import load_diabetes, load_digits

import exp
from exp.errors import InputError
from exp.problems import Data, Diabetes, Digits, Problem, Random, Scaling, Table
from exp.recorded import Run

ROWS = 25
COLUMNS = {
    "age": np.arange(ROWS) % 7 + 20.0,
    "height": np.random.default_rng(0).standard_normal(ROWS) * 10 + 170,
    "smoker": np.arange(ROWS) % 3 == 0,
    "children": np.arange(ROWS) % 4,
    "income": np.random.default_rng(1).standard_normal(ROWS) * 1e4 + 5e4,
}


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.csv.write_csv(pyarrow.table(columns), path)
    return path


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_npz(path: Path, columns: dict[str, Any]) -> Path:
    np.savez(path, allow_pickle=True, **columns)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {"csv": write_csv, "parquet": write_parquet, "npz": write_npz}
every_format = pytest.mark.parametrize("suffix", WRITERS)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(path=str(write_csv(tmp_path / "people.csv", COLUMNS)), target="income")


def all_rows(data: Data, name: str) -> np.ndarray:
    """`name` of both splits, one after the other."""
    return np.concatenate([getattr(split, name) for split in (data.train, data.valid) if split])


def as_set(rows: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, rows.reshape(len(rows), -1).tolist()))


# Splits and scaling


def problems(path: str) -> dict[str, Problem]:
    return {
        "random": Random(samples=9, inputs=7, outputs=3),
        "digits": Digits(),
        "diabetes": Diabetes(),
        "table": Table(path=path, target="income"),
        "table of classes": Table(path=path, target="children", classes=True),
    }


@pytest.mark.parametrize("name", ["random", "digits", "diabetes", "table", "table of classes"])
def test_digest_is_the_seeds(name: str, table: Table):
    problem = problems(table.path)[name]
    digests = [replace(problem, seed=seed).load().digest for seed in (0, 1, 2)]
    assert replace(problem, seed=0).load().digest == digests[0]
    assert len(set(digests)) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_digest_covers_every_array_of_both_splits(table: Table):
    data = table.load()
    found = [data.digest]
    for split in (data.train, data.valid):
        assert split
        for array in (split.inputs, split.targets):
            array[-1, -1] += 1e-9
            found.append(replace(data).digest)
    assert len(set(found)) == 5


def test_the_digest_of_data_that_runs_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = Random(samples=4).load(), []
    monkeypatch.setattr("exp.problems.digest", lambda arrays: asked.append(arrays) or "digest")
    assert (data.digest, data.digest, len(asked)) == ("digest", "digest", 1)


def test_random_is_standard_normal_and_has_no_validation():
    data = Random(samples=64, inputs=1000, outputs=10).load()
    assert (data.train.inputs.shape, data.train.targets.shape) == ((64, 1000), (64, 10))
    assert data.valid is None and data.classes is None
    for array in (data.train.inputs, data.train.targets):
        assert array.dtype == np.float64
        # Six standard errors of a mean and of a variance.
        assert abs(array.mean()) < 6 / np.sqrt(array.size)
        assert abs(array.var() - 1) < 6 * np.sqrt(2 / array.size)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("name", ["digits", "diabetes", "table"])
def test_splits_are_disjoint_and_cover_the_rows(name: str, fraction: float, table: Table):
    problem: Any = replace(problems(table.path)[name], valid_fraction=fraction)
    whole = replace(problem, valid_fraction=0.0).load()
    data = problem.load()
    assert whole.valid is None and data.valid
    rows = len(whole.train.x)
    assert len(data.valid.x) == round(fraction * rows)
    assert as_set(np.column_stack([all_rows(data, "x"), all_rows(data, "y")])) == as_set(
        np.column_stack([whole.train.x, whole.train.y])
    )


def test_columns_are_scaled_by_the_training_rows_only(table: Table):
    for problem in (table, Diabetes()):
        data = problem.load()
        assert data.valid and data.input_scaling and data.target_scaling
        for name, raw, scaling in (("inputs", "x", data.input_scaling), ("targets", "y", data.target_scaling)):
            train, valid = getattr(data.train, raw), getattr(data.valid, raw)
            scaled = getattr(data.train, name)
            # The mean and deviation of at most 354 numbers of size 1.
            np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)
            expected = (valid - train.mean(axis=0)) / train.std(axis=0)
            np.testing.assert_allclose(getattr(data.valid, name), expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(scaling.invert(getattr(data.valid, name)), valid, rtol=1e-12)


def test_validation_rows_change_no_training_row(tmp_path: Path, table: Table):
    data = table.load()
    assert data.valid
    spoiled = {name: column.copy() for name, column in COLUMNS.items()}
    in_valid = np.isin(COLUMNS["income"], data.valid.y)
    for name in ("age", "height", "income"):
        spoiled[name][in_valid] += 1e6
    other = replace(table, path=str(write_csv(tmp_path / "spoiled.csv", spoiled))).load()
    assert np.array_equal(other.train.inputs, data.train.inputs)
    assert np.array_equal(other.train.targets, data.train.targets)


def test_constant_column_is_only_shifted(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", COLUMNS | {"constant": np.full(ROWS, 0.1)})
    data = Table(path=str(path), target="income").load()
    constant = data.train.inputs[:, data.columns.index("constant")]
    np.testing.assert_allclose(constant, 0, atol=1e-15)
    assert np.isfinite(all_rows(data, "inputs")).all()
    assert Scaling.standard(np.zeros((4, 1))).scale == 1


def test_digits_are_one_hot_and_pixels_are_sixteenths():
    data = Digits().load()
    original: Any = load_digits()
    assert data.classes is not None and data.classes.tolist() == list(range(10))
    assert data.metric == "accuracy"
    targets, labels = all_rows(data, "targets"), all_rows(data, "y")
    assert targets.dtype == np.float64
    assert np.array_equal(targets, np.eye(10)[labels])
    assert np.array_equal(all_rows(data, "inputs"), all_rows(data, "x") / 16)
    assert as_set(all_rows(data, "x")) == as_set(original.data)


def test_diabetes_is_in_its_own_units():
    data = Diabetes().load()
    original: Any = load_diabetes(scaled=False)
    assert (data.metric, data.columns) == ("r2", original.feature_names)
    assert as_set(all_rows(data, "x")) == as_set(original.data)
    assert as_set(all_rows(data, "y")) == as_set(original.target)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(ROWS) % 3 * 5 - 5, [-5, 0, 5]),
        (np.arange(ROWS) % 3 + 1.0, [1, 2, 3]),
        (np.arange(ROWS) % 2 == 0, [False, True]),
        (np.array(["low", "middle", "über"])[np.arange(ROWS) % 3], ["low", "middle", "über"]),
    ],
    ids=["whole", "whole floats", "booleans", "text"],
)
@every_format
def test_class_labels_are_one_hot(suffix: str, labels: np.ndarray, classes: list[Any], tmp_path: Path):
    path = WRITERS[suffix](tmp_path / f"table.{suffix}", {"age": COLUMNS["age"], "kind": labels})
    data = Table(path=str(path), target="kind", classes=True).load()
    assert data.classes is not None and data.classes.tolist() == classes
    assert data.target_scaling is None
    for split in (data.train, data.valid):
        assert split
        assert np.array_equal(split.targets.sum(axis=1), np.ones(len(split.y)))
        assert data.classes[split.targets.argmax(axis=1)].tolist() == split.y.tolist()


# Tables in files


def test_csv_parquet_and_npz_are_the_same_table(tmp_path: Path):
    loaded = {
        suffix: Table(path=str(write(tmp_path / f"table.{suffix}", COLUMNS)), target="income").load()
        for suffix, write in WRITERS.items()
    }
    for data in loaded.values():
        assert data.columns == ["age", "height", "smoker", "children"]
        assert data.digest == loaded["csv"].digest


def test_features_are_chosen_in_the_order_given(table: Table):
    data = replace(table, features=["children", "age"]).load()
    assert data.columns == ["children", "age"]
    assert data.train.x.shape == (20, 2)
    assert set(all_rows(data, "x")[:, 0]) == {0, 1, 2, 3}


def test_two_axes_of_an_npz_are_columns(tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((ROWS, 3))
    data = Table(path=str(write_npz(tmp_path / "a.npz", {"x": x, "y": x[:, 0]})), target="y").load()
    assert data.columns == ["x[0]", "x[1]", "x[2]"]
    assert as_set(all_rows(data, "x")) == as_set(x)


def column(*values: Any) -> dict[str, Any]:
    """A table of ROWS rows whose column `a` begins with these values and goes on with the last."""
    return {"a": [*values, *[values[-1]] * (ROWS - len(values))], "b": np.arange(ROWS) % 5, "y": np.arange(ROWS) * 1.0}


def swapped(columns: dict[str, Any]) -> dict[str, Any]:
    """The table with `a` as its target."""
    return {"b": columns["b"], "y": columns["a"]}


def corrupt_compressed(path: Path) -> None:
    np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(1000), y=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)


def zipped_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "no array")


def saved_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(5))


def repeated_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(range(9))] * 3, names=["a", "a", "y"]), path)


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def npz(**columns: np.ndarray) -> Callable[[Path], object]:
    return lambda path: write_npz(path, columns)


Write = Callable[[Path], object]
# What the file is named, how it is made, and what the message names beside the file.
BAD_FILES: dict[str, tuple[str, Write, str]] = {
    "missing": ("people.csv", lambda path: None, "no such file"),
    "missing folder": ("no/people.parquet", lambda path: None, "no such file"),
    "empty csv": ("people.csv", text(""), "empty"),
    "empty parquet": ("people.parquet", text(""), "empty"),
    "empty npz": ("people.npz", text(""), "empty"),
    "blank lines": ("people.csv", text("\n\n"), "Empty CSV"),
    "header only": ("people.csv", text("a,b,y\n"), "no rows"),
    "no rows": ("people.parquet", lambda path: write_parquet(path, {"a": np.zeros(0), "y": np.zeros(0)}), "no rows"),
    "ragged line": ("people.csv", text("a,b,y\n1,2,3\n4,5\n"), "Expected 3 columns, got 2"),
    "open quote": ("people.csv", text('a,b,y\n1,"2,3\n'), "CSV parse error"),
    "not utf-8": ("people.csv", text("ä,b,y\n1,2,3\n".encode("latin1")), "utf-8"),
    "bytes as csv": ("people.csv", text(bytes(range(256))), "csv"),
    "text as parquet": ("people.parquet", text("a,b,y\n1,2,3\n"), "parquet"),
    "text as npz": ("people.npz", text("a,b,y\n1,2,3\n"), "npz"),
    "truncated zip": ("people.npz", text(b"PK\x03\x04" + b"x" * 99), "npz"),
    "corrupt compressed npz": ("people.npz", corrupt_compressed, "npz"),
    "npy as npz": ("people.npz", saved_array, "npz"),
    "zip of text": ("people.npz", zipped_text, "notes.txt"),
    "unknown extension": ("people.xlsx", text("a"), ".csv, .parquet or .npz"),
    "no extension": ("people", text("a"), ".csv, .parquet or .npz"),
    "folder as csv": ("people.csv", Path.mkdir, "directory"),
    "folder as parquet": ("people.parquet", Path.mkdir, ""),
    "folder as npz": ("people.npz", Path.mkdir, "directory"),
    "repeated column": ("people.csv", text("a,a,y\n1,2,3\n"), "columns named a"),
    "repeated column in parquet": ("people.parquet", repeated_parquet, "columns named a"),
    "only the target": ("people.csv", text("y\n1\n2\n3\n"), "beside the target y"),
    "pickled objects": ("people.npz", npz(a=np.array([{}, 1]), y=np.arange(2)), "Object arrays"),
    "lengths differ": ("people.npz", npz(a=np.zeros(4), y=np.zeros(3)), "a 4, y 3"),
    "three axes": ("people.npz", npz(a=np.zeros((3, 2, 1)), y=np.zeros(3)), "array a has 3 axes"),
    "one number": ("people.npz", npz(y=np.array(1.0)), "array y has 0 axes"),
}  # fmt: skip


def table_of(path: Path, asked: dict[str, Any]) -> Table:
    arguments: dict[str, Any] = {"path": str(path), "target": "y"} | asked
    return Table(**arguments)


def message(problem: Table) -> str:
    """What is said of a table that cannot be used; always one line."""
    with pytest.raises(InputError) as raised:
        problem.load()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_line_that_names_it(case: str, tmp_path: Path):
    name, write, reason = BAD_FILES[case]
    write(tmp_path / name)
    said = message(Table(path=str(tmp_path / name), target="y"))
    assert said.startswith(f"path={tmp_path / name}: ")
    assert reason in said.removeprefix(f"path={tmp_path / name}: ")
    gc.collect()  # a file left open is a warning, and that an error, here and not in some later test


CLASSES = {"classes": True}
# The columns, what is asked of them, and what the message says.
BAD_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "text": (column("1", "x"), {}, r"path=.*: column a holds text, 'x' in row 2; problem.features=\[…\] leaves it out"),
    "text to predict": (swapped(column("u", "v")), {}, "target=y: column y holds text, 'u' in row 1; problem.classes=true .*"),
    "missing numbers": (column(1.0, None, 2.0, None, 3.0), {}, "path=.*: column a has 2 missing .* in row 2 of data; .*"),
    "missing target": (swapped(column(1.0, None, 2.0)), {}, "target=y: column y has 1 missing .* in row 2 of data; .*"),
    "missing label": (swapped(column(1, 2, None, 2)), CLASSES, "target=y: column y has 1 missing .* in row 3 of data; .*"),
    "missing text label": (swapped(column("u", None, "v")), CLASSES, "target=y: column y has 1 missing .* in row 2 .*"),
    "infinite": (column(1.0, np.inf, 2.0), {}, "path=.*: column a holds inf in row 2; .*"),
    "infinite target": (swapped(column(1.0, -np.inf, 2.0)), {}, "target=y: column y holds -inf in row 2; .*"),
    "infinite label": (swapped(column(1.0, np.inf, 2.0)), CLASSES, "target=y: .*inf in row 2.*"),
    "fractions as labels": (swapped(column(1.0, 1.5, 2.0)), CLASSES, "target=y: 1.5 in row 2 .* problem.classes=false.*"),
    "one class": (swapped(column(4)), CLASSES, "target=y: every row is of class 4; .*"),
    "one class of text": (swapped(column("u")), CLASSES, "target=y: every row is of class u; .*"),
    "unknown target": (column(1), {"target": "yy"}, "target=yy: no such column in .*; choose y, a or b"),
    "unknown feature": (column(1), {"features": ["a", "bb"]}, "features=bb: no such column in .*; choose b, a or y"),
    "target among features": (column(1), {"features": ["a", "y"]}, "features=.*: y is the target; leave it out"),
    "nothing to validate": (column(1), {"valid_fraction": 0.01}, "valid_fraction=0.01: of 25 rows nothing is left .*"),
    "nothing to train": (column(1), {"valid_fraction": 0.99}, "valid_fraction=0.99: of 25 rows nothing is left .*"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_COLUMNS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_bad_column_is_one_line_that_names_it(suffix: str, case: str, tmp_path: Path):
    columns, asked, pattern = BAD_COLUMNS[case]
    path = WRITERS[suffix](tmp_path / f"people.{suffix}", columns)
    assert re.fullmatch(pattern, message(table_of(path, asked)))


@pytest.mark.parametrize("case", ["infinite", "infinite target", "fractions as labels", "one class", "text", "unknown target"])
def test_bad_column_of_an_npz_too(case: str, tmp_path: Path):
    columns, asked, pattern = BAD_COLUMNS[case]
    path = write_npz(tmp_path / "people.npz", {name: np.asarray(values) for name, values in columns.items()})
    assert re.fullmatch(pattern, message(table_of(path, asked)))


def test_missing_number_of_an_npz_is_nan(tmp_path: Path):
    path = write_npz(tmp_path / "people.npz", {"a": np.array([1.0, np.nan, 2.0]), "y": np.arange(3.0)})
    assert "column a has 1 missing value, the first in row 2 of data" in message(Table(path=str(path), target="y"))


@pytest.mark.parametrize("encoded", [b"\xfcber", b"unter"])
def test_labels_that_are_not_utf_8_are_said_in_one_line(encoded: bytes, tmp_path: Path):
    path = tmp_path / "people.csv"
    path.write_bytes(b"a,y\n" + b"".join(b"%d,%s\n" % (row, encoded if row % 2 else b"\xe4") for row in range(ROWS)))
    assert "y" in message(Table(path=str(path), target="y", classes=True))


@pytest.mark.parametrize(
    "arguments",
    [{"valid_fraction": -0.1}, {"valid_fraction": 1.0}, {"seed": -1}, {"features": []}],
    ids=lambda each: next(iter(each)),
)
def test_bad_argument_is_seen_by_the_constructor(arguments: dict[str, Any]):
    (key, _), *_ = arguments.items()
    with pytest.raises(InputError, match=f"^{key}=.*allowed: "):
        table_of(Path("people.csv"), arguments)


# Predictions of recorded runs


def trained(tmp_path: Path, *overrides: str) -> tuple[Run, Data]:
    settings = (*overrides, "tracker=none", "device=cpu", "precision=fp64", "method=numpy")
    return exp.run(*settings, f"runs={tmp_path / 'runs'}"), exp.data(*settings)


def test_predictions_of_a_number_are_in_the_users_units(tmp_path: Path, table: Table):
    overrides = [f"problem.path={table.path}", "problem.target=income", "training.epochs=40", "training.batch_size=7"]
    run, data = trained(tmp_path, "experiment=diabetes", "problem=table", *overrides)
    assert data.valid
    prediction = run.predict(data.valid.x)
    assert prediction.shape == data.valid.y.shape == (5, 1)
    assert 1e4 < prediction.mean() < 1e5  # an income, not its number of deviations
    # r2 is the same in any units; a few sums of 5 numbers and one rescaling.
    assert sklearn.metrics.r2_score(data.valid.y, prediction) == pytest.approx(run.metrics["final/valid_r2"], rel=1e-10)
    assert np.array_equal(exp.load(run.folder).predict(data.valid.x), prediction)


@pytest.mark.parametrize("classes", ["numbers", "text", "booleans", "dates"])
def test_predictions_of_a_table_of_classes_are_its_labels(classes: str, tmp_path: Path):
    random = np.random.default_rng(0)
    x = random.standard_normal(60)
    labels = {
        "numbers": np.array([3, 7]),
        "text": np.array(["no", "yes"]),
        "booleans": np.array([False, True]),
        "dates": np.array(["2020-01-01", "2021-02-03"], dtype="datetime64[D]"),
    }[classes][(x > 0).astype(int)]
    path = write_parquet(tmp_path / "a.parquet", {"x": x, "noise": random.standard_normal(60), "kind": labels})
    overrides = [f"problem.path={path}", "problem.target=kind", "problem.classes=true", "training.epochs=20"]
    run, data = trained(tmp_path, "experiment=digits", "problem=table", "training.batch_size=16", *overrides)
    assert data.valid
    prediction = run.predict(data.valid.x)
    assert prediction.shape == (12,)
    assert set(map(str, prediction)) <= set(map(str, labels))
    assert np.mean(prediction == data.valid.y) == run.metrics["final/valid_accuracy"] > 0.8


def test_predictions_of_digits_are_labels(tmp_path: Path):
    run, data = trained(tmp_path, "experiment=digits", "training.epochs=5")
    assert data.valid
    prediction = run.predict(data.valid.x)
    assert prediction.shape == (359,)
    assert set(prediction) <= set(range(10))
    assert sklearn.metrics.accuracy_score(data.valid.y, prediction) == run.metrics["final/valid_accuracy"] > 0.9
    assert run.outputs(data.valid.x).shape == (359, 10)


@pytest.mark.parametrize("shape", [(5, 3), (64,), (2, 5, 64)])
def test_rows_of_another_width_cannot_be_predicted(shape: tuple[int, ...], tmp_path: Path):
    run, _ = trained(tmp_path, "experiment=digits", "training.epochs=null", "training.steps=1")
    with pytest.raises(InputError, match=re.escape(f"x: has shape {shape}; this run predicts from (N, 64)")):
        run.predict(np.zeros(shape))
