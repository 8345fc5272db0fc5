"""The configured training itself: its batch plan, some of its steps judged, its curve beside the reference's."""

from math import inf
from typing import Any

import numpy as np

from exp.arrays import get
from exp.seeds import generator
from exp.state import State
from exp.training import Training
from exp.verification.case import Case
from exp.verification.chain import Chain, judge_steps
from exp.verification.comparison import Comparison
from exp.verification.judge import At, Judge
from exp.verification.reference import exact
from exp.verification.rules import Rule

LOOKED_AT = (0, 1, 2, 5, 10, 20, 50, 100, 200, 499, 1000)
"""The steps of a training from whose states the method is judged."""

OPERATIONS, REFERENCE_OPERATIONS = 2e10, 3e9
"""Floating-point operations of the method's steps and of the reference's own curve, at most: less than a second each."""

REFERENCE_STEPS = 200
"""Steps of the reference's own curve, at most."""

JUDGED_OPERATIONS = 5e8
"""Of the steps that are judged, at most, and two steps in any case: the reference is evaluated eleven times for each."""


def judge_training(
    case: Case, judge: Judge, training: Training, inputs: np.ndarray, targets: np.ndarray, state: State
) -> dict[str, Any]:
    """Judge the training from `state`; returns its free-running curve beside the reference's, which is not judged."""
    subject, samples = case.subject, len(inputs)
    operations = 6.0 * sum(value.size for value in state.params.values()) * (training.batch_size or samples)
    total = min(training.total_steps(samples), LOOKED_AT[-1] + 1)
    steps, compared = (int(max(3, most / operations)) for most in (OPERATIONS, REFERENCE_OPERATIONS))
    plan = [batch for _, batch in zip(range(min(total, steps)), training.batches(samples), strict=False)]
    chain = Chain("training", subject.optimizer, state, subject.cast(inputs), subject.cast(targets), plan, conditioned=False)
    ragged = [samples // case.batch_size] if case.batch_size and case.ragged else []
    every = [step for step in sorted({*LOOKED_AT, *ragged}) if step < len(plan)]
    looked_at = every[: max(2, int(JUDGED_OPERATIONS / operations))]
    losses, _ = judge_steps(judge, chain, looked_at)
    batch = case.batch_size or samples
    if (rows := int(min(samples, JUDGED_OPERATIONS / operations * batch))) > batch:
        _judge_prediction(judge, chain, rows)
    judge_plan(judge, training, samples)
    return _free_running(judge, chain, losses[: min(compared, REFERENCE_STEPS)])


def _judge_prediction(judge: Judge, chain: Chain, rows: int) -> None:
    """The outputs of many rows at once, as an evaluation asks for them; their number is no batch's."""
    start = judge.subject.rounded(chain.state)
    if (right := judge.right(start.params, chain.x[:rows], chain.y[:rows])) is not None:
        output = get(judge.subject.start(chain.state, chain.optimizer).predict(judge.subject.put(chain.x[:rows])))
        at = At("all rows", decides=not judge.arithmetic.coarse)
        judge.compare(at, right.envelope, {right.envelope.output: output})


def _free_running(judge: Judge, chain: Chain, losses: np.ndarray) -> dict[str, Any]:
    """The reference's own curve from the same rounded start, and how far `losses`, (steps,), are from it."""
    rule, current, right = Rule(chain.optimizer), judge.subject.rounded(chain.state).map(exact), []
    for step in range(len(losses)):
        evaluation = judge.reference.evaluate(current.params, *map(exact, chain.batch(step)))
        right.append(float(evaluation.loss))
        current = rule.updated(current, evaluation.grads)
    with np.errstate(all="ignore"):
        distance = np.abs(losses - right) / np.abs(right)
    finite = np.isfinite(distance)
    worst = int(np.where(finite, distance, -1).argmax())
    return {
        "steps": len(losses),
        "method": losses.tolist(),
        "reference": right,
        "largest_relative_difference": float(distance[worst]) if finite.any() else inf,
        "at_step": worst,
    }


def judge_plan(judge: Judge, training: Training, samples: int) -> None:
    """Judge the loop's batches: every epoch is the permutation of its own stream, cut into batches, the last of what is left.

    Three epochs are looked at, and the number of steps in all.
    """
    size = training.batch_size or samples
    per_epoch = -(-samples // size)
    expected = training.steps or (training.epochs or 0) * per_epoch

    def due(step: int) -> np.ndarray:
        order = generator(training.seed, "training", step // per_epoch).permutation(samples)
        return order[step % per_epoch * size :][:size]

    def wrong(what: str, found: float, right: float) -> None:
        judge.add(At("batches"), "batches", what, Comparison(inf, (), float(found), float(right), 0.0))

    if training.total_steps(samples) != expected:
        return wrong("steps in all", training.total_steps(samples), expected)
    seen = 0
    for block in training.blocks(samples):
        if block.first != seen:
            return wrong("first step of a block", block.first, seen)
        if (block.rows is None) != (training.batch_size is None):
            return wrong("rows of a batch", samples if block.rows is None else block.rows.shape[-1], size)
        for step, rows in enumerate(() if block.rows is None else block.rows, start=seen):
            if len(rows) != len(due(step)):
                return wrong(f"rows of the batch of step {step}", len(rows), len(due(step)))
            if not np.array_equal(rows, due(step)):
                place = int(np.argmax(rows != due(step)))
                return wrong(f"row {place} of the batch of step {step}", rows[place], due(step)[place])
        seen += block.steps
        if seen >= min(expected, 3 * per_epoch) and training.batch_size is not None:
            return None
    return wrong("steps in all", seen, expected) if seen != expected else None
