"""The verdict on a method: equivalent, different, undecided or unsupported; with what it stands on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from typing import Any

import numpy as np

from exp.state import State
from exp.training import Training
from exp.verification.judge import BEATS, Judge, Judged
from exp.verification.locate import Locator
from exp.verification.probes import Shape, probes, signed
from exp.verification.reference import Reference, Unknown
from exp.verification.subject import Subject, visible
from exp.verification.tolerance import Arithmetic

EQUIVALENT, DIFFERENT, UNDECIDED, UNSUPPORTED = "equivalent", "different", "undecided", "unsupported"

EXIT_CODES = {EQUIVALENT: 0, UNSUPPORTED: 1, DIFFERENT: 2, UNDECIDED: 4}

PROBE_ROWS = 20
"""Rows of a probe at most: the whole batches are those of the training itself."""

BLUNT = 0.3
"""A tensor whose resolution is no better has not been judged: faults of a third of its size could be there."""

LOOKED_AT = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The steps of a training run from whose states the method is judged."""

REFERENCE_OPERATIONS = 3e9
"""Floating-point operations for the reference's own free-running curve, at most."""


@dataclass(frozen=True)
class Finding:
    """The first wrong thing: beat of the step, layer and tensor, where, both values, and the distance in tolerances."""

    beat: str
    tensor: str
    layer: int | None
    probe: str
    step: int | None
    index: tuple[int, ...]
    found: float
    expected: float
    ratio: float

    def __str__(self) -> str:
        where = f"{self.probe}, step {self.step}" if self.step is not None else self.probe
        place = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        apart = f" ({self.ratio:.3g} times the tolerance)" if isfinite(self.ratio) else ""
        digits = 9 if f"{self.found:.9g}" != f"{self.expected:.9g}" else 17
        values = f"{self.found:.{digits}g} where {self.expected:.{digits}g} is right"
        return f"{self.beat}, {self.tensor}{place} at probe {where}: {values}{apart}"


