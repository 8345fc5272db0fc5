"""Update rules against their twins in `torch.optim`; planted faults must fail the same comparison."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from exp.arrays import get
from exp.optimizers import SGD, Adam, AdamW, Momentum, Optimizer, stack_constants
from exp.state import State, stack_states

CONF = Path(__file__).parents[1] / "conf"
OPTIMIZERS: dict[str, Optimizer] = {
    path.stem: instantiate(OmegaConf.load(path), _convert_="all") for path in sorted(CONF.glob("optimizer/*.yaml"))
}
KINDS = {type(optimizer).__name__: type(optimizer) for optimizer in OPTIMIZERS.values()}
LIBRARIES = {"numpy": np.array, "torch": torch.tensor}
EPS = np.finfo(np.float64).eps
SHAPES = {"layer1.weight": (7, 5), "layer1.bias": (5,), "layer2.weight": (5, 3)}
STEPS = 20

steady = settings(deadline=None, derandomize=True, database=None, max_examples=40)
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
every_library = pytest.mark.parametrize("library", LIBRARIES)

# Rates and decays so small that no |g + λp| falls below 1/4: Adam divides by it, and where it vanishes the rule itself
# (β₂ = 0, weights fed back through the decay) makes a rounding error grow from step to step, in torch as here.
SETTINGS = {
    "lr": st.floats(1e-6, 0.01),
    "weight_decay": st.just(0.0) | st.floats(1e-4, 0.05),
    "betas": st.lists(st.just(0.0) | st.floats(0.01, 0.999), min_size=2, max_size=2),
    "eps": st.floats(1e-10, 1e-2),
    "momentum": st.floats(0.01, 0.99),
    "nesterov": st.booleans(),
}


def optimizers_of(kind: type[Optimizer]) -> st.SearchStrategy[Optimizer]:
    """Optimizers of this kind; a new hyperparameter needs a line in SETTINGS."""
    return st.builds(kind, **{each.name: SETTINGS[each.name] for each in fields(kind)})


def random_arrays(seed: int, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Numbers of size 1/2 to 2 and either sign."""
    random = np.random.default_rng(seed)
    arrays = {name: random.uniform(0.5, 2, shape) * random.choice([-1, 1], shape) for name, shape in SHAPES.items()}
    return {name: array.astype(dtype) for name, array in arrays.items()}


def updated(optimizer: Optimizer, library: str, dtype: str = "float64", seed: int = 0) -> State:
    """The state after STEPS updates by random gradients."""
    to = LIBRARIES[library]
    params = {name: to(array) for name, array in random_arrays(seed, dtype).items()}
    state = State(params, optimizer.slots(params), to(0))
    for step in range(1, STEPS + 1):
        grads = {name: to(array) for name, array in random_arrays(1000 * seed + step, dtype).items()}
        state = optimizer.update(state, grads, optimizer.constants())
    return state.map(get)


def updated_by_torch(optimizer: Optimizer) -> State:
    """The same by the twin in `torch.optim`."""
    params = {name: torch.tensor(array) for name, array in random_arrays(0).items()}
    twin = getattr(torch.optim, optimizer.torch_name)(params.values(), **optimizer.torch_arguments())
    for step in range(1, STEPS + 1):
        for name, grad in random_arrays(step).items():
            params[name].grad = torch.tensor(grad)
        twin.step()
    slots = {slot: {name: twin.state[param][slot] for name, param in params.items()} for slot in optimizer.slot_names}
    return State(params, slots, torch.tensor(STEPS)).map(get)


def deviation(found: State, right: State) -> float:
    """The largest difference of any tensor, in units of that tensor's largest entry."""
    assert found.named().keys() == right.named().keys()
    return max(np.abs(found.named()[name] - array).max() / np.abs(array).max() for name, array in right.named().items())


def tolerance(optimizer: Optimizer) -> float:
    """20 updates of about ten roundings each; torch's 1 − βᵗ rounds in units of 1, not of 1 − β, our −expm1 does not."""
    return EPS * (10 * STEPS + 1 / min(1 - beta for beta in getattr(optimizer, "betas", [0.0])))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@steady
@given(data=st.data())
def test_rule_is_its_twin_in_torch(kind: type[Optimizer], data: st.DataObject):
    optimizer = data.draw(optimizers_of(kind))
    right = updated_by_torch(optimizer)
    for library in LIBRARIES:
        assert deviation(updated(optimizer, library), right) <= tolerance(optimizer)


@every_library
@every_optimizer
def test_choice_is_its_twin_in_torch(name: str, library: str):
    optimizer = OPTIMIZERS[name]
    state = updated(optimizer, library)
    assert deviation(state, updated_by_torch(optimizer)) <= tolerance(optimizer)
    assert (state.count, state.count.dtype, state.count.shape) == (STEPS, np.int64, ())


@every_library
@every_optimizer
def test_float32_stays_float32(name: str, library: str):
    state, right = updated(OPTIMIZERS[name], library, "float32"), updated(OPTIMIZERS[name], library)
    for key, array in state.named().items():
        assert array.dtype == (np.int64 if key == "count" else np.float32)
    # As in float64, in float32's epsilon, but that 1 − β and 1 − βᵗ are as exact as every other number.
    assert deviation(state, right) <= 10 * STEPS * np.finfo(np.float32).eps


