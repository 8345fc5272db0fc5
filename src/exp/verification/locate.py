"""Where a fault is: the layer of a wrong forward pass, and the beat of a step, from what can be seen outside a method."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from exp.verification.comparison import Judged
from exp.verification.hidden import first_wrong_layer, of_another_prediction, stepped
from exp.verification.judge import Judge
from exp.verification.probes import Probe, Shape, probes
from exp.verification.reference import exact
from exp.verification.rules import Rule
from exp.verification.single_step import judge_step
from exp.verification.subject import gradient, reading

RULE = 1e-3
"""A state follows a rule if it is met to this share of each tensor: far above roundoff, far below a wrong rule."""


@dataclass(frozen=True)
class Locator:
    """Looks closer at what `judge` has found wrong. `readers` are other optimizers by which a gradient can be read."""

    judge: Judge
    shape: Shape
    readers: Sequence[Any]

    def located(self, first: Judged) -> Judged:
        """`first` with its layer and beat made precise."""
        with suppress(Exception):  # a method that fails where it is looked at closer stays as wrong as it was found
            if first.step is not None:
                return self._step_or_batch(first)
            if first.beat in ("forward", "loss"):
                return self._forward_or_loss(first)
            if first.beat == "backward" and self._is_the_update():
                return replace(first, beat="update")
        return first

    def _forward_or_loss(self, first: Judged) -> Judged:
        """The first layer that is wrong. If `predict` is right: is it the loss, or a forward pass of the step's own?"""
        layer = first_wrong_layer(self.judge, self.shape)
        if layer is None and first.beat == "loss" and of_another_prediction(self.judge, self.shape):
            layer = len(self.shape.widths) - 1
        return first if layer is None else replace(first, beat="forward", tensor=f"layer{layer}.output")

    def _is_the_update(self) -> bool:
        """Whether a wrong gradient is what a wrong update makes of a right one.

        It is, where the new state follows from no gradient at all, or where another optimizer reads the right one.
        """
        judge = self.judge
        if not self._follows_from_some_gradient():
            return True
        for reader in self.readers:
            if reader.slot_names == judge.subject.optimizer.slot_names:
                continue
            other = Judge(replace(judge.subject, optimizer=reader), judge.reference, judge.arithmetic, judge.generator)
            with suppress(Exception):  # a method may do one optimizer only
                for probe in self._few():
                    judge_step(other, probe)
                if not any(entry.wrong for entry in other.judged if entry.beat in ("forward", "loss", "backward")):
                    return True
        return False

    def _follows_from_some_gradient(self) -> bool:
        """Whether slots, parameters and count after a step are those of the rule, for the gradient that they imply."""
        judge, reader = self.judge, reading(self.judge.subject.optimizer)
        probe = self._few()[0]
        params = {name: judge.subject.cast(value) for name, value in probe.params.items()}
        before, after, _ = stepped(judge, params, judge.subject.cast(probe.x), judge.subject.cast(probe.y))
        implied = {name: exact(grad) for name, grad in gradient(reader, before, after).items()}
        rule, found = Rule(reader), after.map(exact)
        expected = rule.updated(before.map(exact), implied).named()
        if reader.slot_names:
            expected |= rule.updated_by_slots(before.map(exact), found)
        if int(expected.pop("count")) != int(after.count):
            return False
        apart = {name: float((value - found.named()[name]).norm()) for name, value in expected.items()}
        return all(apart[name] <= RULE * float(value.norm()) for name, value in expected.items())

    def _step_or_batch(self, first: Judged) -> Judged:
        """Is the same step of a chain right on the same rows, when they come as a whole split? Then it takes other rows."""
        again = self.judge.first_wrong_step
        if first.beat not in ("loss", "backward") or again is None:
            return first
        as_rows, gathered = again(True), again(False)
        allowed = 4 * self.judge.arithmetic.product(len(self.shape.widths)) * abs(gathered)
        return first if abs(as_rows - gathered) <= allowed else replace(first, beat="batches")

    def _few(self) -> list[Probe]:
        """Probes that decide in this precision."""
        found = probes(self.shape, self.judge.generator, overflowing=2.0)
        return [probe for probe in found if probe.conditioned or not self.judge.arithmetic.coarse]
