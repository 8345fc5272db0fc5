"""The method under test, driven from outside: started at a state, stepped on a batch, its gradient read from its updates."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exp.arrays import Array, Place, get, put
from exp.methods.base import Block, Formulas, Method
from exp.state import State

DWARFING = 2.0**20
"""A rate of SGD at which an update dwarfs the weights: (before − after) / rate is the gradient to one roundoff."""


@dataclass(frozen=True)
class Subject:
    """A method for a network, a loss and an optimizer, at a place. Every start is that of a fresh copy."""

    method: Method
    network: Any
    loss: Any
    optimizer: Any
    place: Place

    def rounded(self, state: State) -> State:
        """The host state in the precision of the place: what the method must hold after its start."""
        return state.map(self.cast)

    def cast(self, array: np.ndarray) -> np.ndarray:
        """Host numbers in the precision of the place; integers as they are."""
        array = np.asarray(array)
        return array.astype(self.place.dtype) if array.dtype.kind == "f" else array

    def start(self, state: State, optimizer: Any) -> Method:
        """A fresh copy of the method, started at a host `state`."""
        method = replace(self.method)  # type: ignore[type-var]  # every method is a dataclass
        formulas = Formulas(self.network, self.loss, optimizer, optimizer.constants())
        method.start(formulas, state.map(np.copy), self.place)
        return method

    def put(self, array: np.ndarray) -> Array:
        return put(array, self.place)

    def steps(self, method: Method, x: Array, y: Array, block: Block) -> np.ndarray:
        """The losses of a block, (steps,), as the loop reads them."""
        return get(method.steps(x, y, block, self.place))


def reading(optimizer: Any) -> Any:
    """The optimizer with the numbers at which one update from empty slots shows the gradient."""
    return replace(optimizer, weight_decay=0.0, **({} if optimizer.slot_names else {"lr": DWARFING}))


def gradient(optimizer: Any, before: State, after: State) -> dict[str, np.ndarray]:
    """The gradient, float64, from one update by `reading(optimizer)` from empty slots."""
    if "momentum_buffer" in after.slots:
        return {name: value.astype(np.float64) for name, value in after.slots["momentum_buffer"].items()}
    if "exp_avg" in after.slots:
        share = 1 - optimizer.betas[0]
        return {name: value.astype(np.float64) / share for name, value in after.slots["exp_avg"].items()}
    with np.errstate(all="ignore"):
        return {
            name: (before.params[name].astype(np.float64) - value.astype(np.float64)) / optimizer.lr
            for name, value in after.params.items()
        }


def empty(optimizer: Any, params: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Slots that are all zero, in the type of the parameters."""
    return {slot: {name: np.zeros_like(value) for name, value in params.items()} for slot in optimizer.slot_names}


def reading_error(optimizer: Any, params: dict[str, np.ndarray], roundoff: float) -> dict[str, np.ndarray]:
    """How far `gradient` may be off by itself: plain SGD shows it beside weights that were rounded, 2u |p| / rate."""
    rate = np.inf if optimizer.slot_names else optimizer.lr
    return {name: 2 * roundoff * np.abs(value.astype(np.float64)) / rate for name, value in params.items()}


def visible(optimizer: Any, params: dict[str, np.ndarray], grads: dict[str, np.ndarray], *, decays: bool = False) -> Any:
    """The optimizer at a rate at which an update moves the weights by about a sixteenth.

    A power of two times the configured one: at the tutorial's 10⁻⁶ an update may be lost in the weights' roundoff.
    `decays`: weight decay too, if there is any, is raised to about an eighth of the gradient, AdamW's to one of the weights.
    """

    def size(arrays: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays.values())))

    entries = np.sqrt(sum(array.size for array in params.values()))
    step = entries if "exp_avg_sq" in optimizer.slot_names else size(grads)
    if not (np.isfinite(step) and step > 0 and size(params) > 0):
        return optimizer

    def scaled(value: float, wanted: float) -> float:
        return float(value * 2.0 ** np.clip(np.round(np.log2(wanted / value)), -60, 60))

    moving = replace(optimizer, lr=scaled(optimizer.lr, size(params) / (16 * step)))
    if not (decays and moving.weight_decay):
        return moving
    alone = moving.torch_name == "AdamW"  # beside the gradient, lr · decay of the weights
    wanted = 1 / (8 * moving.lr) if alone else size(grads) / (8 * size(params))
    return replace(moving, weight_decay=scaled(moving.weight_decay, wanted)) if wanted > 0 else moving
