"""One tensor of a method against what is right: the comparison, and where in a step it stands."""

from dataclasses import dataclass
from math import inf, nan

import numpy as np

from exp.state import State
from exp.verification.reference import Tensor
from exp.verification.tolerance import FACTOR

BEATS = ("state", "inputs", "forward", "loss", "backward", "update", "batches")
"""What a verdict names first: a step in the order in which it is computed; before it what the step was given."""


@dataclass(frozen=True)
class Comparison:
    """One tensor against what is right: the score of the tolerance, and its worst element.

    `what` is said in place of the values where it is not they that differ.
    """

    score: float
    index: tuple[int, ...]
    found: float
    expected: float
    resolution: float
    what: str = ""

    @property
    def ratio(self) -> float:
        """The distance in units of the tolerance: above 1 is different."""
        return self.score / FACTOR


@dataclass(frozen=True)
class Judged:
    """One tensor compared at one probe. `step` is that of a chain; None for a single step. `decides`: it may say different."""

    probe: str
    step: int | None
    beat: str
    tensor: str
    comparison: Comparison
    decides: bool = True

    @property
    def wrong(self) -> bool:
        return self.decides and self.comparison.score > FACTOR

    @property
    def order(self) -> tuple[int, int]:
        """The first wrong thing has the smallest: single steps before chains, then by step and beat."""
        return (-1 if self.step is None else self.step, BEATS.index(self.beat))


def compare(found: np.ndarray, right: Tensor, allowed: Tensor) -> Comparison:
    """`found` against `right`, where each element may be FACTOR · `allowed` off. Another shape is infinitely far."""
    expected = right.numpy()
    found = np.asarray(found, dtype=np.float64)
    norm, size = float(np.linalg.norm(allowed.numpy())), float(np.linalg.norm(expected))
    resolution = FACTOR * norm / size if size > 0 else inf
    if found.shape != expected.shape:
        return Comparison(inf, (), nan, nan, resolution, f"has shape {found.shape}, not {expected.shape}")
    if not found.size:
        return Comparison(0.0, (), nan, nan, resolution)
    with np.errstate(all="ignore"):
        distance = np.abs(found - expected)
        ratio = np.where(distance == 0, 0.0, distance / allowed.numpy())
        ratio[np.isnan(ratio)] = inf
        worst = np.unravel_index(int(ratio.argmax()), ratio.shape)
    index = tuple(int(place) for place in worst)
    return Comparison(float(ratio.max()), index, float(found[index]), float(expected[index]), resolution)


def exactly(found: float, expected: float) -> Comparison:
    """A number that has no tolerance."""
    return Comparison(0.0 if found == expected else inf, (), float(found), float(expected), 0.0)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal in type, shape and every bit."""
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def same_states(one: State, other: State) -> bool:
    """Equal in every bit."""
    pairs = zip(one.named().values(), other.named().values(), strict=True)
    return all(same_bits(left, right) for left, right in pairs)


def first_difference(expected: np.ndarray, found: np.ndarray) -> Comparison:
    """An exact comparison that failed."""
    expected, found = np.asarray(expected), np.asarray(found)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        what = f"is {found.dtype} of shape {found.shape}, not {expected.dtype} of shape {expected.shape}"
        return Comparison(inf, (), nan, nan, 0.0, what)
    places = np.argwhere(found != expected)
    index = tuple(int(place) for place in places[0]) if len(places) else (0,) * expected.ndim
    return Comparison(inf, index, float(found[index]), float(expected[index]), 0.0)
