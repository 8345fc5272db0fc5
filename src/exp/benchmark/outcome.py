"""From a session to numbers: of each participant the metrics of its run, and what its row of the table is made of."""

from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from exp.benchmark.cheats import Refusal, refusal
from exp.benchmark.costs import Costs, costs
from exp.benchmark.decision import NONE, NoiseFloor, limited_by
from exp.benchmark.plan import Size
from exp.benchmark.session import Participant, Session
from exp.benchmark.statistics import Ratio, paired, spread
from exp.verification.verdict import EQUIVALENT


def step_seconds(participant: Participant) -> list[list[float]]:
    """Of every timed block, process by process."""
    return [[timed.step_seconds for timed in process] for process in participant.blocks]


def relative(one: Participant, other: Participant) -> Ratio | None:
    """Time of a step relative to another's, of the rounds that both took part in; None where there are too few."""
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(step_seconds(one), step_seconds(other), strict=False)]
    pairs = [(a, b) for a, b in pairs if a]
    return paired(*zip(*pairs, strict=True)) if pairs else None


def floor(size: Size) -> NoiseFloor | None:
    """What the twins say; None where one of them failed, also where another combination then became the baseline."""
    first = baseline(size)
    if first is None or size.twin is None or size.twin.failed is not None or first is not size.original:
        return None
    found = relative(size.twin, first)
    return NoiseFloor.of(found) if found else None


def baseline(size: Size) -> Participant | None:
    """The first combination that was timed."""
    return next((each for each in size.members if each.failed is None and any(each.blocks)), None)


def metrics(each: Participant, session: Session) -> dict[str, float]:
    """The numbers of a participant that was timed. Seconds, operations and bytes; a share is of this machine's ceiling."""
    found = spread([value for process in step_seconds(each) for value in process])
    cost = costs(each.experiment, each.data)
    numbers = {
        "step_seconds": found.median,
        "step_seconds_low": found.low,
        "step_seconds_high": found.high,
        "first_quartile": found.first_quartile,
        "third_quartile": found.third_quartile,
        "blocks": float(found.blocks),
        "start_seconds": median(started.start_seconds for started in each.started),
        "first_step_seconds": median(started.first_step_seconds for started in each.started),
        "warm_up_steps": median(warm.steps for warm in each.warm),
        "warm_up_seconds": median(warm.seconds for warm in each.warm),
        "threads": median(timed.processor_seconds / timed.seconds for process in each.blocks for timed in process),
    }
    events = [timed.device_seconds / timed.steps for process in each.blocks for timed in process if timed.device_seconds]
    if events:
        numbers["device_step_seconds"] = median(events)
    numbers |= rates(each, cost, session, found.median)
    taken = {name for memory in each.memory for name in memory}
    peaks = {name: max(memory[name] for memory in each.memory if name in memory) for name in taken}
    return {f"speed/{name}": float(value) for name, value in numbers.items()} | peaks


def rates(each: Participant, cost: Costs, session: Session, seconds: float) -> dict[str, float]:
    """Achieved operations and bytes a second, and their shares of the ceilings of the participant's engine."""
    bytes_ = cost.bytes(each.experiment.precision.dtype)
    found = {"operations_per_second": cost.operations / seconds, "bytes_per_second": bytes_ / seconds}
    operations, traffic = ceiling(each, session)
    if operations:
        found["share_of_arithmetic"] = cost.operations / seconds / operations
        found["share_of_memory"] = bytes_ / seconds / traffic
    return found


def ceiling(each: Participant, session: Session) -> tuple[float, float]:
    """Operations and bytes a second of the participant's device, precision and threads, whatever library reached them."""
    known = [found for engine, found in session.ceilings.items() if engine[1:] == each.engine[1:]]
    operations = max((c.operations_per_second for found in known for c in found), default=0.0)
    return operations, max((c.bytes_per_second for found in known for c in found), default=0.0)


def bound(each: Participant, session: Session, seconds: float) -> str:
    """What limits its steps: see `decision`."""
    cost = costs(each.experiment, each.data)
    operations, traffic = ceiling(each, session)
    if not operations:
        return "–"
    traffic_seconds = cost.bytes(each.experiment.precision.dtype) / traffic
    return limited_by(seconds, cost.operations / operations, traffic_seconds, len(each.experiment.network.hidden) + 1)


def compared(each: Participant, size: Size, verdict: str) -> dict[str, Any]:
    """What is said of a participant relative to its baseline: `speed` is a number, "none", or why it is not shown.

    What is relative to steps that were not done, or not in that time, is no speed either.
    """
    first, hidden = baseline(size), floor(size)
    alone = first is None or each is first
    mark = {"is_baseline": True} if alone else {}
    if (refused := refused_of(each)) is not None:
        return {"speed": f"refused ({refused.sign})"} | mark
    if verdict != EQUIVALENT:
        return {"speed": "not shown"} | mark
    if first is None or alone:
        return {"speed": "1"} | mark
    if refused_of(first) is not None:
        return {"speed": "not shown (baseline refused)"}
    if size.baseline_verdict != EQUIVALENT:
        return {"speed": f"not shown (baseline {size.baseline_verdict or 'not judged'})"}
    ratio = relative(each, first)
    if ratio is None or hidden is None:
        return {"speed": "unknown"}
    speed, low, high = 1 / ratio.ratio, 1 / ratio.high if ratio.high else 0.0, 1 / ratio.low if ratio.low else 0.0
    shown = NONE if hidden.hides(ratio) else f"{speed:.3g}"
    numbers = {"speed/ratio": ratio.ratio, "speed/ratio_low": ratio.low, "speed/ratio_high": ratio.high}
    return {"speed": shown, "interval": f"{low:.3g}–{high:.3g}", "metrics": numbers, "times": speed}


def refused_of(each: Participant) -> Refusal | None:
    return refusal([timed for process in each.blocks for timed in process], each.experiment.threads, each.engine[1])


def losses(each: Participant) -> np.ndarray:
    """Of all steps of the first process's timed blocks, one after the other."""
    blocks = [timed.losses for timed in each.blocks[0]] if each.blocks else []
    return np.concatenate(blocks) if blocks else np.empty(0)


BLOCK = ("seed", "steps", "calls", "seconds", "device_seconds", "processor_seconds", "left_seconds", "outside_seconds")
"""What is kept of every timed block."""


def kept(each: Participant) -> list[dict[str, list[Any]]]:
    """The timed blocks of a participant: of each process lists of what is kept of its blocks."""
    return [{name: [getattr(timed, name) for timed in process] for name in BLOCK} for process in each.blocks]


def raw(each: Participant, size: Size, session: Session) -> dict[str, Any]:
    """Everything that was measured of a participant, but for its states: what benchmark.json holds. A baseline has its twin."""
    twin = size.twin if each is baseline(size) is size.original else None
    place = session.participants.index(each)
    return {
        "seed": session.seed,
        "participants": [other.label for other in session.participants],
        "participant": place,
        "order": session.orders,
        "core": session.cores if each.of_one_core else [None] * len(session.cores),
        "started": [asdict(started) for started in each.started],
        "warm": [asdict(warm) for warm in each.warm],
        "blocks": kept(each),
        "twin": kept(twin) if twin else None,
        "ceilings": {" ".join(map(str, key)): [asdict(c) for c in found] for key, found in session.ceilings.items()},
        "warnings": session.warnings,
    }
