"""The update of a step: new slots, parameters and count against the rule of `torch.optim`, given a gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from exp.state import State
from exp.verification.comparison import Judged, compare, exactly, same_bits
from exp.verification.envelope import Envelope
from exp.verification.judge import At, Judge
from exp.verification.reference import Tensor, exact, layer_of
from exp.verification.rules import Rule
from exp.verification.tolerance import DRAWS

Grads = Mapping[str, Tensor]

IMPLIED = 1e-2
"""exp_avg_sq follows from the gradient that exp_avg implies if it does so to this share: far above roundoff."""


def judge_update(
    judge: Judge, at: At, optimizer: Any, before: State, after: State, grads: Sequence[Grads], *, own: bool = False
) -> None:
    """The state after an update, given the right gradient and DRAWS that are a little off.

    `own`: they are the method's own gradient, from which everything follows element by element, to a few roundings.
    Otherwise, in a chain, parameters are judged by the method's own new slots: Adam's first step may have either sign
    where the gradient is rounding.
    """
    rule, already, start = Rule(optimizer), len(judge.judged), before.map(exact)
    judge.add(at, "update", "count", exactly(int(after.count), int(before.count) + 1))
    starts = [start, *(start.map(judge.noise.update) for _ in range(DRAWS))]
    given = [grads[0], *({name: judge.noise.update(grad) for name, grad in each.items()} for each in grads[1:])]
    results = [rule.updated(state, each) for state, each in zip(starts, given, strict=True)]
    params, by_element, decides = [result.params for result in results], own, True
    if optimizer.slot_names:
        slots = [State({}, result.slots, result.count).named() for result in results]
        _compare(judge, at, optimizer, slots, start, after, by_element=own)
        # Where squares of gradients overflow, what a division by them gives is no question of rounding.
        decides = all(_in_range(judge, optimizer, *slot) for slot in slots[0].items())
        if all(np.isfinite(value).all() for arrays in after.slots.values() for value in arrays.values()):
            end = after.map(exact)
            ends = [end, *(_noisy_slots(judge, optimizer, end) for _ in range(DRAWS))]
            params, by_element = [rule.updated_by_slots(*pair) for pair in zip(starts, ends, strict=True)], True
    if decides:
        _compare(judge, at, optimizer, params, start, after, by_element=by_element)
    if not own:
        judge.judged[already:] = _blamed(optimizer, before, after, judge.judged[already:])


def _noisy_slots(judge: Judge, optimizer: Any, after: State) -> State:
    """New slots that are a little off, and with them what Adam makes of m / (1 − β₁ᵗ) / √(v / (1 − β₂ᵗ))."""
    slots = after.map(judge.noise.update).slots
    if "exp_avg" in slots:
        factor = judge.noise.correction(optimizer.betas, int(after.count))
        slots = {**slots, "exp_avg": {name: m * factor for name, m in slots["exp_avg"].items()}}
    return State(after.params, slots, after.count)


def _compare(
    judge: Judge, at: At, optimizer: Any, ways: Sequence[Grads], before: State, after: State, *, by_element: bool
) -> None:
    """Tensors of the state after; `ways` are the right ones and those that are a little off.

    An element that nearly cancels (p ≈ lr · d) may be lucky in every draw: two roundoffs of what was added are allowed.
    What underflows is divided by ε.
    """
    right, *others = [{name: value for name, value in way.items() if name != "count"} for way in ways]
    allowed = Envelope(right, smallest=judge.arithmetic.smallest / min(1.0, getattr(optimizer, "eps", 1.0)))
    for other in others:
        allowed.widen({name: judge.noise.update(value) for name, value in other.items()})
    old, new = before.named(), after.named()
    for name, value in right.items():
        added = old[name].abs().maximum(value.abs()).maximum((value - old[name]).abs())
        most = allowed.allowed(name, floor=not by_element).maximum(2 * judge.arithmetic.storage * added)
        if _in_range(judge, optimizer, name, value):
            judge.add(at, "update", name, compare(new[name], value, most))


def _in_range(judge: Judge, optimizer: Any, name: str, value: Tensor) -> bool:
    """Whether no correct method overflows on the way: the square of a gradient is (1 − β₂)⁻¹ times its share of the average."""
    share = 1 - optimizer.betas[1] if name.startswith("exp_avg_sq/") else 1.0
    return bool((value.abs() < share * judge.arithmetic.largest).all())


def _blamed(optimizer: Any, before: State, after: State, entries: list[Judged]) -> list[Judged]:
    """Which beat of a step in a chain is at fault, where only its update was seen.

    If slots and parameters follow the optimizer's rule from *some* gradient, it is the gradient that was wrong. Plain SGD
    follows its rule from any, unless it moves nothing at all.
    """
    wrong = {entry.tensor for entry in entries if entry.wrong}

    def by_rule(name: str) -> bool:
        if same_bits(before.params[name], after.params[name]) or (name in wrong and optimizer.slot_names):
            return False
        if "exp_avg" not in after.slots:
            return True
        (m, m_old), (v, v_old) = (
            (after.slots[slot][name].astype(np.float64), before.slots[slot][name].astype(np.float64))
            for slot in ("exp_avg", "exp_avg_sq")
        )
        beta1, beta2 = optimizer.betas
        expected = beta2 * v_old + (1 - beta2) * ((m - beta1 * m_old) / (1 - beta1)) ** 2
        return float(np.linalg.norm(v - expected)) <= IMPLIED * float(np.linalg.norm(v))

    changed = []
    for entry in entries:
        name = entry.tensor.rpartition("/")[2]
        gradient = entry.wrong and name in before.params and "count" not in wrong and by_rule(name)
        changed.append(replace(entry, beat="backward", tensor=name) if gradient else entry)
    backwards = [entry for entry in changed if entry.beat == "backward"]
    last_first = sorted(backwards, key=lambda entry: (-layer_of(entry.tensor), entry.tensor.endswith("bias")))
    return last_first + [entry for entry in changed if entry.beat != "backward"]
