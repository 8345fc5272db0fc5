"""Where one device begins to win over another, of the sizes of a sweep: the answer in a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exp.benchmark.table import Status
from exp.verification.verdict import EQUIVALENT

CLAIM = 50.0
"""The tutorial: "for modern deep neural networks, GPUs often provide speedups of 50x or greater"."""

PLACE = ("method", "device", "precision", "threads")
"""What differs between the runs of one size."""


@dataclass(frozen=True, order=True)
class Point:
    """A measured size: hidden units (of all layers), rows of a batch, and what else tells it from others of that shape."""

    hidden: int
    rows: int
    setting: str = ""

    @property
    def size(self) -> int:
        return self.hidden * self.rows

    @property
    def said(self) -> str:
        return f"{self.hidden} hidden units, batch {self.rows}{f', {self.setting}' if self.setting else ''}"


def points(statuses: Sequence[Status]) -> dict[Point, list[Status]]:
    """The runs of every size, the narrowest first. Several sizes of one shape differ in an optimizer, a loss, a seed, …"""
    known = [status for status in statuses if "shape" in status["benchmark"]]
    shapes: dict[tuple[int, int], dict[str, list[Status]]] = {}
    for status in known:
        hidden, rows = status["benchmark"]["shape"]
        shapes.setdefault((int(hidden), int(rows)), {}).setdefault(status["benchmark"].get("size_key", ""), []).append(status)
    apart = {key for sizes in shapes.values() for key in _apart([*sizes.values()])}
    found: dict[Point, list[Status]] = {}
    for (hidden, rows), sizes in sorted(shapes.items()):
        for size_key, members in sizes.items():
            told = _told(members[0])
            setting = " ".join(f"{key}={told[key]}" for key in sorted(apart & told.keys()))
            if (point := Point(hidden, rows, setting)) in found:  # what it was planned with does not tell them apart
                point = Point(hidden, rows, f"{setting} ({size_key[:6]})".strip())
            found[point] = members
    return found


def _told(status: Status) -> dict[str, str]:
    """What a run was planned with."""
    chosen = status["choices"] | status.get("factors", {})
    return {key: str(value) for key, value in chosen.items() if key not in PLACE}


def _apart(sizes: Sequence[Sequence[Status]]) -> set[str]:
    """The keys in which sizes of one shape differ, and all runs of each agree."""
    told = [[_told(status) for status in size] for size in sizes]
    keys = {key for size in told for each in size for key in each}
    values = {key: [{each.get(key) for each in size} for size in told] for key in keys}
    return {key for key, each in values.items() if max(map(len, each)) == 1 and len(set.union(*each)) > 1}


def answer(statuses: Sequence[Status]) -> list[str]:
    """Where a GPU begins to win, and whether it is CLAIM times as fast; or that nobody has measured it. Of several sizes."""
    every = points(statuses)
    if len({point.hidden for point in every}) < 2 or len({point.rows for point in every}) < 2:
        return []
    speeds = {point: ratio for point, runs in every.items() if (ratio := gpu_speed(runs)) is not None}
    if not speeds:
        return [f"{CLAIM:.0f} times or more on a GPU, as the tutorial says: not measured, no GPU was timed beside a CPU here"]
    least = {point: gpu_speed(every[point], least=True) or 0.0 for point in speeds}
    sure, perhaps = ([point for point, ratio in found.items() if ratio > 1] for found in (least, speeds))
    wins = f"wins {_at(sure, speeds)}" if sure else "wins nowhere here"
    if perhaps and not sure:
        wins = f"is not sure to win at any of these sizes, perhaps {_at(perhaps, speeds)}: the intervals are too wide"
    best = max(speeds, key=lambda point: speeds[point])
    line = f"the GPU {wins}; at most it is {speeds[best]:.3g} times as fast as the CPU's fastest ({best.said})"
    sure = [point for point, ratio in least.items() if ratio >= CLAIM]
    perhaps = [point for point, ratio in speeds.items() if ratio >= CLAIM]
    true = f"true {_at(sure, speeds)}" if sure else "not true at any of these sizes"
    if perhaps and not sure:
        true = f"not sure at any of these sizes, perhaps {_at(perhaps, speeds)}: the intervals are too wide"
    found = [line, f"{CLAIM:.0f} times or more, as the tutorial says: {true}"]
    threads, cores = max((own["threads"], own["cores"]) for own in (each["benchmark"] for each in statuses if _on_cpu(each)))
    if threads < cores:
        found.append(f"the CPU computed with {threads} of its {cores} cores; threads={cores} gives it all of them")
    return found


def _at(some: Sequence[Point], every: Iterable[Point]) -> str:
    """Where something holds: from a size on, where it does at all that are as large too; else at how many."""
    every, first = list(every), min(some, key=lambda point: (point.size, point))
    if all(point in some for point in every if point.size >= first.size):
        return f"from {first.said} on"
    return f"at {len(some)} of {len(every)} sizes, the smallest {first.said}"


def _on_cpu(status: Status) -> bool:
    return status["choices"]["device"] == "cpu" and "shape" in status["benchmark"]


def gpu_speed(runs: Sequence[Status], *, least: bool = False) -> float | None:
    """The fastest equivalent GPU combination of a size relative to the fastest equivalent CPU one; None where one is missing.

    By their medians, or `least`: by the ends of their intervals at which the GPU is the slowest, the CPU the fastest.
    """

    def fastest(on_cpu: bool, end: str) -> float | None:
        seconds = [
            status["metrics"][f"speed/step_seconds{end}"]
            for status in runs
            if _on_cpu(status) == on_cpu and status["verdict"] == EQUIVALENT and not status["benchmark"].get("refused")
        ]
        return min(seconds, default=None)

    cpu, gpu = fastest(True, "_low" if least else ""), fastest(False, "_high" if least else "")
    return None if cpu is None or gpu is None else cpu / gpu
