"""The envelope of a step: what is right, and how far a correct method may be from it, by perturbation and by plain steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from exp.seeds import Generator
from exp.verification.reference import Evaluation, Reference, Tensor
from exp.verification.tolerance import DRAWS, FACTOR, Arithmetic, Uniform


@dataclass
class Envelope:
    """What is right, and how far from it each element may be: E, by key. `pre` are the pre-activations, by layer."""

    right: dict[str, Tensor]
    spread: dict[str, Tensor] = field(default_factory=dict)
    smallest: float = 0.0
    largest: float = inf
    rows: int = 0

    def widen(self, found: Mapping[str, Tensor]) -> None:
        """Take in one more way of computing it."""
        for key, right in self.right.items():
            distance = (found[key] - right).abs()
            self.spread[key] = distance.maximum(self.spread[key]) if key in self.spread else distance

    def allowed(self, key: str, *, floor: bool = True) -> Tensor:
        """E; `floor` False for what is computed element by element, where one element says nothing of another."""
        spread = self.spread[key].clamp(min=self.smallest)
        return spread.maximum(spread.square().mean().sqrt()) if floor else spread

    @property
    def output(self) -> str:
        """The key of the network's output."""
        return next(key for key in self.right if key.startswith("forward/"))

    @property
    def finite(self) -> bool:
        """Whether every number is one that the precision has."""
        tensors = [*self.right.values(), *self.spread.values()]
        return all(bool((tensor.abs() < self.largest).all()) for tensor in tensors)


def evaluated(evaluation: Evaluation) -> dict[str, Tensor]:
    """What of a step can be seen from outside, by `beat/tensor` in the order of computation, and the z of each layer."""
    layers = len(evaluation.outputs)
    found = {f"forward/layer{layers}.output": evaluation.outputs[-1], "loss/loss": evaluation.loss}
    for layer in range(layers, 0, -1):
        names = [f"layer{layer}.weight", f"layer{layer}.bias"]
        found |= {f"backward/{name}": evaluation.grads[name] for name in names if name in evaluation.grads}
    return found | {f"pre/layer{layer}": z for layer, z in enumerate(evaluation.pre[:-1], start=1)}


def envelope(
    reference: Reference,
    arithmetic: Arithmetic,
    generator: Generator,
    params: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    plain: "PlainSteps",
) -> tuple[Envelope, list[Evaluation]]:
    """The right step at float64 `params` on x, y, and its envelope; beside it the perturbed evaluations themselves."""
    right = reference.evaluate(params, x, y)
    found = Envelope(evaluated(right), {}, arithmetic.smallest, arithmetic.largest, len(x))
    noise = Uniform(generator, arithmetic)
    perturbed = [reference.evaluate(params, x, y, noise) for _ in range(DRAWS)]
    for one in [*map(evaluated, perturbed), *plain(params, x, y)]:
        found.widen(one)
    return found, [right, *perturbed]


def near_kink(found: Envelope) -> np.ndarray:
    """The rows, (N,), of which a pre-activation is so near 0 that a correct method may take it for one of the other sign.

    One that is 0 in every order of summation is not: there the derivative is 0.
    """
    rows = np.zeros(found.rows, dtype=bool)
    for key in [key for key in found.right if key.startswith("pre/")]:
        spread, z = found.spread[key], found.right[key].abs()
        near = (z <= (FACTOR + 1) * found.allowed(key)) & (spread > 0)
        rows |= near.any(dim=-1).numpy()
    return rows


class PlainSteps:
    """Plain implementations: `torch.nn.functional` in the precision itself, summed forwards and backwards."""

    def __init__(self, reference: Reference, device: str, dtype: str):
        self._reference, self._device, self._dtype = reference, device, dtype

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> list[dict[str, Tensor]]:
        import torch

        dtype = getattr(torch, self._dtype)
        params = {name: value.to(self._device, dtype) for name, value in params.items()}
        x, y = x.to(self._device, dtype), y.to(self._device, dtype)
        layers = sum(name.endswith(".weight") for name in params)

        def flipped(name: str, value: Tensor) -> Tensor:
            """Inputs and hidden units in reverse, the outputs as they are."""
            last = name.startswith(f"layer{layers}.")
            dims = [dim for dim in range(value.ndim) if not (last and dim == value.ndim - 1)]
            return value.flip(dims) if dims else value

        forwards = evaluated(self._reference.evaluate(params, x, y))
        reversed_ = {name: flipped(name, value).contiguous() for name, value in params.items()}
        backwards = evaluated(self._reference.evaluate(reversed_, x.flip((0, 1)), y.flip(0)))
        for key, value in backwards.items():
            beat, _, name = key.partition("/")
            if beat == "backward":
                backwards[key] = flipped(name, value)
            elif beat in ("forward", "pre"):
                backwards[key] = value.flip((0,) if beat == "forward" else (0, 1))
        return [{key: value.to("cpu", torch.float64) for key, value in each.items()} for each in (forwards, backwards)]
