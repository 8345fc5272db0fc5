"""Is the resolution that a verdict states the one that it has? Faults of a known size, planted in one tensor each.

In the folder `tests`: `python -m campaigns.calibration` prints the resolutions at the tutorial's size, the rates at which
planted faults are called different, and draws docs/calibration.png; `python -m campaigns.calibration 3` does it with 3
networks for each precision in place of NETWORKS.

A trial is the whole judgement of a method, probes and chain, up to the first tensor that is different. Its fault is in what
can be seen of one tensor: the output that is predicted, the loss that is returned, the gradient that the update is made of,
a parameter or a slot as it is after the update; nothing else is computed from it. Its size is relative to the tensor's norm.
TF32 and bfloat16 are emulated on the CPU: operands are rounded, in bfloat16 results too, and sums are float32 (in `right`).
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from campaigns.machine import machine
from campaigns.right import Configuration, Dot, Ordered, bf16, tf32, tutorial

from exp.arrays import Array
from exp.conditions import controlled
from exp.methods.manual import Tensor
from exp.optimizers import SGD, Adam, Momentum
from exp.precisions import BF16, FP32, Precision
from exp.state import State
from exp.verification.case import judge_method
from exp.verification.comparison import Comparison
from exp.verification.judge import At, Judge

BOUNDS = {"fp64": 1e-13, "fp32": 3e-5, "tf32": 1e-2, "bf16": 8e-2}
"""The resolution that is required of every tensor at the tutorial's size."""

PRODUCTS: dict[str, Dot] = {"fp64": np.matmul, "fp32": np.matmul, "tf32": tf32, "bf16": bf16}

MULTIPLES = {"1/30": 1 / 30, "1/10": 1 / 10, "1/3": 1 / 3, "1": 1.0, "3": 3.0, "10": 10.0}
"""Faults, in units of the stated resolution."""

OPTIMIZERS = (SGD(lr=1e-6), Momentum(lr=1e-6), Adam(lr=1e-3))

NETWORKS = 21
"""Networks for each precision, each with one of the OPTIMIZERS: 336 trials for each precision, with 1/30 and with 3."""

AT_FULL_SIZE, OTHER_MULTIPLES = 2, 3
"""The first networks are of the tutorial's size, the others are its shape made smaller. The other multiples of the resolution
are planted in a few of these.
"""

SCALED, RANDOM = "scaled", "random"
"""All elements by one factor; or a random direction: any element alike in outputs and gradients, and in what an update
leaves, where every element is judged by its own size, each by a random factor.
"""

PICTURE = Path(__file__).parents[2] / "docs" / "calibration.png"


@dataclass(frozen=True)
class Plant:
    """A fault of relative size `size` in a tensor, by its key in `Verdict.resolution`."""

    key: str
    size: float
    direction: str
    seed: int

    def grown(self, value: Array) -> Array:
        """The tensor with its fault: the same one wherever a tensor of this shape is computed."""
        value = np.asarray(value)
        random = np.random.default_rng([self.seed, value.size])
        exact = value.astype(np.float64)
        sign = random.choice([-1.0, 1.0])
        if self.direction == SCALED or value.ndim == 0:
            return (exact * (1 + sign * self.size)).astype(value.dtype)
        fault = random.standard_normal(value.shape) * (exact if self.key.startswith("update/") else 1.0)
        norm = float(np.linalg.norm(fault))
        return (exact + fault * (self.size * float(np.linalg.norm(exact)) / norm if norm else 0.0)).astype(value.dtype)

    def within(self, arrays: dict[str, Array], beat: str) -> dict[str, Array]:
        """Tensors by name, of which the one that is meant has its fault."""
        return {name: self.grown(value) if f"{beat}/{name}" == self.key else value for name, value in arrays.items()}


@dataclass(kw_only=True)
class Planted(Ordered):
    """The step by hand with a fault in one tensor."""

    plant: Plant

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, after = super().transition(state, x, y)
        slots = {slot: self.plant.within(arrays, f"update/{slot}") for slot, arrays in after.slots.items()}
        loss = self.plant.within({"loss": loss}, "loss")["loss"]
        return loss, State(self.plant.within(after.params, "update"), slots, after.count)

    def update(self, state: State, grads: dict[str, Array]) -> State:
        return super().update(state, self.plant.within(grads, "backward"))

    def predict(self, x: Array) -> Array:
        output = super().predict(x)
        return self.plant.grown(output) if self.plant.key.startswith("forward/") else output


