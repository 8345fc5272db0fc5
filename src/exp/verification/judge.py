"""The comparison of a method with the reference: at single steps from probe states, in chains of steps, along its training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from exp.arrays import get
from exp.methods.base import Block, Method
from exp.state import State
from exp.verification.probes import Params, Probe, slots
from exp.verification.reference import Evaluation, Reference, Tensor, exact
from exp.verification.subject import Subject, gradient, reading, reading_error, same_bits, visible
from exp.verification.tolerance import (
    DRAWS,
    FACTOR,
    Arithmetic,
    Comparison,
    Envelope,
    PlainSteps,
    Uniform,
    compare,
    envelope,
    near_kink,
)

BEATS = ("state", "inputs", "forward", "loss", "backward", "update", "batches")
"""What a verdict names first: a step in the order in which it is computed; before it what the step was given."""


@dataclass(frozen=True)
class Judged:
    """One tensor compared at one probe. `step` is that of a chain; None for a single step. `decides`: it may say different."""

    probe: str
    step: int | None
    beat: str
    tensor: str
    comparison: Comparison
    decides: bool = True

    @property
    def wrong(self) -> bool:
        return self.decides and self.comparison.score > FACTOR

    @property
    def order(self) -> tuple[int, int]:
        """The first wrong thing has the smallest: single steps before chains, then by step and beat."""
        return (-1 if self.step is None else self.step, BEATS.index(self.beat))


@dataclass
class Judge:
    """Judges `subject` by `reference`. `judged` and `remarks` are what has been found; nothing is decided here."""

    subject: Subject
    reference: Reference
    arithmetic: Arithmetic
    generator: np.random.Generator
    judged: list[Judged] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    first_wrong_step: Callable[[bool], float] | None = None
    """Of the first wrong step of a chain: its loss by a fresh method, with its batch as rows (True) or gathered (False)."""

    def __post_init__(self) -> None:
        place = self.subject.place
        self._plain = PlainSteps(self.reference, place.device, place.dtype)
        self._noise = Uniform(self.generator, self.arithmetic)

    # single steps

    def probe(self, probe: Probe) -> None:
        """One step from the probe's state: output, loss, gradients, then an update with slots and a count of its own."""
        subject, reader = self.subject, reading(self.subject.optimizer)
        params, x, y = self._rounded(probe.params), subject.cast(probe.x), subject.cast(probe.y)
        if (found := self._conditioned(probe.name, params, x, y)) is None:
            return
        x, y, allowed, _ = found
        decides = probe.conditioned or not self.arithmetic.coarse
        state = State(params, _empty(reader, params), np.array(0, dtype=np.int64))
        method = subject.start(state, reader)
        self._started(probe.name, method, state)
        output, loss = self._step(probe.name, None, method, x, y, Block(0, 1))
        grads = gradient(reader, state, method.export())
        self._compare(probe.name, None, allowed, {**output, **loss}, decides)
        unread = reading_error(reader, params, self.arithmetic.storage)
        for name, error in unread.items():
            allowed.spread[f"backward/{name}"] = allowed.spread[f"backward/{name}"].maximum(exact(error))
        backwards = {key: grads[key.partition("/")[2]] for key in allowed.right if key.startswith("backward/")}
        self._compare(probe.name, None, allowed, backwards, decides)
        if all(np.isfinite(grad).all() for grad in grads.values()):
            self._update(probe, params, x, y, (grads, unread), allowed, decides)

    def _update(
        self,
        probe: Probe,
        params: Params,
        x: np.ndarray,
        y: np.ndarray,
        read: tuple[Params, Params],
        allowed: Envelope,
        decides: bool,
    ) -> None:
        """An update by the method's own gradient, which was `read` with some error: element by element, to a few roundings."""
        right = {name: allowed.right[f"backward/{name}"].numpy() for name in params}
        optimizer = visible(self.subject.optimizer, params, right)
        smallest = max(getattr(optimizer, "eps", 0.0), self.arithmetic.smallest**0.5 * 1e3)
        given = slots(optimizer.slot_names, right, self.generator, smallest=smallest)
        state = self.subject.rounded(State(params, given, np.array(probe.count, dtype=np.int64)))
        method = self.subject.start(state, optimizer)
        self._started(probe.name, method, state)
        self._step(probe.name, None, method, x, y, Block(probe.count, 1))
        after = method.export()
        own = {name: exact(grad) for name, grad in read[0].items()}
        ways = [{name: grad + self._noise.of_size(exact(read[1][name])) for name, grad in own.items()} for _ in range(DRAWS)]
        self._compare_update(probe.name, None, optimizer, state, after, [own, *ways], decides=decides, own=True)

    def _compare_update(
        self,
        probe: str,
        step: int | None,
        optimizer: Any,
        before: State,
        after: State,
        grads: Sequence[Mapping[str, Tensor]],
        *,
        decides: bool,
        own: bool = False,
    ) -> None:
        """New slots and parameters, given the right gradient and those of the perturbed steps.

        `own`: they are the method's own gradient, so that slots and parameters are right element by element. Otherwise
        parameters are judged by the method's own new slots: Adam's first step may have either sign where g is rounding.
        """
        reference, already = Reference(self.reference.activation, self.reference.loss, optimizer), len(self.judged)
        exact_before, names = before.map(exact), list(before.params)
        states = [exact_before, *(exact_before.map(self._noisy) for _ in range(DRAWS))]
        rates = [1.0, *(self._noise.rate(optimizer, int(before.count) + 1) for _ in range(DRAWS))]
        results = [
            reference.updated(state, {name: self._noisy(grad[name]) if number else grad[name] for name in names}, rate)
            for number, (state, grad, rate) in enumerate(zip(states, grads, rates, strict=True))
        ]
        count, expected = int(after.count), int(before.count) + 1
        exactly = Comparison(0.0 if count == expected else float("inf"), (), count, expected, 0.0)
        self.judged.append(Judged(probe, step, "update", "count", exactly, decides))
        slots_only = [State({}, one.slots, one.count).named() for one in results]
        by_slots = bool(optimizer.slot_names)
        floor = not own
        params = results
        if by_slots:
            found_slots = {name: value for name, value in after.named().items() if "/" in name}
            if not all(np.isfinite(value).all() for value in found_slots.values()):
                by_slots = False
        if by_slots:
            exact_after = after.map(exact)
            noisy_after = [exact_after, *(exact_after.map(self._noisy) for _ in range(DRAWS))]
            params = [
                State(reference.updated_by_slots(state, one, rate), {}, one.count)
                for state, one, rate in zip(states, noisy_after, rates, strict=True)
            ]
        tensors = exact_before.named()
        self._compare_states(probe, step, slots_only, tensors, after, decides=decides, floor=floor)
        only_params = [one.params for one in params]
        self._compare_states(probe, step, only_params, tensors, after, decides=decides, floor=floor and not by_slots)
        if not own:
            self.judged[already:] = blamed(optimizer, before, after, self.judged[already:])

    def _compare_states(
        self,
        probe: str,
        step: int | None,
        ways: Sequence[Mapping[str, Tensor]],
        before: Mapping[str, Tensor],
        after: State,
        *,
        decides: bool,
        floor: bool,
    ) -> None:
        """The tensors of the state after, `ways` being the right ones and those of the perturbed steps.

        An element that nearly cancels (p ≈ lr · d) may be lucky in every draw: two roundoffs of what was added are allowed.
        """
        right, *perturbed = [{name: value for name, value in way.items() if name != "count"} for way in ways]
        allowed = Envelope(right, smallest=self.arithmetic.smallest)
        for one in perturbed:
            allowed.widen({name: self._noisy(value) for name, value in one.items()})
        for name, value in right.items():
            found, old = after.named()[name], before[name]
            added = old.abs().maximum(value.abs()).maximum((value - old).abs())
            most = allowed.allowed(name, floor=floor).maximum(2 * self.arithmetic.storage * added)
            comparison = compare(found, value, most)
            if np.isfinite(comparison.expected) and bool(value.isfinite().all()):
                self.judged.append(Judged(probe, step, "update", name, comparison, decides))

    # chains

    def chain(
        self,
        name: str,
        optimizer: Any,
        state: State,
        x: np.ndarray,
        y: np.ndarray,
        plan: Sequence[np.ndarray | None],
        *,
        judged: Iterable[int],
        conditioned: bool,
    ) -> tuple[np.ndarray, State]:
        """Steps from one start, by the batches of `plan`; each of `judged` from the state that the method exported before it.

        The method goes on from its own state: put back what it exported, and a stale gradient would be hidden. Returns the
        losses, (steps,), and the last state.
        """
        subject = self.subject
        x, y = subject.cast(x), subject.cast(y)
        method = subject.start(state, optimizer)
        self._started(name, method, subject.rounded(state))
        placed_x, placed_y = subject.put(x), subject.put(y)
        losses, undecided, judged = [], [], set(judged)
        for step, rows in enumerate(plan):
            block = Block(step, 1, None if rows is None else rows[None])
            if step not in judged:
                losses.append(subject.steps(method, placed_x, placed_y, block)[0])
                continue
            before = method.export()
            batch_x, batch_y = (x, y) if rows is None else (x[rows], y[rows])
            found = self._envelope(before.params, batch_x, batch_y)
            near = near_kink(found[0], len(found[1][0].outputs)) if found and self._relu else np.zeros(0)
            output = get(method.predict(subject.put(batch_x)))
            again = method.export()
            loss = subject.steps(method, placed_x, placed_y, block)
            after = method.export()
            losses.append(loss[0] if loss.shape else loss)
            self._same_state(name, step, before, again)
            if found is None or near.any():
                undecided.append((step, "overflow" if found is None else f"{int(near.sum())} of {len(near)} rows"))
                continue
            (allowed, evaluations), already = found, len(self.judged)
            seen = {f"forward/layer{len(evaluations[0].outputs)}.output": output, "loss/loss": np.asarray(losses[-1])}
            decides = conditioned or not self.arithmetic.coarse
            self._compare(name, step, allowed, seen, decides)
            grads = [evaluation.grads for evaluation in evaluations]
            self._compare_update(name, step, optimizer, before, after, grads, decides=decides)
            if self.first_wrong_step is None and rows is not None and any(entry.wrong for entry in self.judged[already:]):

                def again_from_here(
                    as_rows: bool, before: State = before, block: Block = block, rows: np.ndarray = rows
                ) -> float:
                    fresh = subject.start(before, optimizer)
                    if as_rows:
                        return float(subject.steps(fresh, placed_x, placed_y, block)[0])
                    batch = (subject.put(x[rows]), subject.put(y[rows]))
                    return float(subject.steps(fresh, *batch, Block(block.first, 1))[0])

                self.first_wrong_step = again_from_here
        self._unchanged(name, placed_x, x, placed_y, y)
        for step, why in undecided:
            what = "have a pre-activation within rounding of ReLU's kink" if "rows" in why else "the reference is not finite"
            self.remarks.append(f"{name}, step {step}: cannot decide there ({why}: {what})")
        return np.array(losses, dtype=np.float64), method.export()

    def block(
        self,
        name: str,
        optimizer: Any,
        state: State,
        x: np.ndarray,
        y: np.ndarray,
        plan: Sequence[np.ndarray | None],
        single: np.ndarray,
        last: State,
    ) -> None:
        """The same steps as one block: its losses, (steps,), are those of the `single` steps, and its state leads on alike."""
        subject = self.subject
        x, y = subject.cast(x), subject.cast(y)
        method = subject.start(state, optimizer)
        placed_x, placed_y = subject.put(x), subject.put(y)
        rows = None if plan[0] is None else np.stack([batch for batch in plan if batch is not None])
        losses = subject.steps(method, placed_x, placed_y, Block(0, len(plan), rows))
        after = method.export()
        if losses.shape == single.shape and same_bits(losses.astype(np.float64), single) and _same(after, last):
            return
        scale = {entry.step: entry.comparison for entry in self.judged if entry.probe == name and entry.tensor == "loss"}
        if losses.shape != single.shape:
            wrong = Comparison(float("inf"), (), float(losses.size), float(single.size), 0.0)
            self.judged.append(Judged(name, 0, "batches", "number of losses", wrong))
            return
        for step, (found, expected) in enumerate(zip(losses, single, strict=True)):
            if step in scale:
                allowed = np.maximum(abs(expected) * scale[step].resolution / FACTOR, self.arithmetic.smallest)
                self.judged.append(Judged(name, step, "batches", "loss", compare(found, exact(expected), exact(allowed))))
        found = self._conditioned(name, last.params, x, y)
        if found is not None:
            output = get(method.predict(subject.put(found[0])))
            key = f"forward/layer{len(found[3][0].outputs)}.output"
            comparison = compare(output, found[2].right[key], found[2].allowed(key))
            self.judged.append(Judged(name, len(plan), "batches", "state after the block, by its output", comparison))

    def gradient(self, params: Params, x: np.ndarray, y: np.ndarray) -> Params:
        """The right gradient at host numbers, rounded as the method has them."""
        return {name: grad.numpy() for name, grad in self._right(params, x, y).grads.items()}

    def loss(self, params: Params, x: np.ndarray, y: np.ndarray) -> float:
        """The right loss at host numbers, rounded as the method has them."""
        return float(self._right(params, x, y).loss)

    def _right(self, params: Params, x: np.ndarray, y: np.ndarray) -> Evaluation:
        tensors = {name: exact(value) for name, value in self._rounded(params).items()}
        return self.reference.evaluate(tensors, exact(self.subject.cast(x)), exact(self.subject.cast(y)))

    # parts of a comparison

    @property
    def _relu(self) -> bool:
        return self.reference.activation == "relu"

    def _noisy(self, value: Tensor) -> Tensor:
        return self._noise.update(value) if value.is_floating_point() else value

    def _rounded(self, params: Params) -> Params:
        return {name: self.subject.cast(value) for name, value in params.items()}

    def _envelope(self, params: Params, x: np.ndarray, y: np.ndarray) -> tuple[Envelope, list[Evaluation]] | None:
        """The envelope at host numbers, which are taken as exact; None where the step overflows."""
        tensors = {name: exact(value) for name, value in params.items()}
        found = envelope(self.reference, self.arithmetic, self.generator, tensors, exact(x), exact(y), self._plain)
        return found if found[0].finite else None

    def _conditioned(
        self, name: str, params: Params, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Envelope, list[Evaluation]] | None:
        """The rows that are away from the kink, and the envelope on them; None where nothing is left to decide by."""
        found = self._envelope(params, x, y)
        near = near_kink(found[0], len(found[1][0].outputs)) if found and self._relu else np.zeros(len(x), dtype=bool)
        if found and near.any() and not near.all():
            x, y = x[~near], y[~near]
            found = self._envelope(params, x, y)
        if found is None or near.all():
            why = "the reference is not finite" if found is None else "every row is within rounding of ReLU's kink"
            self.remarks.append(f"{name}: cannot decide there ({why})")
            return None
        return x, y, *found

    def _step(
        self, probe: str, step: int | None, method: Method, x: np.ndarray, y: np.ndarray, block: Block
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Output and loss of one step on all rows, by key."""
        placed_x, placed_y = self.subject.put(x), self.subject.put(y)
        layers = sum(name.endswith(".weight") for name in method.export().params)
        output = get(method.predict(placed_x))
        losses = self.subject.steps(method, placed_x, placed_y, block)
        self._unchanged(probe, placed_x, x, placed_y, y)
        loss = losses[0] if losses.shape == (1,) else losses
        return {f"forward/layer{layers}.output": output}, {"loss/loss": np.asarray(loss)}

    def _compare(self, probe: str, step: int | None, allowed: Envelope, found: Mapping[str, np.ndarray], decides: bool) -> None:
        for key, value in found.items():
            beat, _, tensor = key.partition("/")
            comparison = compare(value, allowed.right[key], allowed.allowed(key))
            self.judged.append(Judged(probe, step, beat, tensor, comparison, decides))

    def _started(self, probe: str, method: Method, state: State) -> None:
        self._same_state(probe, None, self.subject.rounded(state), method.export())

    def _same_state(self, probe: str, step: int | None, expected: State, found: State) -> None:
        """What a method holds is what it was given, or what it had exported, bit for bit."""
        for name, value in expected.named().items():
            other = found.named().get(name)
            if other is None or not same_bits(np.asarray(value), np.asarray(other)):
                self.judged.append(Judged(probe, step, "state", name, _first_difference(value, other)))
                return

    def _unchanged(self, probe: str, placed_x: Any, x: np.ndarray, placed_y: Any, y: np.ndarray) -> None:
        for name, placed, given in (("x", placed_x, x), ("y", placed_y, y)):
            if not same_bits(get(placed), given):
                self.judged.append(Judged(probe, None, "inputs", name, _first_difference(given, get(placed))))


def blamed(optimizer: Any, before: State, after: State, entries: list[Judged]) -> list[Judged]:
    """Which beat of a step in a chain is at fault, where only its update was seen.

    If slots and parameters follow the optimizer's rule from *some* gradient, it is the gradient that was wrong. Plain SGD
    follows its rule from any, unless it moves nothing at all.
    """
    wrong = {entry.tensor for entry in entries if entry.wrong}

    def by_rule(name: str) -> bool:
        if same_bits(before.params[name], after.params[name]):
            return False
        if "momentum_buffer" in after.slots:
            return name not in wrong
        if "exp_avg" not in after.slots:
            return True
        (m, m_old), (v, v_old) = ((after.slots[slot][name], before.slots[slot][name]) for slot in ("exp_avg", "exp_avg_sq"))
        (beta1, beta2), double = optimizer.betas, np.float64
        implied = (m.astype(double) - beta1 * m_old.astype(double)) / (1 - beta1)
        expected = beta2 * v_old.astype(double) + (1 - beta2) * implied**2
        return name not in wrong and float(np.linalg.norm(v - expected)) <= 1e-2 * float(np.linalg.norm(v))

    changed = []
    for entry in entries:
        name = entry.tensor.rpartition("/")[2]
        gradient = entry.wrong and name in before.params and "count" not in wrong and by_rule(name)
        changed.append(replace(entry, beat="backward", tensor=name) if gradient else entry)
    backwards = sorted((entry for entry in changed if entry.beat == "backward"), key=lambda entry: entry.tensor, reverse=True)
    return backwards + [entry for entry in changed if entry.beat != "backward"]


def _same(one: State, other: State) -> bool:
    pairs = zip(one.named().values(), other.named().values(), strict=True)
    return all(same_bits(np.asarray(left), np.asarray(right)) for left, right in pairs)


def _first_difference(expected: np.ndarray, found: np.ndarray | None) -> Comparison:
    """An exact comparison that failed."""
    if found is None or np.shape(found) != np.shape(expected):
        return Comparison(float("inf"), (), float("nan"), float("nan"), 0.0)
    places = np.argwhere(np.asarray(found) != np.asarray(expected))
    index = tuple(int(place) for place in places[0]) if len(places) else (0,) * np.ndim(expected)
    return Comparison(float("inf"), index, float(np.asarray(found)[index]), float(np.asarray(expected)[index]), 0.0)


def _empty(optimizer: Any, params: Params) -> dict[str, Params]:
    return {slot: {name: np.zeros_like(value) for name, value in params.items()} for slot in optimizer.slot_names}
