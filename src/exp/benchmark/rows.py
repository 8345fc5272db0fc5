"""What the status of a run says of what was measured: its numbers, and what the table has in its row and below."""

from statistics import median
from typing import Any

from exp.benchmark.outcome import bound, compared, floor, metrics, refused_of
from exp.benchmark.plan import Size
from exp.benchmark.replay import judged_with_blocks
from exp.benchmark.session import Participant, Session
from exp.verification.verdict import Verdict

SHOWN = 0.5
"""Where fewer than this share of the timed steps that were kept could be judged by their losses, a reader is told."""

CHANGED = 3.0
"""Times as fast, or as slow, as when it was called warm: no mood of a machine."""


def row(each: Participant, size: Size, session: Session, verdict: Verdict) -> dict[str, Any]:
    """The numbers of a participant, and what the table says of it."""
    numbers = metrics(each, session)
    told = compared(each, size, verdict.verdict)
    numbers |= told.pop("metrics", {})
    told |= {"bound": bound(each, session, numbers["speed/step_seconds"]), "notes": []}
    if told.get("is_baseline"):
        told["notes"] += _about_floor(each, size)
        if (hidden := floor(size)) is not None and hidden.known:
            numbers["speed/noise_floor"] = hidden.share
        told["notes"] += [f"{peer.label} failed: {peer.failed}" for peer in size.peers if peer.failed]
    if (refused := refused_of(each)) is not None:
        told["refused"] = refused.sentence
        told["notes"].append(f"{each.label} is refused: {refused.sentence}")
    if verdict.first or verdict.reason:
        told["notes"].append(f"{each.label} is {verdict.line}")
    decided, of = each.decided
    if decided < SHOWN * of:
        told["notes"].append(
            f"{each.label}: of {of} timed steps that were kept the losses of {decided} could be judged; of the others, that "
            "the block ends where its steps one by one end (verdict.json says why)"
        )
    if not all(warm.stable for warm in each.warm) or _changed(each):
        told["notes"].append(f"{each.label} was still changing its speed when it was timed: it had not warmed up")
    return {"metrics": numbers, "benchmark": told}


def _changed(each: Participant) -> bool:
    """Whether the timed blocks of a process are far from what it had warmed up to."""
    both = zip(each.warm, each.blocks, strict=False)
    pairs = [(warm.step_seconds, median(block.step_seconds for block in blocks)) for warm, blocks in both if blocks]
    return any(max(pair) > CHANGED * min(pair) for pair in pairs)


def peer_row(peer: Participant, size: Size, session: Session, of: dict[str, Any]) -> dict[str, Any]:
    """A peer's row, shaped as the status of a run."""
    verdict = judged_with_blocks(peer, alone=True)
    found = row(peer, size, session, verdict)
    found["benchmark"] |= {"session": of["session"], "size": of["size"]}
    found["benchmark"]["notes"].append("peers are judged by their timed blocks alone, not at probes")
    return {"name": peer.label, "choices": peer.experiment.choices, "verdict": verdict.verdict, **found}


def _about_floor(first: Participant, size: Size) -> list[str]:
    """What was found between the twins, in a sentence."""
    if (hidden := floor(size)) is None:
        if size.original and size.original is not first:
            return [f"no noise floor: the twin is that of {size.original.label}, which failed, and not of {first.label}"]
        why = (size.twin.failed or "no round of both") if size.twin else "there is none"
        return [f"no noise floor: the twin of {first.label} was not timed ({why})"]
    if not hidden.known:
        return [f"no noise floor: {first.label} and its twin had too few blocks; use a larger benchmark.seconds"]
    return [f"noise floor {hidden.share:.1%} (two workers of {first.label}): a smaller difference is none"]
