"""The table of a benchmark, from the statuses of its runs; peers are rows in the status of their baseline."""

from collections.abc import Sequence
from typing import Any

from exp.summary import cell

COLUMNS = ("device", "precision", "first step", "warm-up", "step", "95 %", "quartiles", "speed", "verdict")
COLUMNS += ("GFLOP/s", "GB/s", "bound", "memory")

Status = dict[str, Any]


def rows_of(statuses: Sequence[Status]) -> list[Status]:
    """The runs with the peers beside their baselines, size by size in the order of the plan, the fastest first."""
    every = [*statuses, *(peer for status in statuses for peer in status["benchmark"].get("peers", ()))]
    place = {key: number for number, key in enumerate(dict.fromkeys(map(_size, every)))}

    def rank(status: Status) -> tuple[int, float]:
        return place[_size(status)], status["metrics"].get("speed/step_seconds", float("inf"))

    return sorted(every, key=rank)


def _size(status: Status) -> tuple[str, int]:
    return status["benchmark"]["session"], status["benchmark"]["size"]


def text(status: Status, column: str) -> str:
    """One cell."""
    numbers, benchmark = status.get("metrics", {}), status["benchmark"]
    if column in ("verdict", "run", "method", "device", "precision"):
        return cell(status, column)
    if column == "bound":
        return benchmark.get("bound", "–")
    if "speed/step_seconds" not in numbers:
        return "–"
    if column == "speed":
        interval = f" ({benchmark['interval']})" if benchmark.get("interval") else ""
        return f"{benchmark.get('speed', '–')}{interval}"
    if column == "step":
        return duration(numbers["speed/step_seconds"])
    if column == "first step":
        return duration(numbers["speed/start_seconds"] + numbers["speed/first_step_seconds"])
    if column == "warm-up":
        return f"{numbers['speed/warm_up_steps']:.0f} steps"
    if column == "memory":
        found = [f"{numbers[name] / 2**20:.0f}" for name in ("memory/host_bytes", "memory/device_bytes") if name in numbers]
        return f"{' + '.join(found)} MiB" if found else "–"
    if column in ("95 %", "quartiles"):
        names = ("step_seconds_low", "step_seconds_high") if column == "95 %" else ("first_quartile", "third_quartile")
        return interval_text(*(numbers[f"speed/{name}"] for name in names))
    rate, share = {
        "GFLOP/s": ("operations_per_second", "share_of_arithmetic"),
        "GB/s": ("bytes_per_second", "share_of_memory"),
    }[column]
    part = f" ({numbers[f'speed/{share}']:.0%})" if f"speed/{share}" in numbers else ""
    return f"{numbers[f'speed/{rate}'] / 1e9:.3g}{part}"


UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(seconds: float) -> str:
    """Three digits in the unit that suits."""
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds >= scale), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def interval_text(low: float, high: float) -> str:
    """Both in the unit of the second."""
    scale, _ = next(((scale, unit) for scale, unit in UNITS if high >= scale), UNITS[-1])
    return f"{low / scale:.3g}–{duration(high)}"


def notes(statuses: Sequence[Status]) -> list[str]:
    """What a reader must know to weigh the table."""
    found: list[str] = []
    for status in statuses:
        found += [f"warning: {line}" for line in status["benchmark"].get("warnings", ())]
    for status in rows_of(statuses):
        found += status["benchmark"].get("notes", ())
    if any(len(sessions) > 1 for sessions in _sessions(statuses).values()):
        again = "sweep.rerun=all times those of one size together"
        found.append(
            f"runs of one size were timed in different sessions: a speed is relative to the baseline of its own; {again}"
        )
    return list(dict.fromkeys(found))


def _sessions(statuses: Sequence[Status]) -> dict[str, set[str]]:
    """In which sessions the runs of each size were timed; what was skipped was in none."""
    found: dict[str, set[str]] = {}
    for status in statuses:
        if "speed/step_seconds" in status["metrics"] and (key := status["benchmark"].get("size_key")):
            found.setdefault(key, set()).add(status["benchmark"]["session"])
    return found