class Different(Exception):
    """The verdict is different."""


@dataclass
class Impatient(Judge):
    """A judge that stops at the first tensor that is different: one is enough for the verdict."""

    def add(self, at: At, beat: str, tensor: str, comparison: Comparison) -> None:
        super().add(at, beat, tensor, comparison)
        if self.judged[-1].wrong:
            raise Different(beat, tensor)


def detected(configuration: Configuration, precision: str, plant: Plant) -> bool:
    """Whether the verdict on a method with this fault is different, at probes that are drawn anew."""
    case = configuration.case(Planted(dot=PRODUCTS[precision], plant=plant), precision)
    given = case.judge(np.random.default_rng([plant.seed, 98]))
    judge = Impatient(given.subject, given.reference, given.arithmetic, given.generator)
    try:
        judge_method(case, judge)
    except Different:
        return True
    return False


def network(number: int, *, full: bool) -> Configuration:
    """The tutorial's own 64 × 1000 → 100 → 10, or 64 × 60 → 20 → 5, with one optimizer in turn."""
    found = tutorial(number)
    if not full:
        found = tutorial(number, inputs=60, hidden=20, outputs=5)
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)]
    params = found.state.params
    return replace(found, optimizer=optimizer, state=State(params, optimizer.slots(params), found.state.count))


def resolutions(configuration: Configuration, precision: str) -> dict[str, float]:
    """What the verdict on the method without a fault states, by tensor."""
    found = configuration.verdict(Ordered(dot=PRODUCTS[precision]), precision, training=False)
    assert found.verdict == "equivalent", found.line
    return found.resolution


@dataclass
class Rates:
    """How many trials were called different, of how many, by anything that tells trials apart."""

    counts: dict[Any, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, key: Any, different: bool) -> None:
        self.counts[key][0] += different
        self.counts[key][1] += 1

    def total(self, **chosen: Any) -> tuple[int, int]:
        """Different, and trials, of the trials that agree with `chosen`."""
        pairs = [count for key, count in self.counts.items() if all(getattr(key, name) == at for name, at in chosen.items())]
        return sum(different for different, _ in pairs), sum(trials for _, trials in pairs)


@dataclass(frozen=True)
class Kind:
    """A kind of trial."""

    precision: str
    multiple: str
    tensor: str
    direction: str
    full: bool


def plants(resolution: dict[str, float], multiple: float, seed: int) -> Iterator[Plant]:
    """Faults of `multiple` times the stated resolution, in every tensor and direction."""
    for place, (key, size) in enumerate(resolution.items()):
        for direction in (SCALED, RANDOM):
            yield Plant(key, multiple * size, direction, 1000 * seed + 2 * place + (direction == RANDOM))


def trials(precision: str, networks: int, rates: Rates) -> None:
    """All networks in a precision."""
    for number in range(networks):
        full = number < AT_FULL_SIZE
        configuration = network(number, full=full)
        stated = resolutions(configuration, precision)
        for multiple, times in MULTIPLES.items():
            if multiple not in ("1/30", "3") and number - AT_FULL_SIZE not in range(OTHER_MULTIPLES):
                continue
            for plant in plants(stated, times, 100 * number + list(MULTIPLES).index(multiple)):
                kind = Kind(precision, multiple, plant.key, plant.direction, full)
                rates.add(kind, detected(configuration, precision, plant))


def shares(rates: Rates, **chosen: Any) -> list[str]:
    """For each multiple the share called different, and of how many trials."""
    found = []
    for multiple in MULTIPLES:
        different, count = rates.total(multiple=multiple, **chosen)
        found.append(f"{different / count:.1%} of {count}" if count else "–")
    return found


def table(rates: Rates) -> list[str]:
    """By precision, then by tensor, direction and size within it."""
    rows = ["", "trials called different", f"{'fault / stated resolution':42}" + "".join(f"{m:>15}" for m in MULTIPLES)]

    def row(name: str, **chosen: Any) -> None:
        rows.append(f"{name:42}" + "".join(f"{share:>15}" for share in shares(rates, **chosen)))

    for precision in PRODUCTS:
        row(precision, precision=precision)
        for tensor in sorted({kind.tensor for kind in rates.counts}):
            row(f"  {tensor}", precision=precision, tensor=tensor)
        for direction in (SCALED, RANDOM):
            row(f"  {direction}", precision=precision, direction=direction)
        for full in (True, False):
            row(f"  {'64 × 1000 → 100 → 10' if full else '64 × 60 → 20 → 5'}", precision=precision, full=full)
    row("all")
    return rows


