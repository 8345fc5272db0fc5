"""The steps of a chain once more, as a block or two: bit for bit the single ones, or within what rounding makes of them."""

from math import inf
from typing import Any

import numpy as np

from exp.arrays import get
from exp.methods.base import Block, Method
from exp.state import State
from exp.verification.chain import Chain
from exp.verification.comparison import Comparison, compare, exactly, same_bits, same_states
from exp.verification.envelope import Envelope, evaluated
from exp.verification.judge import At, Judge
from exp.verification.reference import Tensor, exact
from exp.verification.rules import Rule
from exp.verification.tolerance import DRAWS

GROWN = 30
"""Roundings that have grown so many times since the first step are chaos: √100 = 10 would be that of a hundred steps."""


MOST_OPERATIONS = 3e11
"""Of a reference that runs freely: the steps after those are not judged by it."""


def judge_block(judge: Judge, chain: Chain, single: np.ndarray, last: State, *, blocks: int = 1) -> None:
    """The steps of a chain as so many blocks: their losses, (steps,), are the `single` ones, and the state is `last`.

    A method may round otherwise in a block, as a compiled loop does: see `_judge_rounded`.
    """
    subject = judge.subject
    method = subject.start(chain.state, chain.optimizer)
    x, y, losses = subject.put(chain.x), subject.put(chain.y), []
    for steps in np.split(np.arange(len(chain.plan)), blocks):
        rows = [chain.plan[step] for step in steps if chain.plan[step] is not None]
        losses.append(subject.steps(method, x, y, Block(int(steps[0]), len(steps), np.stack(rows) if rows else None)))
    judge_losses(judge, chain, single, last, np.concatenate(losses), method)


def judge_losses(judge: Judge, chain: Chain, single: np.ndarray, last: State, losses: np.ndarray, method: Method) -> int:
    """A block that was done: its `losses`, and the `method` as it left it. See `judge_block`. Returns how many were decided."""
    if losses.shape != single.shape:
        judge.add(At(chain.name, 0), "batches", "number of losses", exactly(losses.size, single.size))
        return 0
    judge.add(At(chain.name, len(losses)), "update", "count", exactly(int(method.export().count), int(last.count)))
    if same_bits(losses.astype(np.float64), single) and same_states(method.export(), last):
        return len(losses)
    return _judge_rounded(judge, chain, losses, method, last)


def _judge_rounded(judge: Judge, chain: Chain, losses: np.ndarray, method: Method, last: State) -> int:
    """Losses and the last output against a reference that runs freely, and DRAWS that go astray by their roundings.

    Errors grow from step to step as those of the method do. Where one of them may have crossed a kink, or they have grown
    GROWN times, no later step decides, but that the block ends nearer to the end of the single steps than that is to the start;
    and so after MOST_OPERATIONS.
    """
    weights = sum(array.size for array in chain.state.params.values())
    most = max(1, int(MOST_OPERATIONS / (6 * len(chain.batch(0)[0]) * weights * (1 + DRAWS))))
    rule, start = Rule(chain.optimizer), judge.subject.rounded(chain.state).map(exact)
    states, relative, first = [start] * (1 + DRAWS), 0.0, inf
    for step in range(len(losses)):
        allowed, grads = _envelope(judge, states, *map(exact, chain.batch(step)))
        kink = judge.near_kink(allowed).any()
        loss = allowed.right["loss/loss"]
        relative = max(relative, float(allowed.allowed("loss/loss") / loss.abs()) if loss else 0.0)
        first = min(first, relative or inf)
        ends = {"a row is near a kink": kink, "numbers overflow": not allowed.finite}
        ends |= {"roundings have grown": relative > GROWN * first, "further would take too long": step == most}
        if why := next((reason for reason, true in ends.items() if true), None):
            judge.remarks.append(f"{chain.name}: has other bits than its steps one by one; decided up to step {step} ({why})")
            apart, moved = (_distance(last, other) for other in (method.export(), judge.subject.rounded(chain.state)))
            if not apart <= moved:
                what = f"ends {apart:.3g} from the end of its steps one by one, which is {moved:.3g} from the start"
                judge.add(At(chain.name, step), "batches", "weights", Comparison(inf, (), apart, moved, 0.0, what))
            return step
        error = allowed.allowed("loss/loss").clamp(min=relative * float(loss.abs()))
        judge.add(At(chain.name, step), "batches", "loss", compare(losses[step], loss, error))
        updated = [rule.updated(state, each) for state, each in zip(states, grads, strict=True)]
        pairs = zip(states[1:], updated[1:], strict=True)
        states = [updated[0], *(_rounded(judge, chain.optimizer, before, after) for before, after in pairs)]
    allowed, _ = _envelope(judge, states, exact(chain.x), exact(chain.y))
    output = get(method.predict(judge.subject.put(chain.x)))
    comparison = compare(output, allowed.right[allowed.output], allowed.allowed(allowed.output))
    judge.add(At(chain.name, len(losses)), "batches", "state after the block, by its output", comparison)
    return len(losses)


def _envelope(judge: Judge, states: list[State], x: Tensor, y: Tensor) -> tuple[Envelope, list[dict[str, Tensor]]]:
    """The step from the first of the states, its distance to those from the others, and the gradients of each."""
    reference, arithmetic = judge.reference, judge.arithmetic
    found = [reference.evaluate(state.params, x, y, judge.noise if draw else None) for draw, state in enumerate(states)]
    envelope = Envelope(evaluated(found[0]), {}, arithmetic.smallest, arithmetic.largest, len(x))
    for each in found[1:]:
        envelope.widen(evaluated(each))
    return envelope, [each.grads for each in found]


def _rounded(judge: Judge, optimizer: Any, before: State, after: State) -> State:
    """The state after an update with the roundings of the update rule, and of Adam's bias corrections."""
    betas = getattr(optimizer, "betas", None)
    factor = judge.noise.correction(betas, int(after.count)) if betas else 1.0
    params = {name: old + (after.params[name] - old) * factor for name, old in before.params.items()}
    return after._replace(params=params).map(judge.noise.update)


def _distance(one: State, other: State) -> float:
    """Between their parameters, in the 2-norm."""
    pairs = [(value.astype(np.float64), other.params[name]) for name, value in one.params.items()]
    return float(np.sqrt(sum(np.sum((left - right) ** 2) for left, right in pairs)))
