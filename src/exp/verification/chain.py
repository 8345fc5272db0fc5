"""Steps in sequence, each judged from the state that the method exported before it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exp.arrays import get
from exp.methods.base import Block, Method
from exp.state import State
from exp.verification.judge import At, Judge
from exp.verification.update import judge_update


@dataclass(frozen=True)
class Chain:
    """A start and the batches of its steps: rows (B,) of x, (N, inputs), and y, (N, outputs), or None for all of them."""

    name: str
    optimizer: Any
    state: State
    x: np.ndarray
    y: np.ndarray
    plan: Sequence[np.ndarray | None]
    conditioned: bool = True

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.plan[step]
        return (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])

    def block(self, step: int) -> Block:
        rows = self.plan[step]
        return Block(step, 1, None if rows is None else rows[None])


def judge_steps(judge: Judge, chain: Chain, judged: Iterable[int]) -> tuple[np.ndarray, State]:
    """Judge the steps `judged` of a chain; returns the losses, (steps,), and the last state.

    The method goes on from its own state: put back what it exported, and a stale gradient would be hidden.
    """
    subject = judge.subject
    method = subject.start(chain.state, chain.optimizer)
    judge.same_state(At(chain.name), subject.rounded(chain.state), method.export())
    placed = subject.put(chain.x), subject.put(chain.y)
    losses, undecided, judged = [], {}, set(judged)
    for step in range(len(chain.plan)):
        if step in judged:
            loss, why = _judge_one(judge, chain, step, method, placed)
            undecided |= {step: why} if why else {}
        else:
            loss = subject.steps(method, *placed, chain.block(step))[0]
        losses.append(loss)
    judge.unchanged(At(chain.name), placed, (chain.x, chain.y))
    if judge.arithmetic.coarse and not chain.conditioned:
        judge.remarks.append(f"{chain.name}: only conditioned probes decide in {judge.arithmetic.precision}")
    elif undecided:
        decided = ", ".join(str(step) for step in sorted(judged - undecided.keys())) or "none"
        reasons = "; ".join(f"{step}: {why}" for step, why in undecided.items())
        judge.remarks.append(f"{chain.name}: decided at step {decided}, could not be at step {reasons}")
    return np.array(losses, dtype=np.float64), method.export()


def _judge_one(judge: Judge, chain: Chain, step: int, method: Method, placed: tuple[Any, Any]) -> tuple[Any, str | None]:
    """One step of a chain: its loss, and why it could not be judged."""
    subject = judge.subject
    at = At(chain.name, step, chain.conditioned or not judge.arithmetic.coarse)
    exported = method.export()
    before = exported.map(np.copy)
    batch = chain.batch(step)
    right = judge.right(before.params, *batch)
    output = get(method.predict(subject.put(batch[0])))
    judge.same_state(at, before, method.export())
    losses = subject.steps(method, *placed, chain.block(step))
    loss = losses[0] if losses.shape == (1,) else losses
    judge.same_state(at, before, exported)  # a copy, which no step changes
    if right is None:
        return loss, "numbers overflow"
    if (near := judge.near_kink(right.envelope)).any():
        return loss, f"{near.sum()} of {len(near)} rows near a kink"
    already = len(judge.judged)
    judge.compare(at, right.envelope, {right.envelope.output: output, "loss/loss": np.asarray(loss)})
    grads = [evaluation.grads for evaluation in right.evaluations]
    judge_update(judge, at, chain.optimizer, before, method.export(), grads)
    if judge.first_wrong_step is None and any(entry.wrong for entry in judge.judged[already:]):

        def loss_again(as_rows: bool) -> float:
            fresh = subject.start(before, chain.optimizer)
            x, y = placed if as_rows else map(subject.put, batch)
            return float(subject.steps(fresh, x, y, chain.block(step) if as_rows else Block(step, 1))[0])

        judge.first_wrong_step = loss_again
    return loss, None
