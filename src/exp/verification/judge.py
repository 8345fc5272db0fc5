"""The judge of one method: its subject, its reference, and everything that has been compared. It decides nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan

import numpy as np

from exp.arrays import Array, get
from exp.methods.base import Block, Method
from exp.seeds import Generator
from exp.state import State
from exp.verification.comparison import Comparison, Judged, compare, first_difference, same_bits
from exp.verification.envelope import Envelope, PlainSteps, envelope, near_kink
from exp.verification.probes import Params
from exp.verification.reference import Evaluation, Reference, exact
from exp.verification.subject import Subject
from exp.verification.tolerance import Arithmetic, Uniform


@dataclass(frozen=True)
class At:
    """Where a comparison stands: the probe, the step of a chain (None: a single step), and whether it may say different."""

    probe: str
    step: int | None = None
    decides: bool = True


@dataclass(frozen=True)
class Right:
    """The right step on rows of a batch: its envelope, and the exact evaluation followed by the perturbed ones."""

    x: np.ndarray
    y: np.ndarray
    envelope: Envelope
    evaluations: Sequence[Evaluation]


@dataclass
class Judge:
    """`judged` and `remarks` are what has been found. `generator` draws probes and noise."""

    subject: Subject
    reference: Reference
    arithmetic: Arithmetic
    generator: Generator
    judged: list[Judged] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    first_wrong_step: Callable[[bool], float] | None = None
    """Of the first wrong step of a chain: its loss by a fresh method, with its batch as rows (True) or gathered (False)."""

    def __post_init__(self) -> None:
        self.plain = PlainSteps(self.reference, self.subject.place.device, self.subject.place.dtype)
        self.noise = Uniform(self.generator, self.arithmetic)

    @property
    def wrong(self) -> list[Judged]:
        """What is different, first wrong first."""
        return sorted((entry for entry in self.judged if entry.wrong), key=lambda entry: entry.order)

    # what is right

    def right(self, params: Params, x: np.ndarray, y: np.ndarray) -> Right | None:
        """The right step at host numbers, which are taken as exact; None where it overflows."""
        tensors = {name: exact(value) for name, value in params.items()}
        found = envelope(self.reference, self.arithmetic, self.generator, tensors, exact(x), exact(y), self.plain)
        return Right(x, y, *found) if found[0].finite else None

    def near_kink(self, right: Envelope) -> np.ndarray:
        """The rows, (N,), that a correct method may see on the other side of ReLU's kink."""
        return near_kink(right) if self.reference.activation == "relu" else np.zeros(right.rows, dtype=bool)

    def conditioned(self, probe: str, params: Params, x: np.ndarray, y: np.ndarray) -> Right | None:
        """The right step on the rows that are away from the kink; None, and a remark, where nothing is left to decide by."""
        found = self.right(params, x, y)
        near = self.near_kink(found.envelope) if found else np.ones(0, dtype=bool)
        if found and near.any() and not near.all():
            found = self.right(params, x[~near], y[~near])
        if found is None or near.all():
            why = "numbers overflow" if found is None else "every row is within rounding of a kink of ReLU"
            self.remarks.append(f"{probe}: could not be decided ({why})")
            return None
        return found

    def evaluation(self, params: Params, x: np.ndarray, y: np.ndarray) -> Evaluation:
        """The exact step at host numbers, rounded as the method has them."""
        tensors = {name: exact(self.subject.cast(value)) for name, value in params.items()}
        return self.reference.evaluate(tensors, exact(self.subject.cast(x)), exact(self.subject.cast(y)))

    def gradient(self, params: Params, x: np.ndarray, y: np.ndarray) -> Params:
        """Its gradient."""
        return {name: grad.numpy() for name, grad in self.evaluation(params, x, y).grads.items()}

    # what a method does

    def step(
        self, at: At, method: Method, state: State, x: np.ndarray, y: np.ndarray, block: Block
    ) -> tuple[np.ndarray, np.ndarray]:
        """Output and loss, (), of one step from `state` on all rows; predicting moves no weight, a step changes no input."""
        placed_x, placed_y = self.subject.put(x), self.subject.put(y)
        output = get(method.predict(placed_x))
        self.same_state(at, state, method.export())
        losses = self.subject.steps(method, placed_x, placed_y, block)
        self.unchanged(at, (placed_x, placed_y), (x, y))
        return output, losses[0] if losses.shape == (1,) else losses

    # what is compared

    def compare(self, at: At, right: Envelope, found: Mapping[str, np.ndarray]) -> None:
        """Each found tensor, by its key, with its envelope."""
        for key, value in found.items():
            beat, _, tensor = key.partition("/")
            self.add(at, beat, tensor, compare(value, right.right[key], right.allowed(key)))

    def add(self, at: At, beat: str, tensor: str, comparison: Comparison) -> None:
        self.judged.append(Judged(at.probe, at.step, beat, tensor, comparison, at.decides))

    def same_names(self, at: At, expected: State, found: State) -> bool:
        """Whether a state has the tensors that it should have, and no others."""
        others = found.named()
        if wrong := sorted(expected.named().keys() ^ others.keys()):
            what = "is no tensor of this network and optimizer" if wrong[0] in others else "is missing"
            self.add(At(at.probe, at.step), "state", wrong[0], Comparison(inf, (), nan, nan, 0.0, what))
        return not wrong

    def same_state(self, at: At, expected: State, found: State) -> None:
        """What a method holds is what it was given, or what it had exported, bit for bit."""
        if not self.same_names(at, expected, found):
            return
        for name, value in expected.named().items():
            if not same_bits(value, other := found.named()[name]):
                self.add(At(at.probe, at.step), "state", name, first_difference(value, other))
                return

    def unchanged(self, at: At, placed: Iterable[Array], given: Iterable[np.ndarray]) -> None:
        """x and y are what they were."""
        for name, array, before in zip(("x", "y"), placed, given, strict=True):
            if not same_bits(get(array), before):
                self.add(At(at.probe, at.step), "inputs", name, first_difference(before, get(array)))
