"""Tables in files: CSV, Parquet and NPZ as named columns, with every reason why one cannot be read."""

import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exp.errors import InputError


@dataclass(frozen=True)
class Column:
    """One column as it was read: `values` (N,), numbers, text or booleans; `missing` (N,) says which are absent."""

    name: str
    values: np.ndarray
    missing: np.ndarray

    def numbers(self, key: str, typed: str) -> np.ndarray:
        """float64 (N,). Raises `InputError` for text and for what is missing or not finite; rows count from 1."""
        self._require_complete(key, typed)
        if self.values.dtype.kind not in "fiub":
            row = next((row for row, value in enumerate(self.values) if not _is_number(value)), 0)
            advice = "problem.classes=true for class labels" if key == "target" else "problem.features=[…] leaves it out"
            shown = f"{str(self.values[row])!r} in row {row + 1}"
            raise InputError(key, typed, f"column {self.name} holds text, {shown}; {advice}")
        numbers = self.values.astype(np.float64)
        if not (finite := np.isfinite(numbers) & (np.abs(numbers) < 1e100)).all():  # larger ones overflow when squared
            row = int(np.argmin(finite))
            raise InputError(
                key, typed, f"column {self.name} holds {numbers[row]} in row {row + 1}; only finite numbers below 1e100 train"
            )
        return numbers

    def labels(self, key: str) -> np.ndarray:
        """Class labels (N,): whole numbers, text or booleans. Raises `InputError` for fractions and a single class."""
        self._require_complete(key, self.name)
        values = self.values
        if values.dtype.kind == "f":
            whole = (np.abs(values) <= 2**53) & (values == np.floor(values))  # beyond, floats skip whole numbers
            if not whole.all():
                row = int(np.argmin(whole))
                problem = f"{values[row]} in row {row + 1} is no class label; problem.classes=false for a number to predict"
                raise InputError(key, self.name, problem)
            values = values.astype(np.int64)
        if any(isinstance(value, bytes) for value in values.tolist()):
            raise InputError(key, self.name, "holds bytes that are no UTF-8 text; save the table as UTF-8")
        if values.dtype.kind not in "iubU":
            values = np.array([str(value) for value in values])
        if len(np.unique(values)) < 2:
            raise InputError(key, self.name, f"every row is of class {values[0]}; classification needs two classes or more")
        return values

    def _require_complete(self, key: str, typed: str) -> None:
        if self.missing.any():
            row, count = int(np.argmax(self.missing)) + 1, int(self.missing.sum())
            values = f"{count} missing value{'s' * (count > 1)}"
            problem = f"column {self.name} has {values}, the first in row {row} of data; fill them or drop those rows"
            raise InputError(key, typed, problem)


def read_table(path: str) -> dict[str, Column]:
    """The columns of a .csv, .parquet or .npz file by name. Raises `InputError` with the reason where it cannot."""
    readers = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError("path", path, "allowed: a file that ends in .csv, .parquet or .npz")
    import pyarrow

    try:
        if Path(path).stat().st_size == 0:
            raise InputError("path", path, "the file is empty; give a table with a header line and rows")
        columns = reader(path)
    except FileNotFoundError:
        raise InputError("path", path, f"no such file (looked in {Path.cwd()})") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise InputError("path", path, f"cannot be read as {Path(path).suffix[1:]}: {reason}") from None
    repeated = [name for name, count in Counter(column.name for column in columns).items() if count > 1]
    if repeated:
        raise InputError("path", path, f"there are several columns named {repeated[0]}; give each its own name")
    if not columns or not len(columns[0].values):
        raise InputError("path", path, "the table has no rows")
    return {column.name: column for column in columns}


def _csv(path: str) -> list[Column]:
    import pyarrow.csv

    return _columns(pyarrow.csv.read_csv(path))


def _parquet(path: str) -> list[Column]:
    import pyarrow.parquet

    return _columns(pyarrow.parquet.ParquetFile(path).read())


def _columns(table: Any) -> list[Column]:
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        missing = column.is_null(nan_is_null=True).to_numpy().astype(bool)
        values = np.asarray(column.to_numpy())
        if values.dtype.kind == "O":
            missing |= values == ""  # an empty field of a text column
        columns.append(Column(name, values, missing))
    return columns


def _npz(path: str) -> list[Column]:
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no archive of arrays, as numpy.savez writes")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    if strange := [name for name, array in loaded.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"its member {strange[0]} is no array")
    rows = {name: len(array) if array.ndim else 0 for name, array in loaded.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"its arrays differ in length: {', '.join(f'{name} {count}' for name, count in rows.items())}")
    columns = []
    for name, array in loaded.items():
        if array.ndim not in (1, 2):
            raise ValueError(f"array {name} has {array.ndim} axes; 1 or 2 make columns")
        parts = {name: array} if array.ndim == 1 else {f"{name}[{index}]": part for index, part in enumerate(array.T)}
        columns += [Column(part, np.asarray(values), _missing(values)) for part, values in parts.items()]
    return columns


def _missing(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
