"""The verdict on a method: equivalent, different, undecided or unsupported; with what it stands on."""

from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from typing import Any

from exp.verification.case import Case
from exp.verification.comparison import BEATS, Judged
from exp.verification.judge import Judge
from exp.verification.locate import Locator
from exp.verification.reference import layer_of

EQUIVALENT, DIFFERENT, UNDECIDED, UNSUPPORTED = "equivalent", "different", "undecided", "unsupported"

EXIT_CODES = {EQUIVALENT: 0, UNSUPPORTED: 1, DIFFERENT: 2, UNDECIDED: 4}

BLUNT = 0.3
"""A tensor whose resolution is no better has not been judged: faults of a third of its size could be there."""


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
    what: str = ""

    def __str__(self) -> str:
        if self.beat == "contract":
            return f"{self.tensor} is broken: {self.what}"
        where = f"{self.probe}, step {self.step}" if self.step is not None else self.probe
        place = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        apart = f" ({self.ratio:.3g} times the tolerance)" if isfinite(self.ratio) else ""
        digits = 9 if f"{self.found:.9g}" != f"{self.expected:.9g}" else 17
        if self.what:
            return f"{self.beat}, {self.tensor} at probe {where}: {self.what}"
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
        """The inverse of `as_json`."""

        def number(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: number(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [number(inner) for inner in value]
            return float(value) if value in ("inf", "-inf", "nan") else value

        parts = {**stored, **{key: number(stored[key]) for key in ("first", "resolution", "largest", "curve")}}
        if first := parts["first"]:
            parts["first"] = Finding(**{**first, "index": tuple(first["index"])})
        return cls(**parts)


def concluded(case: Case, judge: Judge) -> Verdict:
    """The verdict from all comparisons."""
    found = Verdict(EQUIVALENT, comparisons=len(judge.judged), remarks=judge.remarks)
    for entry in judge.judged:
        key = f"{entry.beat}/{entry.tensor}"
        if entry.beat in BEATS[2:6] and entry.decides and entry.tensor != "count":
            found.resolution[key] = min(found.resolution.get(key, inf), entry.comparison.resolution)
            found.largest[key] = max(found.largest.get(key, 0.0), entry.comparison.ratio)
    if judge.wrong:
        first = Locator(judge, case.shape, case.readers).located(judge.wrong[0])
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


def concluded_of_losses(case: Case, judge: Judge) -> Verdict:
    """The verdict on steps that were not judged tensor by tensor at probes: their losses must have been decided."""
    if judge.wrong:
        return concluded(case, judge)
    decided = any(entry.beat == "loss" and entry.decides for entry in judge.judged)
    found = Verdict(EQUIVALENT) if decided else undecided("no timed step could be decided", "precision=fp64")
    return replace(found, remarks=judge.remarks, comparisons=len(judge.judged))


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
    layer = layer_of(first.tensor.rpartition("/")[2]) if "layer" in first.tensor else None
    comparison = first.comparison
    values = (comparison.index, comparison.found, comparison.expected, comparison.ratio, comparison.what)
    return Finding(first.beat, first.tensor, layer, first.probe, first.step, *values)


def undecided(reason: str, would_decide: str) -> Verdict:
    return Verdict(UNDECIDED, reason, would_decide)
