"""Problems: data sets as NumPy arrays on the host, split into training and validation."""

import abc
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from exp.errors import InputError, listed, nearest, require
from exp.seeds import digest, generator


@dataclass(frozen=True)
class Scaling:
    """v ↦ (v − shift) / scale, column by column; shapes (columns,)."""

    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def standard(cls, values: np.ndarray) -> "Scaling":
        """Mean 0 and standard deviation 1 over the rows of `values`, (N, columns); a constant column is only shifted."""
        deviation = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(deviation > 1e-12 * np.abs(values).max(axis=0), deviation, 1.0))

    def apply(self, values: np.ndarray) -> np.ndarray:
        return (values - self.shift) / self.scale

    def invert(self, values: np.ndarray) -> np.ndarray:
        return values * self.scale + self.shift


@dataclass(frozen=True)
class Split:
    """Rows of a data set. `x`, (N, inputs), and `y` are in the user's units: y is (N, outputs), or (N,) class labels.

    `inputs`, (N, inputs), and `targets`, (N, outputs), are what the network is trained on, in float64: scaled, labels
    as one-hot rows.
    """

    x: np.ndarray
    y: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Data:
    """A problem's splits, and what turns the user's units into the network's. `classes` are the labels, sorted."""

    train: Split
    valid: Split | None = None
    classes: np.ndarray | None = None
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    columns: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """The validation metric: accuracy for classes, else r2."""
        return "r2" if self.classes is None else "accuracy"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over inputs and targets of both splits, in float64; computed once, for all runs that share them."""
        splits = {"train": self.train} | ({"valid": self.valid} if self.valid else {})
        arrays = {f"{name}/inputs": split.inputs for name, split in splits.items()}
        return digest(arrays | {f"{name}/targets": split.targets for name, split in splits.items()})


@dataclass(kw_only=True)
class Problem(abc.ABC):
    """A data set. `seed` draws it, or its split."""

    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "a whole number >= 0")

    @abc.abstractmethod
    def load(self) -> Data:
        """The splits. Raises `InputError` for data that cannot be used."""


@dataclass(kw_only=True)
class Random(Problem):
    """The tutorial's data: x and y drawn from a standard normal. No validation split: there is nothing to generalise."""

    samples: int = 64
    inputs: int = 1000
    outputs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("samples", "inputs", "outputs"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "a whole number >= 1")

    def load(self) -> Data:
        x = generator(self.seed, "problem", 0).standard_normal((self.samples, self.inputs))
        y = generator(self.seed, "problem", 1).standard_normal((self.samples, self.outputs))
        return Data(Split(x, y, x, y))


@dataclass(kw_only=True)
class Table(Problem):
    """The user's own table: CSV (with a header line), Parquet, or NPZ (arrays (N,) or (N, columns)).

    Columns are standardised by the training split; a numeric target too, so that losses are in its standard deviations.
    `features` null is every column but the target. `classes` says that the target column holds class labels.
    """

    path: str
    target: str
    features: list[str] | None = None
    classes: bool = False
    valid_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_fraction(self.valid_fraction)
        require(self.features is None or len(self.features) > 0, "features", self.features, "column names, or null for all")

    def load(self) -> Data:
        from exp.tables import read_table

        columns = read_table(self.path)
        for key, names in (("target", [self.target]), ("features", self.features or [])):
            for name in names:
                if name not in columns:
                    problem = f"no such column in {self.path}; choose {listed(nearest(name, columns)[:12])}"
                    raise InputError(key, name, problem)
        if len(set(self.features or [])) < len(self.features or []):
            raise InputError("features", self.features, "names a column twice; give every name once")
        if self.features is not None and self.target in self.features:
            raise InputError("features", self.features, f"{self.target} is the target; leave it out")
        features = self.features or [name for name in columns if name != self.target]
        require(len(features) > 0, "path", self.path, f"a table with a column beside the target {self.target}")
        x = np.column_stack([columns[name].numbers("path", self.path) for name in features])
        column = columns[self.target]
        y = column.labels("target") if self.classes else column.numbers("target", self.target)[:, None]
        return _split(x, y, self.valid_fraction, self.seed, features, standardise=True)


@dataclass(kw_only=True)
class Digits(Problem):
    """1,797 images of handwritten digits, 8 × 8 pixels from 0 to 16, ten classes (scikit-learn's copy of UCI's)."""

    valid_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_fraction(self.valid_fraction)

    def load(self) -> Data:
        digits = _bundled("load_digits")
        scaling = Scaling(np.zeros(64), np.full(64, 16.0))
        return _split(digits.data, digits.target, self.valid_fraction, self.seed, list(digits.feature_names), scaling)


@dataclass(kw_only=True)
class Diabetes(Problem):
    """442 patients, ten measurements, the progression of diabetes a year later (Efron et al. 2004). Standardised."""

    valid_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_fraction(self.valid_fraction)

    def load(self) -> Data:
        diabetes = _bundled("load_diabetes", scaled=False)
        y = diabetes.target[:, None]
        return _split(diabetes.data, y, self.valid_fraction, self.seed, list(diabetes.feature_names), standardise=True)


@cache
def _bundled(name: str, **arguments: Any) -> Any:
    """What scikit-learn's function of this name reads; once, for a sweep splits it by many seeds."""
    import sklearn.datasets

    return getattr(sklearn.datasets, name)(**arguments)


def _require_fraction(fraction: float) -> None:
    require(0 <= fraction < 1, "valid_fraction", fraction, "a number >= 0 and < 1, the share of rows kept for validation")


def _split(
    x: np.ndarray,
    y: np.ndarray,
    valid_fraction: float,
    seed: int,
    columns: list[str],
    scaling: Scaling | None = None,
    *,
    standardise: bool = False,
) -> Data:
    """Shuffle by `seed`, split, scale by the training rows. y (N, outputs) is numeric, y (N,) holds class labels."""
    rows = len(x)
    valid_rows = round(rows * valid_fraction)
    if valid_fraction > 0 and not 0 < valid_rows < rows:
        raise InputError("valid_fraction", valid_fraction, f"of {rows} rows nothing is left for training or validation")
    order = generator(seed, "split").permutation(rows)
    train, valid = order[valid_rows:], order[:valid_rows]
    input_scaling = Scaling.standard(x[train]) if standardise else scaling
    classes = np.unique(y) if y.ndim == 1 else None
    target_scaling = Scaling.standard(y[train]) if standardise and classes is None else None

    def split(chosen: np.ndarray) -> Split:
        inputs = input_scaling.apply(x[chosen]) if input_scaling else x[chosen]
        targets = y[chosen] if classes is None else (y[chosen, None] == classes).astype(np.float64)
        return Split(x[chosen], y[chosen], inputs, target_scaling.apply(targets) if target_scaling else targets)

    validation = split(valid) if valid_rows else None
    return Data(split(train), validation, classes, input_scaling, target_scaling, columns)
