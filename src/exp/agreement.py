"""Whether a run in a program is what it is alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from exp.arrays import Array
from exp.curve import Curve
from exp.state import State
from exp.verification.tolerance import OPERANDS, Arithmetic

FLIPPED = 0.05
"""So much of an update may differ in norm, but in float64: a row that another order of summing puts on the other side of
ReLU's kink, or an entry of Adam's whose gradient is rounding, moves by all it can. A wrong rate, batch or weight moves all."""

TYPICAL = 1e-3
"""So much of an update may differ in the median of its elements, which a few rows and entries do not move; in float32."""

DOUBLE = 1e-9
"""Both in float64, where no row is as near to a kink."""

EARLY = 10
"""Steps in which momentum, averages and later batches show, and roundings have not grown yet."""


@dataclass(frozen=True)
class Step:
    """How far a step in a program was from the same step alone, relative: its loss, and its update in norm and in the
    `typical` element, the median."""

    loss: float
    update: float
    typical: float
    agrees: bool

    def __str__(self) -> str:
        return f"its loss off by {self.loss:.1e}, its update by {self.update:.1e} (median {self.typical:.1e})"


@dataclass(frozen=True)
class Agreement:
    """How far a run in a program was from the same run alone, relative. `loss` and `update` of the first step (in norm, and
    `typical` in the median of the elements), the `early` losses, of the first EARLY steps and of evaluations before the last of
    them, and the `outputs` of the program and of its exported state, at the end, say whether it `agrees`; `largest` of all
    losses and its step, which carry the roundings of all steps before, are told, not judged. `early` is infinite where one blew
    up in these steps and the other did not; `chaos` is that of the run alone and itself, where that was asked (else 0).
    """

    loss: float
    update: float
    typical: float
    early: float
    outputs: float
    largest: float
    at_step: int
    steps: int
    chaos: float
    agrees: bool

    def __str__(self) -> str:
        update = f"its update by {self.update:.1e} (median {self.typical:.1e})"
        later = f"the first {EARLY} losses by {self.early:.1e}, the outputs of its last state by {self.outputs:.1e}"
        return f"loss of the first step off by {self.loss:.1e}, {update}, {later}"


@dataclass(frozen=True)
class Seen:
    """One of the two: its state before and after the first step, its curve, and its `outputs`, (N, outputs), in the state in
    which the program ended."""

    initial: State
    first_step: State
    curve: Curve
    outputs: np.ndarray


def agreement(together: Seen, alone: Seen, arithmetic: Arithmetic, terms: int, *, chaos: float = 0.0) -> Agreement:
    """`terms`: how many are summed from one end of the network to the other. `chaos`: how far the early losses of the run alone
    are from themselves where its weights are off by roundings: where that is more than is allowed they decide nothing."""
    one, other = np.array(together.curve.train_loss), np.array(alone.curve.train_loss)
    steps = min(len(one), len(other))
    differences = _relative(one[:steps], other[:steps])
    loss = float(differences[0]) if steps else float(len(one) != len(other))
    early = early_losses(together.curve, alone.curve)
    near = DOUBLE if arithmetic.dtype == "float64" else FLIPPED
    first = _step(loss, alone.initial, together.first_step, alone.first_step, arithmetic, terms)
    outputs = _apart(together.outputs, alone.outputs)
    return Agreement(
        loss=loss,
        update=first.update,
        typical=first.typical,
        early=early,
        outputs=outputs,
        largest=_most(differences),
        at_step=int(differences.argmax()) if steps else 0,
        steps=steps,
        chaos=chaos,
        agrees=first.agrees and outputs <= near and (early <= near or chaos > near),
    )


def early_losses(one: Curve, other: Curve) -> float:
    """How far the losses of the first EARLY steps are apart, and of evaluations before the last of them, relative.

    Infinite where one blew up in these steps and the other did not."""
    losses, right = np.array(one.train_loss[:EARLY]), np.array(other.train_loss[:EARLY])
    steps = min(len(losses), len(right))
    if _ends_apart(one, other):
        return inf
    return max(_most(_relative(losses[:steps], right[:steps])), _most(_evaluations(one, other)))


def step_agreement(
    before: State, together: tuple[Array, State], alone: tuple[Array, State], arithmetic: Arithmetic, terms: int
) -> Step:
    """Of a step from `before`: its loss and the state after it, in a program and alone."""
    losses = (np.asarray(loss, np.float64).reshape(1) for loss, _ in (together, alone))
    return _step(_most(_relative(*losses)), before, together[1], alone[1], arithmetic, terms)


def _step(loss: float, before: State, found: State, right: State, arithmetic: Arithmetic, terms: int) -> Step:
    """A loss may be off by 4 n u (Higham 2002, 3.1)."""
    rounding = min(4 * terms * OPERANDS.get(arithmetic.precision, arithmetic.storage), FLIPPED)
    near, middle = FLIPPED, FLIPPED if arithmetic.coarse else TYPICAL
    if arithmetic.dtype == "float64":
        near = middle = DOUBLE
    triples = [(before.params[name], found.params[name], right.params[name]) for name in before.params]
    update = max(_difference(*triple, arithmetic.storage) for triple in triples)
    typical = _median(triples, arithmetic.storage)
    return Step(loss, update, typical, agrees=loss <= rounding and update <= near and typical <= middle)


def _ends_apart(one: Curve, other: Curve) -> bool:
    """Whether one blew up in the early steps and the other did not, at the same step or the next.

    On the way to infinity the order of summing may decide which of two partial sums overflows first; what overflows in the
    first steps has grown so fast that the other does in the next.
    """
    ends = sorted(inf if curve.blew_up_at_step is None else curve.blew_up_at_step for curve in (one, other))
    return ends[0] < EARLY and ends[1] > ends[0] + 1


def _evaluations(one: Curve, other: Curve) -> np.ndarray:
    """How far the losses of early evaluations are apart, relative; the first is of the initial weights."""
    pairs = zip(one.valid_step, one.valid.get("loss", ()), other.valid.get("loss", ()), strict=False)
    early = np.array([(mine, right) for step, mine, right in pairs if step < EARLY]).reshape(-1, 2)
    return _relative(early[:, 0], early[:, 1])


def _relative(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|p − q| / |q| of each; where not both are finite 0 if they are the same, else infinite."""
    with np.errstate(all="ignore"):
        apart = np.abs(found - right) / np.maximum(np.abs(right), np.finfo(np.float64).tiny)
    return np.where(np.isfinite(found) & np.isfinite(right), apart, np.where(_alike(found, right), 0.0, inf))


