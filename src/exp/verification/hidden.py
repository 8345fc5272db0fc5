"""What a step has computed on its way, as read from outside.

Hidden outputs cannot be asked for, but they can be read: the gradient of Wₙ on a batch of one row is the outer product of
a₍ₙ₋₁₎ and a signal, so any of its columns is a₍ₙ₋₁₎ up to a factor; the gradient of bₙ is the signal itself. The prediction
of a step is read from its losses at several targets.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from exp.methods.base import Block
from exp.state import State
from exp.verification.comparison import compare
from exp.verification.envelope import Envelope
from exp.verification.judge import Judge
from exp.verification.probes import Params, Probe, Shape, probes
from exp.verification.reference import exact
from exp.verification.subject import empty, gradient, reading
from exp.verification.tolerance import DRAWS, FACTOR


def stepped(judge: Judge, params: Params, x: np.ndarray, y: np.ndarray) -> tuple[State, State, float]:
    """The states before and after one step from empty slots by the reading optimizer, and its loss."""
    subject, reader = judge.subject, reading(judge.subject.optimizer)
    state = State(params, empty(reader, params), np.array(0, dtype=np.int64))
    method = subject.start(state, reader)
    losses = subject.steps(method, subject.put(x), subject.put(y), Block(0, 1))
    return state, method.export(), float(losses.reshape(-1)[0])


def first_wrong_layer(judge: Judge, shape: Shape) -> int | None:
    """The first layer whose output, as read from gradients of single rows, is not the right one: a hidden one, or the next
    after it, if it is that layer's own weight or bias by which the hidden output is read wrongly.
    """
    wrong = []
    for probe in _single_rows(judge, shape):
        params = {name: judge.subject.cast(value) for name, value in probe.params.items()}
        x, y = judge.subject.cast(probe.x), judge.subject.cast(probe.y)
        before, after, _ = stepped(judge, params, x, y)
        grads = gradient(reading(judge.subject.optimizer), before, after)
        tensors = {name: exact(value) for name, value in params.items()}
        outputs = [judge.evaluation(params, x, y).outputs]
        outputs += [judge.reference.evaluate(tensors, exact(x), exact(y), judge.noise).outputs for _ in range(DRAWS)]
        for layer in range(1, len(shape.widths) - 1):
            ways = [each[layer - 1] for each in outputs]
            weight, bias = grads[f"layer{layer + 1}.weight"], grads.get(f"layer{layer + 1}.bias")
            if not float(ways[0].norm()) or _is_right(judge, weight, bias, ways):
                continue
            transposed = weight.shape[0] == weight.shape[1] and _is_right(judge, weight.T, bias, ways)
            own = transposed or (bias is not None and _only_the_bias(judge, params, x, y, layer + 1))
            wrong.append(layer + 1 if own else layer)
    return min(wrong, default=None)


def _is_right(judge: Judge, weight: np.ndarray, bias: np.ndarray | None, ways: list[Any]) -> bool:
    """Whether the output of a layer, (1, width), that the next one's gradients show is right; `ways`: exact, then perturbed."""
    found = _read(weight, bias)
    if found is None:
        return True

    def known(a: Any) -> Any:
        return a[0] / a[0].norm() if bias is None else a[0]

    expected, *others = map(known, ways)
    allowed = Envelope({"a": expected}, smallest=judge.arithmetic.smallest)
    for other in others:  # the gradient from which it is read is rounded too
        allowed.widen({"a": judge.noise.operand(judge.noise.operand(other, 1), 1)})
    sign = -1.0 if bias is None and float(found @ expected.numpy()) < 0 else 1.0
    return compare(sign * found, expected, allowed.allowed("a")).score <= FACTOR


def _only_the_bias(judge: Judge, params: Params, x: np.ndarray, y: np.ndarray, layer: int) -> bool:
    """Whether the loss of a step is right once the bias of a layer is zero, and with it whatever is done to that bias."""
    name = f"layer{layer}.bias"
    without = {**params, name: np.zeros_like(params[name])}
    right = judge.right(without, x, y)
    if right is None:
        return False
    loss = np.asarray(stepped(judge, without, x, y)[2])
    return compare(loss, right.envelope.right["loss/loss"], right.envelope.allowed("loss/loss")).score <= FACTOR


def _single_rows(judge: Judge, shape: Shape) -> Iterator[Probe]:
    """Conditioned probes of one row each; the large numbers of "saturated" only where no gradient vanishes by them."""
    names = ("signed 1", "signed 2", "one row", *(("saturated",) if shape.relu else ()))
    for _ in range(2):
        for probe in probes(replace(shape, rows=1), judge.generator, overflowing=2.0):
            if probe.name in names:
                yield probe


def _read(weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
    """a, (inputs,), from the gradient of a weight, a ⊗ signal; of length 1 where no gradient of a bias gives the signal."""
    column = int(np.linalg.norm(weight, axis=0).argmax()) if bias is None else int(np.abs(bias).argmax())
    size = float(np.linalg.norm(weight[:, column])) if bias is None else float(bias[column])
    return weight[:, column] / size if size and np.isfinite(size) else None


def of_another_prediction(judge: Judge, shape: Shape) -> bool:
    """Whether the losses at several targets are those of one prediction, that of the step, which is not the right one.

    Gauss-Newton for the prediction p̂ that meets ℓ(p̂, yₖ) = Lₖ, on two equal rows, from the right prediction. Not for
    classes: −log softmax is that of some prediction whatever is done to the logits before.
    """
    import torch

    if shape.classes:
        return False
    subject, probe, outputs = judge.subject, next(_single_rows(judge, shape)), shape.widths[-1]
    params = {name: subject.cast(value) for name, value in probe.params.items()}
    x = subject.cast(np.repeat(probe.x, 2, axis=0))
    right = judge.evaluation(params, x, np.zeros((2, outputs))).outputs[-1][0]
    size = float(right.abs().max()) or 1.0
    targets = [np.zeros(outputs), *np.eye(outputs), *judge.generator.standard_normal((outputs + 1, outputs))]
    chosen = [subject.cast(size * np.stack([target, target])) for target in targets]
    seen = torch.tensor([stepped(judge, params, x, y)[2] for y in chosen], dtype=torch.float64)
    loss = judge.reference.loss_function()

    def losses(p: Any) -> Any:
        return torch.stack([loss(torch.stack([p, p]), exact(y)) for y in chosen])

    def missed(p: Any) -> float:
        return float((losses(p) - seen).norm() / seen.norm())

    p, tolerance = right.clone(), min(100 * judge.arithmetic.product(1), 0.1)
    if missed(p) < tolerance:  # on equal rows nothing is wrong
        return False
    for _ in range(30):
        jacobian = torch.autograd.functional.jacobian(losses, p)
        p = p + torch.linalg.lstsq(jacobian, (seen - losses(p))[:, None], driver="gelsd").solution[:, 0]
    return missed(p) < tolerance
