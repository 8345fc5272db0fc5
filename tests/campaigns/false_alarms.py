"""Verdicts on right implementations: none may be `different`.

In the folder `tests`: `python -m campaigns.false_alarms` makes 3,000 verdicts, `python -m campaigns.false_alarms 40 60` those
of the numbers 40 … 59, and `… 40 60 cuda` those on a GPU; a number is all that a verdict depends on. Control-C ends it with the
results so far. Beside other work OMP_WAIT_POLICY=passive is advisable: threads that wait by spinning take the processor from
each other.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from campaigns.machine import machine
from campaigns.right import ORDERS, Configuration, Ordered, anything, bf16, tf32, tutorial

from exp.arrays import Place
from exp.conditions import controlled
from exp.methods import Formulas
from exp.methods.autograd import Autograd
from exp.methods.function import Function
from exp.methods.functional import Functional
from exp.methods.graphed import Graphed
from exp.methods.manual import NumPy, Tensor
from exp.methods.module import Module
from exp.precisions import BF16, FP32, FP64, TF32, Precision
from exp.state import State
from exp.training import Training
from exp.verification.case import judge_method
from exp.verification.probes import Probe
from exp.verification.single_step import judge_step
from exp.verification.training_run import judge_training
from exp.verification.verdict import DIFFERENT, UNDECIDED, Verdict, concluded

VERDICTS = 3000

TRAINED_STEPS = (10, 50, 200, 500)
"""The trained states from which the tutorial is judged."""


@dataclass(frozen=True)
class Implementation:
    """A right implementation in a precision. `conditions`: those of torch and BLAS, which an emulated precision has not."""

    name: str
    precision: str
    method: Callable[[], Any]
    conditions: Precision


def ordered(name: str, precision: Precision) -> Implementation:
    """The step by hand, summed in the order `name`."""
    return Implementation(f"{name} order", precision.name, lambda: Ordered(dot=ORDERS[name]), precision)


PACKAGE = {
    "numpy": NumPy,
    "tensor": Tensor,
    "autograd": Autograd,
    "module": Module,
    "function": Function,
    "functional": Functional,
}

SLOW = [ordered(name, FP32()) for name in ("one by one", "kahan")]
"""A Python loop over terms: a second each at the tutorial's size, so that few of its verdicts are on these."""

FAST = [
    *(ordered(name, each) for name in ORDERS if name not in ("one by one", "kahan") for each in (FP32(), FP64())),
    *(Implementation(name, each.name, method, each) for name, method in PACKAGE.items() for each in (FP32(), FP64())),
    *(Implementation(name, "bf16", method, BF16()) for name, method in PACKAGE.items() if name != "numpy"),
    Implementation("emulated on the CPU", "tf32", lambda: Ordered(dot=tf32), FP32()),
    Implementation("emulated on the CPU", "bf16", lambda: Ordered(dot=bf16), FP32()),
]

IMPLEMENTATIONS = [*FAST, *SLOW, *(ordered(name, FP64()) for name in ("one by one", "kahan"))]


ON_A_GPU = [
    Implementation(name, each.name, method, each)
    for name, method in ({**PACKAGE, "graphed": lambda: Graphed(inner=Autograd())}).items()
    for each in (FP32(), FP64(), TF32(), BF16())
    if name != "numpy"
]


@dataclass(frozen=True)
class Trial:
    """One verdict to be made. `states`: along what states, beside the verdict's own probes. `trained`: steps before it."""

    number: int
    states: str
    implementation: Implementation
    configuration: Configuration
    threads: int
    trained: int = 0
    device: str = "cpu"

    def verdict(self) -> Verdict:
        chosen, place = self.implementation, self.configuration
        with controlled(self.threads, "torch", chosen.conditions, self.device):
            if not self.trained:
                return place.verdict(chosen.method(), chosen.precision, self.device, training=self.states != PROBES)
            case = place.case(chosen.method(), chosen.precision, self.device)
            judge = case.judge(np.random.default_rng([self.number, 99]))
            judge_method(case, judge)
            judge_training(case, judge, place.training, place.x, place.y, place.state)
            count = int(place.state.count)
            judge_step(judge, Probe("trained", place.state.params, count, place.x, place.y, conditioned=False))
            return concluded(case, judge)

    def __str__(self) -> str:
        parts = self.configuration
        sizes = [parts.x.shape[1], *parts.network.hidden, parts.y.shape[1]]
        layers = f"{len(parts.x)} × {' → '.join(map(str, sizes))} {parts.network.activation}, bias {parts.network.bias}"
        batch = f"batch_size {parts.training.batch_size}"
        return (
            f"number {self.number}: {self.implementation.name}, {self.implementation.precision}, {self.threads} threads, "
            f"{self.states}: {layers}, {type(parts.loss).__name__}, {parts.optimizer}, {batch}"
        )


PROBES, TRAINING = "random network, probes", "random network, probes and training"
TUTORIAL, TRAINED = "tutorial, probes and its training", "tutorial, probes and from trained states"