@dataclass
class Verdict:
    """`resolution`: the smallest relative fault that would have been seen, by "beat/tensor"; `largest`: the largest error, in
    tolerances. `reason` and `would_decide` are for what is undecided or unsupported.
    """

    verdict: str
    reason: str = ""
    would_decide: str = ""
    first: Finding | None = None
    resolution: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    comparisons: int = 0
    curve: dict[str, Any] = field(default_factory=dict)
    kit: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    traceback: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.first:
            return f"{self.verdict}: {self.first}"
        if self.reason:
            return f"{self.verdict}: {self.reason}; would decide it: {self.would_decide}"
        assert self.bluntest
        return f"{self.verdict}; a relative fault from {self.bluntest[1]:.1e} on ({self.bluntest[0]}) would have been seen"

    @property
    def bluntest(self) -> tuple[str, float] | None:
        """The tensor with the coarsest resolution."""
        return max(self.resolution.items(), key=lambda item: item[1], default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, text, lists and dictionaries; infinities as text, which JSON has not."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(inner) for key, inner in value.items()}
            if isinstance(value, list | tuple):
                return [plain(inner) for inner in value]
            return str(value) if isinstance(value, float) and not isfinite(value) else value

        return plain(asdict(self))

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Verdict":
        """The inverse of `as_json`, but for infinities."""
        first = stored["first"] and Finding(**stored["first"])
        return cls(**(stored | {"first": first}))


@dataclass(frozen=True)
class Case:
    """What is verified. `reference` knows loss and optimizer; `readers` are other optimizers by which gradients can be read."""

    subject: Subject
    precision: str
    widths: tuple[int, ...]
    classes: bool
    batch_size: int | None
    samples: int
    seed: int
    readers: Sequence[Any] = ()

    @property
    def arithmetic(self) -> Arithmetic:
        return Arithmetic(self.precision, self.subject.place.dtype)

    @property
    def shape(self) -> Shape:
        network = self.subject.network
        rows = min(self.batch_size or self.samples, PROBE_ROWS)
        return Shape(self.widths, network.bias, network.activation == "relu", self.classes, rows)

    def judge(self, generator: np.random.Generator) -> Judge:
        """Raises `reference.Unknown` for a loss or an optimizer that torch has no twin of."""
        subject = self.subject
        return Judge(
            subject, Reference(subject.network.activation, subject.loss, subject.optimizer), self.arithmetic, generator
        )


def judge_method(case: Case, judge: Judge) -> None:
    """Judge single steps at all probes, then a chain of steps and the same steps as a block. Independent of any data."""
    overflowing = 1000.0 if case.subject.place.dtype == "float64" else 150.0
    for probe in probes(case.shape, judge.generator, overflowing=overflowing):
        judge.probe(probe)
    judge_chain(case, judge)


def judge_chain(case: Case, judge: Judge) -> None:
    """Four steps from a conditioned state, in batches as configured, a ragged one among them."""
    batched, rows, shape = case.batch_size is not None, case.shape.rows, case.shape
    probe = signed(
        Shape(shape.widths, shape.bias, shape.relu, shape.classes, 2 * rows + rows // 2 if batched else rows), judge.generator
    )
    order = judge.generator.permutation(len(probe.x))
    plan: list[np.ndarray | None] = [None] * 4
    if batched:
        batches = [batch for batch in np.split(order, [rows, 2 * rows]) if len(batch)]
        plan = [*batches, judge.generator.permutation(len(probe.x))[:rows]]
    params = {name: case.subject.cast(value) for name, value in probe.params.items()}
    optimizer = visible(case.subject.optimizer, params, judge.gradient(params, probe.x, probe.y))
    slots = {slot: {name: np.zeros_like(value) for name, value in params.items()} for slot in optimizer.slot_names}
    state = State(params, slots, np.array(0, dtype=np.int64))
    judge.chain("chain", optimizer, state, probe.x, probe.y, plan, judged=range(len(plan)), conditioned=True)
    even = [batch for batch in plan if batch is None or len(batch) == rows]
    losses, last = judge.chain("block", optimizer, state, probe.x, probe.y, even, judged=range(len(even)), conditioned=True)
    judge.block("block", optimizer, state, probe.x, probe.y, even, losses, last)


def judge_training(case: Case, judge: Judge, training: Training, inputs: np.ndarray, targets: np.ndarray, state: State) -> dict:
    """Judge the configured training itself, at some of its steps; returns its curve beside the reference's, not judged."""
    samples = len(inputs)
    operations = 6.0 * sum(value.size for value in state.params.values()) * (training.batch_size or samples)
    total = training.total_steps(samples)
    steps = int(max(1, min(total, LOOKED_AT[-1] + 1, max(REFERENCE_OPERATIONS / operations, 3))))
    plan = [batch for _, batch in zip(range(steps), training.batches(samples), strict=False)]
    judged = [step for step in LOOKED_AT if step < steps]
    optimizer = case.subject.optimizer
    losses, _ = judge.chain("training", optimizer, state, inputs, targets, plan, judged=judged, conditioned=False)
    _judge_plan(judge, training, samples)
    return _free_running(case, judge, inputs, targets, plan, state, losses)


def _free_running(
    case: Case, judge: Judge, inputs: np.ndarray, targets: np.ndarray, plan: list, state: State, losses: np.ndarray
) -> dict[str, Any]:
    """The reference's own curve from the same rounded start, and how far the method's is from it."""
    from exp.verification.reference import exact

    x, y = exact(case.subject.cast(inputs)), exact(case.subject.cast(targets))
    current = case.subject.rounded(state).map(exact)
    right = []
    for rows in plan:
        batch = (x, y) if rows is None else (x[rows], y[rows])
        evaluation = judge.reference.evaluate(current.params, *batch)
        right.append(float(evaluation.loss))
        current = judge.reference.updated(current, evaluation.grads)
    with np.errstate(all="ignore"):
        distance = np.abs(losses - right) / np.abs(right)
    finite = np.isfinite(distance)
    worst = int(np.where(finite, distance, -1).argmax())
    return {
        "steps": len(plan),
        "method": losses.tolist(),
        "reference": right,
        "largest_relative_difference": float(distance[worst]) if finite.any() else inf,
        "at_step": worst,
    }


def _judge_plan(judge: Judge, training: Training, samples: int) -> None:
    """The loop's batches: every epoch takes every row once, in batches of the size asked for, the last of what is left."""
    from exp.verification.tolerance import Comparison

    size = training.batch_size or samples
    per_epoch = -(-samples // size)
    expected = training.steps or (training.epochs or 0) * per_epoch

    def wrong(what: str, found: float, right: float) -> None:
        judge.judged.append(Judged("batches", None, "batches", what, Comparison(inf, (), found, right, 0.0)))

    limit, seen = min(expected, 3 * per_epoch), 0
    epoch: list[np.ndarray] = []
    for block in training.blocks(samples):
        if block.first != seen:
            return wrong("first step of a block", block.first, seen)
        batches = [None] * block.steps if block.rows is None else list(block.rows)
        if len(batches) != block.steps or (block.rows is None) != (training.batch_size is None):
            return wrong("batches of a block", len(batches), block.steps)
        for batch in batches:
            seen += 1
            if batch is None:
                continue
            epoch.append(batch)
            due = min(size, samples - (len(epoch) - 1) * size)
            if len(batch) != due:
                return wrong(f"rows of batch {len(epoch)} of an epoch", len(batch), due)
            if len(epoch) == per_epoch:
                rows = np.sort(np.concatenate(epoch))
                if not np.array_equal(rows, np.arange(samples)):
                    return wrong("different rows in an epoch", len(np.unique(rows)), samples)
                epoch = []
        if seen >= limit and training.batch_size is not None:
            break
    if training.total_steps(samples) != expected or (training.batch_size is None and seen != expected):
        return wrong("steps in all", training.total_steps(samples), expected)
    return None


def concluded(case: Case, judge: Judge) -> Verdict:
    """The verdict from all comparisons."""
    found = Verdict(EQUIVALENT, comparisons=len(judge.judged), remarks=judge.remarks)
    for entry in judge.judged:
        key = f"{entry.beat}/{entry.tensor}"
        if entry.beat in BEATS[2:6] and entry.decides and entry.tensor != "count":
            found.resolution[key] = min(found.resolution.get(key, inf), entry.comparison.resolution)
            found.largest[key] = max(found.largest.get(key, 0.0), entry.comparison.ratio)
    wrong = sorted((entry for entry in judge.judged if entry.wrong), key=lambda entry: entry.order)
    if wrong:
        first = Locator(judge, case.shape, case.readers).located(wrong[0])
        found.verdict, found.first = DIFFERENT, _finding(first)
        return found
    if missing := [key for key in _expected(case) if key not in found.resolution]:
        found.verdict, found.reason = UNDECIDED, f"{', '.join(missing)} could not be judged at any probe"
        found.would_decide = "a smaller network or loss, whose numbers stay finite in this precision, or precision=fp64"
    elif blunt := [key for key, resolution in found.resolution.items() if resolution > BLUNT]:
        worst = max(blunt, key=lambda key: found.resolution[key])
        found.verdict = UNDECIDED
        found.reason = f"{worst} is known to {found.resolution[worst]:.0%} only"
        found.would_decide = "precision=fp64, or a smaller network"
    return found


def _expected(case: Case) -> list[str]:
    """What must have been judged."""
    layers = len(case.widths) - 1
    kinds = ("weight", "bias") if case.subject.network.bias else ("weight",)
    params = [f"layer{layer}.{kind}" for layer in range(1, layers + 1) for kind in kinds]
    updates = [f"{slot}/{name}" for slot in case.subject.optimizer.slot_names for name in params] + params
    return [f"forward/layer{layers}.output", "loss/loss", *(f"backward/{name}" for name in params)] + [
        f"update/{name}" for name in updates
    ]


def _finding(first: Judged) -> Finding:
    layer = next((int(part[5:].partition(".")[0]) for part in first.tensor.split("/") if part.startswith("layer")), None)
    comparison = first.comparison
    values = (comparison.index, comparison.found, comparison.expected, comparison.ratio)
    return Finding(first.beat, first.tensor, layer, first.probe, first.step, *values)


def undecided(reason: str, would_decide: str) -> Verdict:
    return Verdict(UNDECIDED, reason, would_decide)


__all__ = ["Case", "Finding", "Unknown", "Verdict", "concluded", "judge_method", "judge_training", "undecided"]
