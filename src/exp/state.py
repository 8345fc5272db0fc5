"""The state of a training run: arrays only, the step count included."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from exp.arrays import Array


class State(NamedTuple):
    """Parameters, the optimizer's slots and the number of updates done.

    `params` has `layer1.weight` (inputs, outputs), `layer1.bias` (outputs,), …; `slots["exp_avg"]` has the same names and
    shapes; `count` is int64, shape (). In a stack of K runs each has one more axis, K, in front.
    """

    params: dict[str, Array]
    slots: dict[str, dict[str, Array]]
    count: Array

    def map(self, function: Callable[[Array], Array]) -> "State":
        """The state with `function` applied to every array."""

        def applied(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {name: function(array) for name, array in arrays.items()}

        return State(applied(self.params), {slot: applied(arrays) for slot, arrays in self.slots.items()}, function(self.count))

    def named(self) -> dict[str, Array]:
        """Canonical names: `layer1.weight`, `exp_avg/layer1.weight`, …, `count`."""
        slots = {f"{slot}/{name}": array for slot, arrays in self.slots.items() for name, array in arrays.items()}
        return {**self.params, **slots, "count": self.count}

    @classmethod
    def from_named(cls, arrays: Mapping[str, Array]) -> "State":
        """The inverse of `named`."""
        params: dict[str, Array] = {}
        slots: dict[str, dict[str, Array]] = {}
        for name, array in arrays.items():
            slot, _, parameter = name.rpartition("/")
            if slot:
                slots.setdefault(slot, {})[parameter] = array
            elif name != "count":
                params[name] = array
        return cls(params, slots, arrays["count"])


def stack_states(states: Sequence[State]) -> State:
    """K states on the host as one with a leading axis K. Smaller tensors are padded behind, with zeros."""
    named = [state.named() for state in states]
    stacked = {}
    for name, first in named[0].items():
        shape = tuple(max(sizes) for sizes in zip(*(each[name].shape for each in named), strict=True))
        stacked[name] = np.zeros((len(named), *shape), dtype=first.dtype)
        for run, each in enumerate(named):
            stacked[name][(run, *(slice(size) for size in each[name].shape))] = each[name]
    return State.from_named(stacked)


def unstack_state(stacked: State, states: Sequence[State]) -> list[State]:
    """The inverse of `stack_states`: K copies, in the shapes of `states`."""
    arrays = stacked.named()

    def own(run: int, name: str, like: Array) -> Array:
        return np.array(arrays[name][(run, *(slice(size) for size in like.shape))])

    return [
        State.from_named({name: own(run, name, array) for name, array in state.named().items()})
        for run, state in enumerate(states)
    ]
