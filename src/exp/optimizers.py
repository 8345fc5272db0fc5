"""Update rules of one parameter p with gradient g: new p and new slots. Keys and slots are named as in `torch.optim`.

`constants()` gives the numbers of the rule, computed in float64 on the host and cast last (1 − β and log β from float32
betas are a hundred times less accurate). In a program of K runs each constant is an array (K,): see `per_run`.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log
from typing import Any, ClassVar

from exp.arrays import Array, cast, library, per_run, plus_scaled
from exp.errors import InputError, require
from exp.state import State

Slots = dict[str, Array]

NUMBERS = ("lr", "weight_decay", "momentum", "betas", "eps")
"""The shipped optimizers' numbers, all of which are among their `constants`."""


@dataclass(kw_only=True)
class Optimizer(abc.ABC):
    """An update rule. `slot_names` are the arrays that it keeps for each parameter, zero at the start."""

    slot_names: ClassVar[tuple[str, ...]] = ()
    torch_name: ClassVar[str]

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(isfinite(self.lr) and self.lr > 0, "lr", self.lr, "a number > 0")
        require(isfinite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", self.weight_decay, "a number >= 0")

    def constants(self) -> dict[str, float]:
        """The numbers of the rule, float64."""
        return {"lr": self.lr, "weight_decay": self.weight_decay}

    def torch_arguments(self) -> dict[str, Any]:
        """The arguments of the twin in `torch.optim`."""
        return {"lr": self.lr, "weight_decay": self.weight_decay}

    def slots(self, params: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
        """The slots at the start: zeros shaped as `params`."""
        return {slot: {name: library(param).zeros_like(param) for name, param in params.items()} for slot in self.slot_names}

    def update(self, state: State, grads: Mapping[str, Array], constants: Mapping[str, Any]) -> State:
        """The state after one update of every parameter by its gradient."""
        count = state.count + 1
        scalars = constants
        if type(self).scalars is not Optimizer.scalars:  # the rule depends on the count
            scalars = self.scalars(cast(count, like=next(iter(state.params.values()))), constants)
        params: dict[str, Array] = {}
        slots: dict[str, dict[str, Array]] = {slot: {} for slot in self.slot_names}
        for name, param in state.params.items():
            old = {slot: state.slots[slot][name] for slot in self.slot_names}
            values = {key: per_run(value, param) for key, value in scalars.items()} if count.ndim else scalars
            params[name], new = self.rule(param, grads[name], old, values)
            for slot in self.slot_names:
                slots[slot][name] = new[slot]
        return State(params, slots, count)

    def scalars(self, count: Array, constants: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the rule needs beside arrays, for all parameters: the constants, and what depends on `count`, 1 at first."""
        return constants

    @abc.abstractmethod
    def rule(self, p: Array, g: Array, slots: Slots, c: Mapping[str, Any]) -> tuple[Array, Slots]:
        """p, g and slots have one shape; `c` holds the scalars."""


def stack_constants(optimizers: Sequence[Optimizer]) -> dict[str, list[float]]:
    """The constants of K optimizers of one kind, K numbers each."""
    each = [optimizer.constants() for optimizer in optimizers]
    return {key: [constants[key] for constants in each] for key in each[0]}


def shared(constants: Mapping[str, list[float]]) -> dict[str, Any]:
    """A constant that all runs have in common as one number: a weight decay of 0 is left out, as in one run."""
    return {key: values[0] if len(set(values)) == 1 else values for key, values in constants.items()}


def _decayed(g: Array, p: Array, c: Mapping[str, Any]) -> Array:
    """g + λ p: the gradient of the loss with the penalty λ/2 ‖p‖². `g` itself where λ is the number 0."""
    decay = c["weight_decay"]
    return g if isinstance(decay, float) and decay == 0 else plus_scaled(g, p, decay)


@dataclass(kw_only=True)
class SGD(Optimizer):
    """p ← p − lr · (g + λp): gradient descent, λ the weight decay (Robbins & Monro 1951)."""

    torch_name = "SGD"

    def rule(self, p: Array, g: Array, slots: Slots, c: Mapping[str, Any]) -> tuple[Array, Slots]:
        return plus_scaled(p, _decayed(g, p, c), -c["lr"]), {}


@dataclass(kw_only=True)
class Momentum(Optimizer):
    """v ← μv + (g + λp); p ← p − lr · v, or with Nesterov p − lr · (g + λp + μv) (Sutskever et al. 2013)."""

    slot_names = ("momentum_buffer",)
    torch_name = "SGD"

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.momentum < 1, "momentum", self.momentum, "a number > 0 and < 1; optimizer=sgd has none")

    def constants(self) -> dict[str, float]:
        return super().constants() | {"momentum": self.momentum}

    def torch_arguments(self) -> dict[str, Any]:
        return super().torch_arguments() | {"momentum": self.momentum, "nesterov": self.nesterov}

    def rule(self, p: Array, g: Array, slots: Slots, c: Mapping[str, Any]) -> tuple[Array, Slots]:
        g = _decayed(g, p, c)
        velocity = plus_scaled(g, slots["momentum_buffer"], c["momentum"])
        direction = plus_scaled(g, velocity, c["momentum"]) if self.nesterov else velocity
        return plus_scaled(p, direction, -c["lr"]), {"momentum_buffer": velocity}


@dataclass(kw_only=True)
class Adam(Optimizer):
    """m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − lr · m̂ / (√v̂ + ε), m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ).

    Kingma & Ba 2015, algorithm 1, with g + λp for g. 1 − βᵗ is computed as −expm1(t log β).
    """

    slot_names = ("exp_avg", "exp_avg_sq")
    torch_name = "Adam"

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError("betas", self.betas, "allowed: two numbers >= 0 and < 1, such as [0.9,0.999]")
        require(isfinite(self.eps) and self.eps > 0, "eps", self.eps, "a number > 0")

    def constants(self) -> dict[str, float]:
        betas = {}
        for number, beta in enumerate(self.betas, start=1):
            betas |= {f"beta{number}": beta, f"one_minus_beta{number}": 1 - beta}
            betas |= {f"log_beta{number}": log(beta) if beta > 0 else -inf}
        return super().constants() | betas | {"eps": self.eps}

    def torch_arguments(self) -> dict[str, Any]:
        return super().torch_arguments() | {"betas": tuple(self.betas), "eps": self.eps}

    def scalars(self, count: Array, constants: Mapping[str, Any]) -> Mapping[str, Any]:
        xp = library(count)
        corrected_lr = constants["lr"] / -xp.expm1(count * constants["log_beta1"])  # lr / (1 − β₁ᵗ)
        corrected_root = 1 / xp.sqrt(-xp.expm1(count * constants["log_beta2"]))  # 1 / √(1 − β₂ᵗ)
        return {**constants, "corrected_lr": corrected_lr, "corrected_root": corrected_root}

    def rule(self, p: Array, g: Array, slots: Slots, c: Mapping[str, Any]) -> tuple[Array, Slots]:
        p, g = self.decay(p, g, c)
        m = c["beta1"] * slots["exp_avg"] + c["one_minus_beta1"] * g
        v = c["beta2"] * slots["exp_avg_sq"] + c["one_minus_beta2"] * (g * g)
        step = c["corrected_lr"] * m / (library(p).sqrt(v) * c["corrected_root"] + c["eps"])
        return p - step, {"exp_avg": m, "exp_avg_sq": v}

    def decay(self, p: Array, g: Array, c: Mapping[str, Any]) -> tuple[Array, Array]:
        """Weight decay is part of the gradient."""
        return p, _decayed(g, p, c)


@dataclass(kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: p ← p − lr λ p before the update (Loshchilov & Hutter 2019, algorithm 2)."""

    torch_name = "AdamW"

    weight_decay: float = 0.01

    def constants(self) -> dict[str, float]:
        return super().constants() | {"lr_weight_decay": self.lr * self.weight_decay}

    def decay(self, p: Array, g: Array, c: Mapping[str, Any]) -> tuple[Array, Array]:
        """Weight decay shrinks the parameter itself."""
        return plus_scaled(p, p, -c["lr_weight_decay"]), g
