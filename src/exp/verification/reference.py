"""The independent reference: forward, loss and backward by `torch.nn.functional` and `torch.autograd`; updates: `rules`.

In float64 it is what a step should compute. With `noise` it is the same step with every operand a little off; in float32
(or under bfloat16's autocast) it is a plain implementation, whose error is one that a correct method may make.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, Protocol

import numpy as np

Tensor = Any
"""A `torch.Tensor`; torch is imported where it is used."""

ACTIVATIONS = ("relu", "tanh", "gelu", "identity")


class Unknown(ValueError):
    """The reference has no twin of a loss, an activation or an optimizer."""


class Noise(Protocol):
    """Relative errors δξ, ξ uniform in (−1, 1): see `tolerance.Uniform`."""

    def operand(self, value: Tensor, terms: int) -> Tensor:
        """An operand, or a result, of products that sum up to `terms` terms: value · (1 + δξ)."""

    def absolute(self, size: Tensor) -> Tensor:
        """size · δξ, for what is computed element by element from numbers of that size, and rounded as operands are."""

    def loss(self, value: Tensor, terms: int, floor: Tensor) -> Tensor:
        """A loss of `terms` terms, summed in the storage's precision, with an absolute error of `floor` roundoffs."""

    def softmax(self, size: Tensor) -> Tensor:
        """size · δξ, in the storage's precision."""


@dataclass
class Evaluation:
    """One forward, loss and backward pass. `pre` and `outputs` are z₁ … z_L and a₁ … a_L, (N, width)."""

    pre: list[Tensor]
    outputs: list[Tensor]
    loss: Tensor
    grads: dict[str, Tensor]


@dataclass(frozen=True)
class Reference:
    """The step of a fully connected network up to its gradient: `activation` by name, `loss` as configured."""

    activation: str
    loss: Any

    def __post_init__(self) -> None:
        self.loss_function()
        if self.activation not in ACTIVATIONS:
            raise Unknown(f"the reference has no activation {self.activation}; it has {', '.join(ACTIVATIONS)}")

    def evaluate(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, noise: Noise | None = None) -> Evaluation:
        """Forward, loss and backward at `params` on x, (N, inputs), and y, (N, outputs), in the type of the tensors."""
        import torch
        from torch.nn import functional

        weights = {name: value for name, value in params.items() if name.endswith(".weight")}
        layers = len(weights)
        terms = [0, *(max(len(x), *weight.shape) for weight in weights.values())]  # of the sums of each layer

        def noisy(value: Tensor, layer: int) -> Tensor:
            return value if noise is None else noise.operand(value, terms[layer])

        leaves = {name: noisy(value, layer_of(name)).detach().requires_grad_() for name, value in params.items()}
        a = noisy(x, 1)
        pre, outputs = [], []
        for layer in range(1, layers + 1):
            z = functional.linear(a, leaves[f"layer{layer}.weight"].T, leaves.get(f"layer{layer}.bias"))
            z = noisy(z, layer)
            a = self._activated(z, noise, terms[layer]) if layer < layers else z
            pre.append(z)
            outputs.append(a)
        prediction = a.to(y.dtype)
        loss = self.loss_function()(prediction, y)
        if noise is not None:
            prediction.register_hook(self._signal_noise(noise, prediction.detach(), terms[layers]))
            loss = noise.loss(loss, y.numel(), self._loss_floor(prediction.detach()))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        found = {name: noisy(grad, layer_of(name)) for name, grad in zip(leaves, grads, strict=True)}
        return Evaluation([z.detach() for z in pre], [a.detach() for a in outputs], loss.detach(), found)

    def _activated(self, z: Tensor, noise: Noise | None, terms: int) -> Tensor:
        """f(z), and in the backward pass signal · f′(z).

        With noise, tanh and GELU have errors that are relative to what they are computed from: 1 − a² to 1, 1 + tanh to 1, and
        GELU's derivative (1 + t)/2 + z (1 − t²) s(z)/2, t = tanh and s = √(2/π)(1 + 3·0.044715 z²), to 1/2 + |z| s.
        """
        import torch
        from torch.nn import functional

        tanh = self.activation == "tanh"
        if self.activation == "identity":
            a = z
        elif self.activation == "relu":
            a = functional.relu(z)
        else:
            a = torch.tanh(z) if tanh else functional.gelu(z, approximate="tanh")
        if noise is None:
            return a
        if self.activation in ("identity", "relu"):
            a = a.clone()
            a.register_hook(lambda signal: noise.operand(signal, terms))
            return a
        received: list[Tensor] = []
        size: Tensor | float = 1.0
        if not tanh:
            at = z.detach().abs()
            rising = torch.tanh(sqrt(2 / pi) * at * (1 + 0.044715 * at**2)) < 1  # where it is not, 1 − t² is exactly 0
            size = 0.5 + rising * at * sqrt(2 / pi) * (1 + 3 * 0.044715 * at**2)
        z.register_hook(lambda signal: noise.operand(signal, terms) + noise.absolute(received[0] * size))
        a = noise.operand(a, terms) + (0 if tanh else noise.absolute(z.detach() / 2))
        a.register_hook(received.append)
        return a

    def loss_function(self) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn import functional

        def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
            return functional.mse_loss(prediction, target, reduction="sum")

        known = {
            "SquaredError": squared_error,
            "MeanSquaredError": functional.mse_loss,
            "CrossEntropy": functional.cross_entropy,
        }
        name = type(self.loss).__name__
        if name in known:
            return known[name]
        if (twin := getattr(functional, getattr(self.loss, "torch_name", ""), None)) is None:
            raise Unknown(f"the reference has no {name}; it has {', '.join(known)}, and what a loss names as its torch_name")
        return lambda prediction, target: twin(prediction, target, **self.loss.torch_arguments)

    def _loss_floor(self, prediction: Tensor) -> Tensor:
        """The absolute error of a loss in units of roundoff: log softmax is (p − max p) − log Σ, each exact to its own size."""
        return 1 + prediction.abs().max() if self._has_logits else prediction.new_zeros(())

    @property
    def _has_logits(self) -> bool:
        return getattr(self.loss, "torch_name", "") == "cross_entropy"

    def _signal_noise(self, noise: Noise, prediction: Tensor, terms: int) -> Callable[[Tensor], Tensor]:
        """The error of the loss' gradient: relative, and of softmax − target the roundoff of softmax."""
        import torch

        if not self._has_logits:
            return lambda signal: noise.operand(signal, terms)
        floor = torch.softmax(prediction, -1) * self._loss_floor(prediction) / len(prediction)
        return lambda signal: noise.operand(signal, terms) + noise.softmax(floor)


def layer_of(name: str) -> int:
    """2 of layer2.weight."""
    return int(name.partition(".")[0].removeprefix("layer"))


def exact(array: np.ndarray) -> Tensor:
    """A host array as a float64 tensor; integers as they are."""
    import torch

    array = np.asarray(array)
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else array.dtype))
