"""Where a fault is: the layer of a wrong forward pass, and the beat, from what can be seen outside a method.

The hidden outputs of a step cannot be asked for, but they can be read: the gradient of Wₙ on a batch of one row is the outer
product of a₍ₙ₋₁₎ and a signal, so any of its columns is a₍ₙ₋₁₎ up to a factor; the gradient of bₙ is the signal itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exp.methods.base import Block
from exp.state import State
from exp.verification.judge import Judge, Judged
from exp.verification.probes import Params, Probe, Shape, probes
from exp.verification.reference import exact
from exp.verification.subject import gradient, reading
from exp.verification.tolerance import DRAWS, FACTOR, Envelope, Uniform, compare


@dataclass(frozen=True)
class Locator:
    """Looks closer at what `judge` has found wrong. `readers` are other optimizers by which a gradient can be read."""

    judge: Judge
    shape: Shape
    readers: Sequence[Any]

    def located(self, first: Judged) -> Judged:
        """`first` with its layer and beat made precise."""
        try:
            if first.beat == "forward" and first.step is None:
                return self._in_layer(first)
            if first.beat == "loss" and first.step is None:
                return self._loss_or_forward(first)
            if first.beat == "backward" and first.step is None:
                return self._gradient_or_update(first)
            if first.beat in ("loss", "backward") and self.judge.first_wrong_step is not None:
                return self._step_or_batch(first)
        except Exception:  # a method that fails where it is looked at closer stays as wrong as it was found
            return first
        return first

    def _in_layer(self, first: Judged) -> Judged:
        layer = self._first_wrong_layer()
        return first if layer is None else replace(first, tensor=f"layer{layer}.output")

    def _loss_or_forward(self, first: Judged) -> Judged:
        """The output that `predict` gives is right. Is the loss wrong, or a forward pass that the step has of its own?"""
        if (layer := self._first_wrong_layer()) is not None:
            return replace(first, beat="forward", tensor=f"layer{layer}.output")
        if self._losses_of_another_prediction():
            return replace(first, beat="forward", tensor=f"layer{len(self.shape.widths) - 1}.output")
        return first

    def _gradient_or_update(self, first: Judged) -> Judged:
        """Another optimizer reads the right gradient: then the rule of the configured one is wrong."""
        judge, optimizer = self.judge, self.judge.subject.optimizer
        for reader in self.readers:
            if reader.slot_names == optimizer.slot_names:
                continue
            other = Judge(replace(judge.subject, optimizer=reader), judge.reference, judge.arithmetic, judge.generator)
            for probe in self._few():
                other.probe(probe)
            if not any(entry.wrong for entry in other.judged if entry.beat in ("forward", "loss", "backward")):
                return replace(first, beat="update")
        return first

    def _step_or_batch(self, first: Judged) -> Judged:
        """Is the same step right on the same rows, when they come as a whole split? Then the method takes other rows."""
        assert self.judge.first_wrong_step is not None
        as_rows, gathered = self.judge.first_wrong_step(True), self.judge.first_wrong_step(False)
        allowed = 4 * self.judge.arithmetic.product(len(self.shape.widths)) * abs(gathered)
        return first if abs(as_rows - gathered) <= allowed else replace(first, beat="batches")

    def _few(self) -> Iterator[Probe]:
        for probe in probes(self.shape, self.judge.generator, overflowing=2.0):
            if probe.conditioned or not self.judge.arithmetic.coarse:
                yield probe

    def _one_row(self) -> Iterator[Probe]:
        one = replace(self.shape, rows=1)
        for _ in range(2):
            for probe in probes(one, self.judge.generator, overflowing=2.0):
                if probe.name in ("signed 1", "signed 2", "one row"):
                    yield probe

    def _gradient(self, params: Params, x: np.ndarray, y: np.ndarray) -> tuple[Params, float]:
        """The gradient and the loss of one step from here."""
        subject, reader = self.judge.subject, reading(self.judge.subject.optimizer)
        slots = {slot: {name: np.zeros_like(value) for name, value in params.items()} for slot in reader.slot_names}
        state = State(params, slots, np.array(0, dtype=np.int64))
        method = subject.start(state, reader)
        losses = subject.steps(method, subject.put(x), subject.put(y), Block(0, 1))
        return gradient(reader, state, method.export()), float(losses.reshape(-1)[0])

    def _first_wrong_layer(self) -> int | None:
        """The first hidden layer whose output, as read from gradients, is not the right one."""
        judge, subject = self.judge, self.judge.subject
        wrong = []
        for probe in self._one_row():
            params = {name: subject.cast(value) for name, value in probe.params.items()}
            x, y = subject.cast(probe.x), subject.cast(probe.y)
            grads, _ = self._gradient(params, x, y)
            tensors = {name: exact(value) for name, value in params.items()}
            noise = Uniform(judge.generator, judge.arithmetic)
            right = judge.reference.evaluate(tensors, exact(x), exact(y))
            ways = [judge.reference.evaluate(tensors, exact(x), exact(y), noise) for _ in range(DRAWS)]
            for layer in range(1, len(self.shape.widths) - 1):
                weight, bias = grads[f"layer{layer + 1}.weight"], grads.get(f"layer{layer + 1}.bias")
                found = _read(weight, bias)
                scaled = bias is not None
                if found is None or not float(right.outputs[layer - 1].norm()):
                    continue
                expected = _direction(right.outputs[layer - 1].numpy()[0], scaled)
                allowed = Envelope({"a": exact(expected)}, smallest=judge.arithmetic.smallest)
                for way in ways:
                    other = exact(_direction(way.outputs[layer - 1].numpy()[0], scaled))
                    allowed.widen({"a": noise.operand(noise.operand(other, 1), 1)})
                if compare(found * _sign(found, expected), exact(expected), allowed.allowed("a")).score > FACTOR:
                    wrong.append(layer)
        return min(wrong, default=None)

    def _losses_of_another_prediction(self) -> bool:
        """Whether the losses at several targets are those of one prediction, that of the step, which is not the right one.

        Gauss-Newton for the prediction p̂ that meets ℓ(p̂, yₖ) = Lₖ, on two equal rows, from the right prediction.
        """
        import torch

        judge, subject = self.judge, self.judge.subject
        probe = next(self._one_row())
        params = {name: subject.cast(value) for name, value in probe.params.items()}
        x = subject.cast(np.repeat(probe.x, 2, axis=0))
        outputs = self.shape.widths[-1]
        tensors, nothing = {name: exact(value) for name, value in params.items()}, np.zeros((2, outputs))
        prediction = judge.reference.evaluate(tensors, exact(x), exact(nothing)).outputs[-1][0]
        size = float(prediction.abs().max()) or 1.0
        targets = list(np.eye(outputs) * (1.0 if self.shape.classes else size))
        if not self.shape.classes:
            extra = judge.generator.standard_normal((outputs + 1, outputs)) * size
            targets = [np.zeros(outputs), *targets, *extra]
        chosen = [subject.cast(np.stack([target, target])) for target in targets]
        seen = torch.tensor([self._gradient(params, x, y)[1] for y in chosen], dtype=torch.float64)
        loss = judge.reference._loss_function()

        def losses(p: Any) -> Any:
            return torch.stack([loss(torch.stack([p, p]), exact(y)) for y in chosen])

        def missed(p: Any) -> float:
            return float((losses(p) - seen).norm() / seen.norm())

        p, tolerance = prediction.clone(), min(100 * judge.arithmetic.product(1), 0.1)
        if missed(p) < tolerance:  # on equal rows nothing is wrong
            return False
        for _ in range(30):
            jacobian = torch.autograd.functional.jacobian(losses, p)
            p = p + torch.linalg.lstsq(jacobian, (seen - losses(p))[:, None], driver="gelsd").solution[:, 0]
        return missed(p) < tolerance


def _read(weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
    """a from the gradient of a weight, a ⊗ signal: a itself where the gradient of the bias gives the signal."""
    column = int(np.linalg.norm(weight, axis=0).argmax()) if bias is None else int(np.abs(bias).argmax())
    read = weight[:, column]
    if bias is None:
        size = float(np.linalg.norm(read))
        return read / size if size > 0 and np.isfinite(size) else None
    return read / bias[column] if bias[column] and np.isfinite(bias[column]) else None


def _direction(a: np.ndarray, scaled: bool) -> np.ndarray:
    return a if scaled else a / np.linalg.norm(a)


def _sign(found: np.ndarray, expected: np.ndarray) -> float:
    """A direction is known up to its sign."""
    return -1.0 if float(found @ expected) < 0 else 1.0
