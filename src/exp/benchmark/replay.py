"""The timed steps are the judged steps: timed blocks are done again, and their own losses and final weights are judged.

From the state before a block a fresh copy of the method does its steps one by one, of which several are judged against the
float64 reference. The losses and the state that were timed must be these, bit for bit, or what rounding makes of them: as the
reference runs freely, until the states decide no more (`verification.block`). No clock runs meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from exp.arrays import Array
from exp.benchmark.costs import costs
from exp.benchmark.fresh import fresh
from exp.benchmark.session import Audit, Participant
from exp.judgement import conditions, judged
from exp.state import State
from exp.verification.block import judge_losses
from exp.verification.case import Case
from exp.verification.chain import Chain, judge_steps
from exp.verification.comparison import Comparison, exactly
from exp.verification.judge import At, Judge
from exp.verification.subject import Subject
from exp.verification.training_run import JUDGED_OPERATIONS, LOOKED_AT
from exp.verification.verdict import EQUIVALENT, Verdict, undecided

MOST_OPERATIONS = 3e11
"""Floating-point operations with which timed steps are judged in all, at most, for each thread: some seconds."""

LATER = 2
"""So many steps later at most other roundings overflow too: numbers that blow up grow fast."""

JUDGING = 12
"""To judge a step takes so many: the reference, eight times more with roundings of its own, and plain implementations."""


@dataclass(frozen=True)
class Left:
    """What a timed block left: its state, and by a fresh copy of the method started there, its predictions."""

    subject: Subject
    optimizer: Any
    state: State

    def export(self) -> State:
        return self.state.map(np.copy)

    def predict(self, x: Array) -> Array:
        return self.subject.start(self.state, self.optimizer).predict(x)


def judged_with_blocks(participant: Participant, *, alone: bool = False) -> Verdict:
    """The verdict on a participant's method, and on its timed blocks.

    `alone`: the blocks are judged, the method at its probes is not, and the verdict is on what was timed.
    """
    experiment, data = participant.experiment, participant.data
    device = experiment.device.torch_name
    if not judgeable(participant):
        operations = costs(experiment, data).operations
        reason = f"one step of {operations:.1e} floating-point operations is too much to be done again in float64"
        return undecided(reason, "a smaller network or batch, or more threads")

    participant.decided = 0, 0

    def further(asked: Case, judge: Judge) -> None:
        judge_audits(asked, judge, participant)

    with conditions(experiment, device):
        found = judged(experiment, data, device, first_steps=0, probes=not alone, further=further)
    if found.verdict == EQUIVALENT and not any(np.isfinite(each.timed.losses).any() for each in participant.audits):
        return undecided("the timed losses are not finite: nothing was computed", "a smaller optimizer.lr")
    return found


def judgeable(participant: Participant) -> int:
    """How many of its timed steps may be judged; 0 where one is too much."""
    experiment = participant.experiment
    return int(MOST_OPERATIONS * experiment.threads / (JUDGING * costs(experiment, participant.data).operations))


def judge_audits(asked: Case, judge: Judge, participant: Participant) -> None:
    """Judge the timed blocks that were kept, and of all the others what a look can tell."""
    every = [timed for process in participant.blocks for timed in process]
    for number, timed in enumerate(every):
        at = At(f"timed block {number}", 0)
        if len(timed.losses) != timed.steps:
            judge.add(at, "batches", "number of losses", exactly(len(timed.losses), timed.steps))
        if timed.counted != timed.steps:
            judge.add(at, "update", "count", exactly(timed.counted, timed.steps))
    operations = costs(participant.experiment, participant.data).operations
    left = judgeable(participant)
    for place, audit in enumerate(participant.audits):
        number = next(number for number, timed in enumerate(every) if timed is audit.timed)
        looked_at = LOOKED_AT[: max(1, int(JUDGED_OPERATIONS / operations / 4))] if place == 0 else LOOKED_AT[:1]
        left -= len(looked_at)
        if place and left < 0:
            break
        decided, of = participant.decided
        more = _judge_audit(asked, judge, participant, audit, f"timed block {number}", looked_at)
        participant.decided = decided + more, of + audit.timed.steps


def _judge_audit(asked: Case, judge: Judge, participant: Participant, audit: Audit, name: str, looked_at: Sequence[int]) -> int:
    """One block, step by step, and as it was timed; of its steps those `looked_at` are judged against the reference.

    Returns of how many steps the losses that were timed were decided.
    """
    subject, split, timed = asked.subject, participant.data.train, audit.timed
    data = fresh(split.inputs, split.targets, asked.batch_size, timed.seed, timed.steps // timed.calls, timed.calls)
    if not all(np.isfinite(array).all() for array in audit.before.params.values()):
        judge.remarks.append(f"{name}: began with weights that are not finite, which decides nothing")
        return 0
    chain = Chain(
        name, subject.optimizer, audit.before, subject.cast(data.x), subject.cast(data.y), data.rows, conditioned=False
    )
    single, last = judge_steps(judge, chain, [step for step in looked_at if step < timed.steps])
    if (blown := _blown_up(timed.losses)) < len(timed.losses) and len(timed.losses) == len(single):
        if np.isfinite(single[min(blown + LATER, len(single) - 1)]):
            what = "is not finite, where its steps one by one are"
            judge.add(At(name, blown), "loss", "loss", Comparison(inf, (), timed.losses[blown], single[blown], 0.0, what))
        judge.remarks.append(f"{name}: its losses are not finite from step {blown} on, which decides nothing")
        return 0
    left: Any = Left(subject, subject.optimizer, audit.after)  # a method as far as it is asked
    return judge_losses(judge, chain, single, last, timed.losses, left)


def _blown_up(losses: np.ndarray) -> int:
    """The first that is not finite; their number where all are."""
    finite = np.isfinite(losses)
    return len(losses) if finite.all() else int(finite.argmin())
