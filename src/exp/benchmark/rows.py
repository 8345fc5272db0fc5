"""What the status of a run says of what was measured: its numbers, and what the table has in its row and below."""

from typing import Any

from exp.benchmark.outcome import bound, compared, floor, metrics, refused_of
from exp.benchmark.plan import Size
from exp.benchmark.replay import judged_with_blocks
from exp.benchmark.session import Participant, Session
from exp.verification.verdict import Verdict


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
    if not all(warm.stable for warm in each.warm):
        told["notes"].append(f"{each.label} was still changing its speed when it was timed: it had not warmed up")
    return {"metrics": numbers, "benchmark": told}


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
        why = size.twin.failed if size.twin else "there is none"
        return [f"no noise floor: the twin of {first.label} was not timed ({why})"]
    if not hidden.known:
        return [f"no noise floor: {first.label} and its twin had too few blocks; use a larger benchmark.seconds"]
    return [f"noise floor {hidden.share:.1%} (two workers of {first.label}): a smaller difference is none"]