@every_library
@every_optimizer
def test_stack_of_runs_is_the_single_runs(name: str, library: str):
    """K = 4 runs with their own hyperparameters, weights and gradients, as one."""
    to, runs = LIBRARIES[library], 4
    own: dict[str, list[Any]] = {
        "lr": [0.01, 0.003, 1e-4, 1e-6],
        "weight_decay": [0.0, 0.05, 0.01, 0.0],
        "betas": [[0.9, 0.999], [0.0, 0.5], [0.5, 0.0], [0.8, 0.9]],
        "eps": [1e-8, 1e-3, 1e-4, 1e-6],
        "momentum": [0.9, 0.5, 0.1, 0.99],
        "nesterov": [True] * runs,
    }
    kind = type(OPTIMIZERS[name])
    optimizers = [kind(**{each.name: own[each.name][run] for each in fields(kind)}) for run in range(runs)]
    starts = [random_arrays(seed) for seed in range(runs)]
    stacked = stack_states([State(params, optimizers[0].slots(params), np.array(0)) for params in starts]).map(to)
    constants = {key: to(np.array(values)) for key, values in stack_constants(optimizers).items()}
    for step in range(1, STEPS + 1):
        each = [random_arrays(1000 * seed + step) for seed in range(runs)]
        grads = {key: to(np.stack([arrays[key] for arrays in each])) for key in SHAPES}
        stacked = optimizers[0].update(stacked, grads, constants)
    stacked = stacked.map(get)
    assert (stacked.count.tolist(), stacked.count.dtype) == ([STEPS] * runs, np.int64)
    for run in range(runs):
        member = stacked.map(lambda array, run=run: array[run])
        # The very same operations on the same numbers, perhaps vectorised otherwise.
        assert deviation(member, updated(optimizers[run], library, seed=run)) <= 10 * STEPS * EPS


# Planted faults


class WithoutDecay(SGD):
    def constants(self):
        return super().constants() | {"weight_decay": 0.0}


class DecayAgainstTheGradient(SGD):
    def constants(self):
        return super().constants() | {"weight_decay": -self.weight_decay}


class NoLookAhead(Momentum):
    def rule(self, p, g, slots, c):
        g = g + c["weight_decay"] * p
        velocity = c["momentum"] * slots["momentum_buffer"] + g
        return p - c["lr"] * velocity, {"momentum_buffer": velocity}


class DampedMomentum(Momentum):
    def rule(self, p, g, slots, c):
        damped = (1 - c["momentum"]) * (g + c["weight_decay"] * p)
        return super().rule(p, damped, slots, {**c, "weight_decay": 0.0})


class CoupledDecay(AdamW):
    decay = Adam.decay


class DecoupledDecay(Adam):
    def decay(self, p, g, c):
        return p - c["lr"] * c["weight_decay"] * p, g


class DecayWithoutRate(AdamW):
    def decay(self, p, g, c):
        return p - c["weight_decay"] * p, g


class CountFromTwo(Adam):
    def scalars(self, count, constants):
        return super().scalars(count + 1, constants)


class WithoutBiasCorrection(Adam):
    def scalars(self, count, constants):
        return super().scalars(np.array(1e9), constants)


class EpsilonInsideTheRoot(Adam):
    def rule(self, p, g, slots, c):
        _, new = super().rule(p, g, slots, c)
        return p - c["corrected_lr"] * new["exp_avg"] / np.sqrt(new["exp_avg_sq"] * c["corrected_root"] ** 2 + c["eps"]), new


class SwappedBetas(Adam):
    def constants(self):
        return Adam(lr=self.lr, betas=self.betas[::-1], eps=self.eps).constants() | {"weight_decay": self.weight_decay}


class SecondMomentOfFirst(Adam):
    def rule(self, p, g, slots, c):
        p, new = super().rule(p, g, slots, c)
        v = c["beta2"] * slots["exp_avg_sq"] + c["one_minus_beta2"] * new["exp_avg"] ** 2
        return p, new | {"exp_avg_sq": v}


class LateUpdate(Momentum):
    """The velocity of the step before."""

    def rule(self, p, g, slots, c):
        _, new = super().rule(p, g, slots, c)
        return p - c["lr"] * slots["momentum_buffer"], new


FAULTS: dict[type[Optimizer], dict[str, Any]] = {
    WithoutDecay: {"weight_decay": 0.1},
    DecayAgainstTheGradient: {"weight_decay": 0.1},
    NoLookAhead: {"nesterov": True},
    DampedMomentum: {},
    LateUpdate: {},
    CoupledDecay: {"weight_decay": 0.1},
    DecoupledDecay: {"weight_decay": 0.1},
    DecayWithoutRate: {"weight_decay": 0.1},
    CountFromTwo: {},
    WithoutBiasCorrection: {},
    EpsilonInsideTheRoot: {},
    SwappedBetas: {},
    SecondMomentOfFirst: {},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_fault_is_seen(fault: type[Optimizer]):
    arguments = {"lr": 0.01} | FAULTS[fault]
    faulty, right = fault(**arguments), fault.__bases__[0](**arguments)
    twin = updated_by_torch(right)
    assert deviation(updated(right, "numpy"), twin) <= tolerance(right)
    assert deviation(updated(faulty, "numpy"), twin) > 100 * tolerance(right)
