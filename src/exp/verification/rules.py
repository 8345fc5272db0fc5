"""The update rules of the reference, by the functions of `torch.optim`, in float64."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exp.state import State
from exp.verification.reference import Tensor, Unknown


@dataclass(frozen=True)
class Rule:
    """The update rule of a configured optimizer."""

    optimizer: Any

    def __post_init__(self) -> None:
        if self.optimizer.torch_name not in ("SGD", "Adam", "AdamW"):
            raise Unknown(f"the reference has no {self.optimizer.torch_name}; it has SGD, Adam and AdamW of torch.optim")

    def updated(self, state: State, grads: Mapping[str, Tensor]) -> State:
        """The state after one update by the configured optimizer; its tensors are new."""
        return _optimized(self.optimizer.torch_name, _hyperparameters(self.optimizer), state, grads)

    def updated_by_slots(self, before: State, after: State) -> dict[str, Tensor]:
        """The parameters after an update of `before` whose new slots are known: those of `after`."""
        import torch

        chosen = _hyperparameters(self.optimizer)
        if self.optimizer.torch_name == "SGD":
            # As plain SGD, whose gradient is the direction: a velocity that is taken apart and added up again is rounded twice.
            direction, mu = after.slots["momentum_buffer"], chosen["momentum"]
            if chosen["nesterov"]:
                old = before.slots["momentum_buffer"]
                direction = {name: velocity - mu * old[name] + mu * velocity for name, velocity in direction.items()}
            plain = {**chosen, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
            return _optimized("SGD", plain, before._replace(slots={}), direction).params
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


def _hyperparameters(optimizer: Any) -> dict[str, Any]:
    """By the names of the constructor, which are torch's."""
    defaults = {"lr": None, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False, "betas": None, "eps": None}
    return {name: getattr(optimizer, name, default) for name, default in defaults.items()}


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
