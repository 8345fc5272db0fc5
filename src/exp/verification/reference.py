"""The independent reference: a training step by `torch.nn.functional`, `torch.autograd` and the functions of `torch.optim`.

In float64 it is what a step should compute. With `noise` it is the same step with every operand a little off; in float32
(or under bfloat16's autocast) it is a plain implementation, whose error is one that a correct method may make.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exp.state import State

Tensor = Any
"""A `torch.Tensor`; torch is imported where it is used."""


class Unknown(ValueError):
    """The reference has no twin of a loss or an optimizer."""


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
    """The step of a fully connected network: `activation` by name, `loss` and `optimizer` as configured."""

    activation: str
    loss: Any
    optimizer: Any

    def __post_init__(self) -> None:
        self._loss_function()
        if self.optimizer.torch_name not in ("SGD", "Adam", "AdamW"):
            raise Unknown(f"the reference has no {self.optimizer.torch_name}; it has SGD, Adam and AdamW of torch.optim")

    def evaluate(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, noise: Noise | None = None) -> Evaluation:
        """Forward, loss and backward at `params` on x, (N, inputs), and y, (N, outputs), in the type of the tensors."""
        import torch
        from torch.nn import functional

        weights = {name: value for name, value in params.items() if name.endswith(".weight")}
        layers = len(weights)
        terms = [0, *(max(len(x), *weight.shape) for weight in weights.values())]  # of the sums of each layer

        def noisy(value: Tensor, layer: int) -> Tensor:
            return value if noise is None else noise.operand(value, terms[layer])

        leaves = {name: noisy(value, _layer(name)).detach().requires_grad_() for name, value in params.items()}
        a = noisy(x, 1)
        pre, outputs = [], []
        for layer in range(1, layers + 1):
            z = functional.linear(a, leaves[f"layer{layer}.weight"].T, leaves.get(f"layer{layer}.bias"))
            z = noisy(z, layer)
            a = self._activated(z, noise, terms[layer]) if layer < layers else z
            pre.append(z)
            outputs.append(a)
        prediction = a.to(y.dtype)
        loss = self._loss_function()(prediction, y)
        if noise is not None:
            prediction.register_hook(self._signal_noise(noise, prediction.detach(), terms[layers]))
            loss = noise.loss(loss, y.numel(), self._loss_floor(prediction.detach()))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        found = {name: noisy(grad, _layer(name)) for name, grad in zip(leaves, grads, strict=True)}
        return Evaluation([z.detach() for z in pre], [a.detach() for a in outputs], loss.detach(), found)

    def _activated(self, z: Tensor, noise: Noise | None, terms: int) -> Tensor:
        """f(z), and in the backward pass signal · f′(z).

        With noise, tanh and GELU have errors that are relative to what they are computed from: 1 − a² to 1, 1 + tanh to 1.
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
        z.register_hook(lambda signal: noise.operand(signal, terms) + noise.absolute(received[0]))
        a = noise.operand(a, terms) + (0 if tanh else noise.absolute(z.detach() / 2))
        a.register_hook(received.append)
        return a

    def _loss_function(self) -> Callable[[Tensor, Tensor], Tensor]:
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

    def updated(self, state: State, grads: Mapping[str, Tensor], rate: float = 1.0) -> State:
        """The state after one update by the configured optimizer, at `rate` times its lr; its tensors are new."""
        return _optimized(self.optimizer.torch_name, _hyperparameters(self.optimizer, rate), state, grads)

    def updated_by_slots(self, before: State, after: State, rate: float = 1.0) -> dict[str, Tensor]:
        """The parameters after an update of `before` whose new slots are known: those of `after`."""
        import torch

        chosen = _hyperparameters(self.optimizer, rate)
        if self.optimizer.torch_name == "SGD":
            velocity, mu = after.slots["momentum_buffer"], chosen["momentum"]
            grads = {name: velocity[name] - mu * before.slots["momentum_buffer"][name] for name in velocity}
            return _optimized("SGD", {**chosen, "weight_decay": 0.0}, before, grads).params
        # AMSGrad divides by the largest v so far: here the v given, with an exp_avg_sq that is smaller. A gradient that
        # equals m leaves m as it is; a β₂ of 0 would put m² in the place of v.
        smaller = {name: torch.full_like(v, -1e300) for name, v in after.slots["exp_avg_sq"].items()}
        slots = {"exp_avg": after.slots["exp_avg"], "exp_avg_sq": smaller, "max_exp_avg_sq": after.slots["exp_avg_sq"]}
        decay = chosen["weight_decay"] if self.optimizer.torch_name == "AdamW" else 0.0  # Adam's is in its slots
        chosen["betas"] = (chosen["betas"][0], chosen["betas"][1] or 1e-30)
        given = State(before.params, slots, before.count)
        return _optimized(
            self.optimizer.torch_name, {**chosen, "weight_decay": decay}, given, after.slots["exp_avg"], amsgrad=True
        ).params


def _hyperparameters(optimizer: Any, rate: float) -> dict[str, Any]:
    """By the names of the constructor, which are torch's."""
    defaults = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False, "betas": None, "eps": None}
    return {"lr": optimizer.lr * rate, **{name: getattr(optimizer, name, default) for name, default in defaults.items()}}


def _optimized(
    kind: str, chosen: Mapping[str, Any], state: State, grads: Mapping[str, Tensor], *, amsgrad: bool = False
) -> State:
    """One step of `torch.optim.sgd.sgd` or `torch.optim.adam.adam`, the functions behind the classes.

    The classes would import torch._dynamo, which takes a second.
    """
    import torch
    from torch.optim.adam import adam
    from torch.optim.sgd import sgd

    names = list(state.params)
    params = [state.params[name].clone() for name in names]
    given = [grads[name].clone() for name in names]
    slots = {slot: [arrays[name].clone() for name in names] for slot, arrays in state.slots.items()}
    with torch.no_grad():
        if kind == "SGD":
            momentum = {key: chosen[key] for key in ("lr", "weight_decay", "momentum", "nesterov")}
            buffers = slots.get("momentum_buffer", [None] * len(names))
            sgd(params, given, buffers, foreach=False, fused=False, dampening=0.0, maximize=False, **momentum)
        else:
            beta1, beta2 = chosen["betas"]
            adam(
                params,
                given,
                slots["exp_avg"],
                slots["exp_avg_sq"],
                slots.get("max_exp_avg_sq", []),
                [state.count.to(torch.float64).clone() for _ in names],
                foreach=False,
                capturable=False,
                differentiable=False,
                fused=False,
                amsgrad=amsgrad,
                beta1=beta1,
                beta2=beta2,
                lr=chosen["lr"],
                weight_decay=chosen["weight_decay"],
                eps=chosen["eps"],
                maximize=False,
                decoupled_weight_decay=kind == "AdamW",
            )
    named = {slot: dict(zip(names, arrays, strict=True)) for slot, arrays in slots.items()}
    return State(dict(zip(names, params, strict=True)), named, state.count + 1)


def _layer(name: str) -> int:
    """2 of layer2.weight."""
    return int(name.partition(".")[0].removeprefix("layer"))


def exact(array: np.ndarray) -> Tensor:
    """A host array as a float64 tensor; integers as they are."""
    import torch

    array = np.asarray(array)
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else array.dtype))