def bounds() -> list[str]:
    """The resolution of every tensor at the tutorial's size, with each optimizer, against what is required."""
    lines = ["resolution by tensor at the tutorial's size, 64 × 1000 → 100 → 10: the coarsest of three optimizers' verdicts"]
    kinds = [(f"{name}, emulated" if name in ("tf32", "bf16") else name, name) for name in PRODUCTS]
    found: dict[str, dict[str, float]] = {}
    for title, precision in kinds:
        found[title] = coarsest([resolutions(network(number, full=True), precision) for number in range(len(OPTIMIZERS))])
    found["bf16, method=tensor"] = coarsest([of_autocast(number) for number in range(len(OPTIMIZERS))])
    names = list(found)
    required = {name: BOUNDS[name.partition(",")[0]] for name in names}
    lines.append(f"{'':40}" + "".join(f"{name:>22}" for name in names))
    lines.append(f"{'required, at most':40}" + "".join(f"{required[name]:>22.0e}" for name in names))
    for key in found[names[0]]:
        lines.append(f"{key:40}" + "".join(f"{found[name][key]:>22.1e}" for name in names))
    held = all(size <= required[name] for name, each in found.items() for size in each.values())
    return [*lines, f"every bound is met: {'yes' if held else 'NO'}"]


def coarsest(verdicts: list[dict[str, float]]) -> dict[str, float]:
    return {key: max(each[key] for each in verdicts if key in each) for verdict in verdicts for key in verdict}


def of_autocast(number: int) -> dict[str, float]:
    """What the verdict on `method=tensor precision=bf16` states."""
    with controlled(1, "torch", BF16(), "cpu"):
        return network(number, full=True).verdict(Tensor(), "bf16", training=False).resolution


def draw(rates: Rates, path: Path = PICTURE) -> None:
    """The share called different against the fault in units of the stated resolution, a line for each precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    styles = {
        "fp64": ("#0072B2", "o", "-"),
        "fp32": ("#009E73", "s", "--"),
        "tf32": ("#D55E00", "^", "-."),
        "bf16": ("#7B3294", "D", ":"),
    }
    for place, label in ((1 / 30, "1/30: called different\nin less than 1 %"), (3, "3: caught in\nat least 99 %")):
        axes.axvline(place, color="0.45", linewidth=0.9, zorder=1)
        axes.annotate(label, (place, 50), (6, 0), textcoords="offset points", color="0.25", va="center")
    for precision, (colour, marker, line) in styles.items():
        points = [(times, rates.total(precision=precision, multiple=multiple)) for multiple, times in MULTIPLES.items()]
        places = [times for times, (_, count) in points if count]
        percent = [100 * different / count for _, (different, count) in points if count]
        label = f"{precision}{', emulated' if precision in ('tf32', 'bf16') else ''}"
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "label": label}
        axes.plot(places, percent, linewidth=1.7, markersize=5.5, markerfacecolor="white", markeredgewidth=1.5, **style)
    axes.set_xscale("log")
    axes.set_xticks(list(MULTIPLES.values()), list(MULTIPLES))
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20), [f"{percent} %" for percent in range(0, 101, 20)])
    axes.set_xlabel("planted relative fault / stated resolution")
    axes.set_ylabel("trials called different")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.17, 0.97))
    figure.savefig(path, metadata={"Software": ""})
    pyplot.close(figure)


def conditions() -> Precision:
    """An emulated precision rounds by itself: BLAS computes in the precision of the storage."""
    return FP32()


def main(networks: int = NETWORKS) -> None:
    print(machine("1 thread"))
    rates = Rates()
    with controlled(1, "torch", conditions(), "cpu"):
        print(*bounds(), sep="\n", flush=True)
        for precision in PRODUCTS:
            with suppress(KeyboardInterrupt):
                trials(precision, networks, rates)
            print(f"{precision}: {time.process_time():.0f} s", file=sys.stderr, flush=True)
    print("", (__doc__ or "").strip().split("\n\n")[-1], *table(rates), sep="\n")
    print(f"\n{sum(count for _, count in rates.counts.values())} trials in {time.process_time():.0f} s of processor time")
    draw(rates)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