def _alike(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (found == right) | (np.isnan(found) & np.isnan(right))


def _most(apart: np.ndarray) -> float:
    return float(apart.max(initial=0.0))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """‖p − q‖ / ‖q‖; infinite where not the same of them are finite."""
    finite = np.isfinite(other)
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), finite):
        return inf
    found, right = one[finite].astype(np.float64), other[finite].astype(np.float64)  # squares of float32 overflow soon
    size = float(np.linalg.norm(right))
    return float(np.linalg.norm(found - right)) / size if size else float(np.any(found))


def _median(triples: Sequence[tuple[Array, Array, Array]], unit: float) -> float:
    """The median of |p − q| beyond the rounding of what is stored, by |q − p₀|, of all elements that move. Triples p₀, p, q."""
    ratios = []
    for before, found, right in triples:
        with np.errstate(all="ignore"):
            beyond = np.maximum(np.abs(found - right) - 2 * unit * np.abs(before), 0.0)
            ratio = beyond / np.abs(right - before)
        ratios.append(ratio[np.isfinite(ratio)])
    every = np.concatenate(ratios)
    return float(np.median(every)) if every.size else 0.0


def _difference(before: Array, found: Array, right: Array, unit: float) -> float:
    """‖p − q‖ beyond the rounding of what is stored, u ‖p₀‖, by the norm of the update ‖q − p₀‖; infinite where only one is."""
    if not (np.isfinite(found).all() and np.isfinite(right).all()):
        return 0.0 if np.array_equal(np.isfinite(found), np.isfinite(right)) else np.inf
    before, found, right = (array.astype(np.float64) for array in (before, found, right))  # squares of float32 overflow soon
    beyond = max(float(np.linalg.norm(found - right)) - 2 * unit * float(np.linalg.norm(before)), 0.0)
    moved = float(np.linalg.norm(right - before))
    return beyond / moved if moved else float(beyond > 0)