def trial(number: int, device: str = "cpu") -> Trial:
    """The verdict of a number: of 60, one is on the tutorial along its training, one from a trained state of it."""
    if device != "cpu":  # of 10 one is on the tutorial
        chosen = ON_A_GPU[np.random.default_rng([number, 11]).integers(len(ON_A_GPU))]
        states = TUTORIAL if number % 10 == 0 else TRAINING if number % 4 == 3 else PROBES
        return Trial(number, states, chosen, tutorial(number) if states == TUTORIAL else anything(number), 1, 0, device)
    turn = number // 60
    threads = 2 if number % 25 == 5 or (number % 60 < 2 and turn % 4 == 3) else 1
    if number % 60 == 0:
        slow = turn % 15 == 7
        place = tutorial(number)
        if slow:
            place = replace(place, training=Training(steps=11))
        return Trial(number, TUTORIAL, SLOW[turn // 15 % 2] if slow else FAST[turn % len(FAST)], place, threads)
    if number % 60 == 1:
        steps = TRAINED_STEPS[turn % len(TRAINED_STEPS)]
        place = replace(
            tutorial(turn // len(TRAINED_STEPS)),
            state=trained(turn // len(TRAINED_STEPS))[steps],
            training=Training(steps=3),
        )
        return Trial(number, TRAINED, FAST[turn % len(FAST)], place, threads, steps)
    implementation = IMPLEMENTATIONS[number % len(IMPLEMENTATIONS)]
    return Trial(number, TRAINING if number % 20 == 3 else PROBES, implementation, anything(number), threads)


@lru_cache(maxsize=1)
def trained(seed: int) -> dict[int, State]:
    """States of the tutorial after TRAINED_STEPS steps in float64."""
    place, found = tutorial(seed), {}
    method = NumPy()
    constants = place.optimizer.constants()
    method.start(Formulas(place.network, place.loss, place.optimizer, constants), place.state, Place("numpy", "cpu", "float64"))
    for step in range(1, TRAINED_STEPS[-1] + 1):
        method.step(place.x, place.y)
        if step in TRAINED_STEPS:
            found[step] = method.export()
    return found


@dataclass
class Result:
    """A trial with what came out."""

    trial: Trial
    verdict: Verdict

    @property
    def largest(self) -> tuple[float, str]:
        """The largest error in tolerances, and of what."""
        return max(((ratio, key) for key, ratio in self.verdict.largest.items()), default=(0.0, ""))


def report(results: list[Result], seconds: float) -> list[str]:
    """The lines of the printed result."""
    tables = {
        "states": lambda trial: trial.states,
        "precision": lambda trial: trial.implementation.precision,
        "implementation": lambda trial: trial.implementation.name,
        "threads": lambda trial: str(trial.threads),
        "layers": lambda trial: str(len(trial.configuration.network.hidden) + 1),
        "activation": lambda trial: trial.configuration.network.activation,
        "loss": lambda trial: type(trial.configuration.loss).__name__,
        "optimizer": lambda trial: type(trial.configuration.optimizer).__name__,
        "batches": lambda trial: "all rows" if trial.configuration.training.batch_size is None else "mini-batches",
    }
    verdicts = Counter(result.verdict.verdict for result in results)
    comparisons = sum(result.verdict.comparisons for result in results)
    lines = [
        f"{len(results)} verdicts on right implementations in {seconds:.0f} s of processor time, "
        f"{comparisons} tensors compared: {verdicts[DIFFERENT]} different, {verdicts[UNDECIDED]} undecided",
        "",
        f"{'':44}{'verdicts':>10}{'different':>11}{'undecided':>11}{'largest error / tolerance':>27}",
    ]
    for title, of in tables.items():
        for name in sorted({of(result.trial) for result in results}):
            group = [result for result in results if of(result.trial) == name]
            count = Counter(result.verdict.verdict for result in group)
            largest = max(result.largest[0] for result in group)
            lines.append(f"{f'{title}: {name}':44}{len(group):>10}{count[DIFFERENT]:>11}{count[UNDECIDED]:>11}{largest:>27.2f}")
    reasons = Counter(reason(result.verdict) for result in results if result.verdict.verdict == UNDECIDED)
    lines += ["", "undecided because", *(f"{count:>6}  {why}" for why, count in reasons.most_common())]
    lines += ["", "the largest errors, in tolerances"]
    for result in sorted(results, key=lambda result: -result.largest[0])[:8]:
        lines.append(f"{result.largest[0]:>6.2f}  {result.largest[1]}, {result.trial}")
    alarms = [f"{result.trial}: {result.verdict.line}" for result in results if result.verdict.verdict == DIFFERENT]
    return [*lines, "", "false alarms", *(alarms or ["  none"])]


def reason(verdict: Verdict) -> str:
    """Without the names and numbers of one case."""
    text = re.sub(r"[a-z_]+/[\w./]+(, [a-z_]+/[\w./]+)*", "tensors", verdict.reason)
    return re.sub(r"\d+%", "so many %", text)


def main(first: int, last: int, device: str) -> int:
    results: list[Result] = []
    print(machine("1 and 2 threads" if device == "cpu" else "1 thread"))
    with suppress(KeyboardInterrupt):
        for number in range(first, last):
            chosen = trial(number, device)
            results.append(Result(chosen, chosen.verdict()))
            if results[-1].verdict.verdict == DIFFERENT:
                print(f"FALSE ALARM at {chosen}: {results[-1].verdict.line}", file=sys.stderr, flush=True)
            if len(results) % 100 == 0:
                print(f"{len(results)} of {last - first}", file=sys.stderr, flush=True)
    print(*report(results, time.process_time()), sep="\n")
    return int(any(result.verdict.verdict == DIFFERENT for result in results))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    first, last = (*numbers, *(0, VERDICTS)[len(numbers) :])
    sys.exit(main(first, last, sys.argv[-1] if sys.argv[-1].startswith("cuda") else "cpu"))
