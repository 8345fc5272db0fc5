"""The machine around a measurement: what others compute on it, its clock frequency; and what there is to warn of."""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from exp.benchmark import clock
from exp.environment import cores

BUSY_CORES = 0.25
"""Others that compute so much of a core disturb: the measurement has to share caches and memory, perhaps its core."""

SLOWED = 0.15
"""The ceiling or the clock frequency fell by this share within the run: throttling, or a machine that others use."""


LOOK_SECONDS = 0.2
"""Between two looks at which cores are busy."""


@dataclass(frozen=True)
class Look:
    """At the machine, once. None where this system does not tell."""

    at: float
    busy_seconds: float | None
    stolen_seconds: float | None
    own_seconds: float
    hertz: float | None


def look(workers: Iterable[int | None]) -> Look:
    """Now, with the processor seconds of this process and of these workers, and of their children that have ended."""
    own = sum(os.times()[:4]) + sum(_computed_by(worker) for worker in workers if worker is not None)
    busy, stolen = _processor()
    return Look(clock.seconds(), busy, stolen, own, _hertz())


def quiet_core(turn: int) -> int | None:
    """Of the cores that this process may use, one of the fastest kind that is not busy, another for every turn.

    None where there is one only, or a system does not let one choose.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(allowed) < 2:
        return None
    capacity = {core: _text(f"/sys/devices/system/cpu/cpu{core}/cpu_capacity").strip() for core in allowed}
    fastest = [core for core in allowed if int(capacity[core] or 0) == max(int(each or 0) for each in capacity.values())]
    before = _idle_ticks()
    time.sleep(LOOK_SECONDS)
    after = _idle_ticks()
    ticks = LOOK_SECONDS * os.sysconf("SC_CLK_TCK")
    quiet = [core for core in fastest if after.get(core, ticks) - before.get(core, 0) >= ticks / 2] or fastest
    return quiet[turn % len(quiet)]


def _idle_ticks() -> dict[int, int]:
    """Of every core, how long it has had nothing to do: /proc/stat, see proc_stat(5)."""
    found = re.findall(r"^cpu(\d+) \d+ \d+ \d+ (\d+) (\d+)", _text("/proc/stat"), re.MULTILINE)
    return {int(core): int(idle) + int(waiting) for core, idle, waiting in found}


def others(first: Look, last: Look) -> float | None:
    """Cores that other processes, or other guests of the host, kept busy between two looks."""
    if None in (first.busy_seconds, last.busy_seconds) or last.at <= first.at:
        return None
    busy = (last.busy_seconds or 0.0) - (first.busy_seconds or 0.0)
    stolen = (last.stolen_seconds or 0.0) - (first.stolen_seconds or 0.0)
    return max(busy + stolen - (last.own_seconds - first.own_seconds), 0.0) / (last.at - first.at)


def warnings(looks: list[tuple[Look, Look]], ceilings: list[list[float]], threads: int) -> list[str]:
    """What makes a measurement doubtful, a sentence each.

    `looks` are at the begin and the end of every set of processes, `ceilings` of every place those that were measured, in turn.
    """
    found = []
    if threads > (here := cores()):
        found.append(f"threads={threads} on {here} core{'s' * (here != 1)}: threads wait for each other; use threads={here}")
    shares = [share for pair in looks if (share := others(*pair)) is not None]
    if shares and (share := sum(shares) / len(shares)) > BUSY_CORES:
        found.append(
            f"busy machine: other processes kept {share:.2g} of {here} cores computing; times are longer, floors higher"
        )
    hertz = [each.hertz for pair in looks for each in pair if each.hertz]
    if hertz and min(hertz) < (1 - SLOWED) * max(hertz):
        found.append(f"throttling: the clock went from {max(hertz) / 1e9:.2f} to {min(hertz) / 1e9:.2f} GHz within the run")
    unsteady = [measured for measured in ceilings if len(measured) > 1 and min(measured) < (1 - SLOWED) * max(measured)]
    if unsteady:
        worst = min(unsteady, key=lambda measured: min(measured) / max(measured))
        low, high = min(worst) / 1e9, max(worst) / 1e9
        why = "throttling, or others that compute"
        found.append(f"unsteady machine ({why}): a large product ran at {low:.3g} to {high:.3g} GFLOP/s within the run")
    return found


def _processor() -> tuple[float | None, float | None]:
    """Seconds that all cores together were busy, and those that the host gave to others: /proc/stat, see proc_stat(5)."""
    words = _text("/proc/stat").partition("\n")[0].split()[1:9]
    if len(words) < 8:
        return None, None
    user, nice, system, _, _, irq, softirq, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in words)
    return user + nice + system + irq + softirq, steal


def _computed_by(process: int) -> float:
    """Processor seconds of another process and of its children that ended: /proc/PID/stat, utime to cstime."""
    words = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")


def _hertz() -> float | None:
    """The mean clock frequency of the cores."""
    texts = [_text(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq") for core in range(os.cpu_count() or 1)]
    known = [1000.0 * int(text) for text in texts if text.strip().isdigit()]
    return sum(known) / len(known) if known else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
