"""A campaign: faults are planted, judged as `task=verify` judges, and counted."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from campaigns.faults import Fault

from exp.composition import compose
from exp.configuration import instantiate
from exp.environment import processor
from exp.judgement import conditions, judged
from exp.methods import Method
from exp.verification.verdict import DIFFERENT, Verdict

FIXED = ("tracker=none", "device=cpu", "threads=1")


@dataclass(frozen=True)
class Outcome:
    """What was found of one fault in one precision."""

    fault: Fault
    precision: str
    verdict: Verdict

    @property
    def caught(self) -> bool:
        return self.verdict.verdict == DIFFERENT and self.verdict.first is not None

    @property
    def beat(self) -> bool:
        """Whether the right beat is named."""
        return self.verdict.first is not None and self.verdict.first.beat in self.fault.beats

    @property
    def tensor(self) -> bool:
        """Whether the right tensor is named."""
        first = self.verdict.first
        return first is not None and (not self.fault.tensors or first.tensor in self.fault.tensors)

    @property
    def ticks(self) -> str:
        return " ".join(word if good else "·" * len(word) for word, good in self.judgements)

    @property
    def judgements(self) -> list[tuple[str, bool]]:
        return [("caught", self.caught), ("beat", self.beat), ("tensor", self.tensor)]

    @property
    def named(self) -> str:
        first = self.verdict.first
        return f"{first.beat}, {first.tensor}" if first else self.verdict.reason


def outcome(fault: Fault, precision: str, *more: str) -> Outcome:
    """The verdict on one fault, by the path of `task=verify`; `more` are further words of its command line."""
    experiment, _ = instantiate(*deepcopy(_composed((*FIXED, *fault.overrides, f"precision={precision}", *more))))
    data = experiment.check()
    with fault.plant() as method:
        experiment.method = on_torch(method) if precision == "bf16" else method
        with conditions(experiment, "cpu"):
            return Outcome(fault, precision, judged(experiment, data, "cpu"))


@cache
def _composed(words: tuple[str, ...]) -> Any:
    return compose(list(words))


def on_torch(method: Method) -> Method:
    """The method itself, or the same code on torch's arrays: NumPy has no bfloat16."""
    if method.library == "torch":
        return method
    kind = type(f"{type(method).__name__}OnTorch", (type(method),), {"library": "torch"})
    return kind()


def conditions_line() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("exp", "numpy", "torch"))
    return f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, 1 thread, {versions}"


def table(found: Iterable[Outcome], *, sources: bool = False) -> list[Outcome]:
    """Print a line for each outcome as it comes, and its source; returns them."""
    print(f"{'family':41} {'magnitude':27} {'':5} {'verdict':11} {'right':19} named")
    kept = []
    for each in found:
        fault = each.fault
        start = f"{fault.family:41.41} {fault.magnitude:27.27} {each.precision:5} {each.verdict.verdict:11}"
        print(f"{start} {each.ticks:19} {each.named}", flush=True)
        if sources:
            print(f"    {fault.source}")
        kept.append(each)
    return kept


def totals(found: Sequence[Outcome], bars: Mapping[str, float]) -> bool:
    """Print the totals; whether every bar, a share in percent, is met."""
    met = True
    for number, (name, bar) in enumerate(bars.items()):
        good = sum(each.judgements[number][1] for each in found)
        share = 100 * good / len(found)
        met = met and share >= bar
        print(f"{name}: {good} of {len(found)}, {share:.2f} % (at least {bar:g} %{'' if share >= bar else ': NOT MET'})")
    return met


def timed(run: Callable[[], bool]) -> int:
    """The exit code of a campaign, with its duration."""
    started = time.perf_counter()
    met = run()
    print(f"{time.perf_counter() - started:.0f} s")
    return 0 if met else 1
