"""Programs: every run in one is the run that it is alone, to rounding, whatever becomes of the others."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from typing import Any

import cases
import numpy as np
import pytest
from cases import LOSSES, METHODS, PRECISIONS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from exp.activations import ACTIVATIONS
from exp.agreement import EARLY, FLIPPED, TYPICAL, Seen, agreement
from exp.arrays import Array, Place
from exp.conditions import controlled
from exp.curve import Curve
from exp.devices import Cpu
from exp.experiment import Experiment
from exp.feed import Feed
from exp.methods import Method
from exp.methods.autograd import Autograd
from exp.methods.base import Formulas
from exp.methods.manual import NumPy, Tensor
from exp.network import Network
from exp.optimizers import Adam, AdamW, Momentum, Optimizer
from exp.problems import Data, Problem, Split
from exp.program import Disagreement, Program
from exp.state import State, stack_states, unstack_state
from exp.training import Training
from exp.verification.tolerance import Arithmetic

SAMPLES, VALID, INPUTS, OUTPUTS = 11, 6, 7, 3
STACKING = [name for name, method in METHODS.items() if method.stacks]
PER_STEP = 1e-12
"""The issue's bound on what a step may add in float64, relative to the largest entry of what is compared."""


def problem(seed: int, *, classes: bool) -> Data:
    random = np.random.default_rng(seed)

    def split(rows: int) -> Split:
        x = random.standard_normal((rows, INPUTS))
        y = np.eye(OUTPUTS)[random.integers(OUTPUTS, size=rows)] if classes else random.standard_normal((rows, OUTPUTS))
        return Split(x, y, x, y)

    return Data(split(SAMPLES), split(VALID), np.arange(OUTPUTS) if classes else None)


def run(method: Method, network: Network, loss: str, optimizer: Optimizer, training: Training, precision: str) -> Experiment:
    """An experiment without what a program does not ask for."""
    parts: dict[str, Any] = {"problem": Problem, "tracker": None, "choices": {}, "config": {}}
    where: dict[str, Any] = {"device": Cpu(), "precision": PRECISIONS[precision], "threads": 1, "name": "run", "runs": "runs"}
    what: dict[str, Any] = {"method": method, "network": network, "loss": LOSSES[loss], "optimizer": optimizer}
    return Experiment(**parts, **where, **what, training=training, seed=0)


def trained(experiments: Sequence[Experiment], data: Sequence[Data]) -> tuple[list[Curve], list[State]]:
    """The curves of a program and the states after it, by methods of its own."""
    program, first = Program(experiments, data), experiments[0]
    with controlled(1, first.method.library, first.precision, "cpu"):
        program.start(Cpu())
        *_, curves = program.train()
        return curves, program.export()


def require_same(found: tuple[Curve, State], right: tuple[Curve, State], tolerance: float) -> None:
    """The same curve and the same state, to a tolerance that grows with the step."""
    (curve, state), (alone, expected) = found, right
    assert (curve.blew_up_at_step, curve.first_not_finite) == (alone.blew_up_at_step, alone.first_not_finite)
    assert (curve.rows_digest, curve.block_steps, curve.valid_step) == (alone.rows_digest, alone.block_steps, alone.valid_step)
    assert len(curve.train_loss) == len(alone.train_loss)
    steps = 1 + len(alone.train_loss)
    pairs = [(np.array(curve.train_loss), np.array(alone.train_loss))]
    pairs += [(np.array(curve.valid[name]), np.array(alone.valid[name])) for name in alone.valid]
    assert state.named().keys() == expected.named().keys()
    if alone.blew_up_at_step is None:
        pairs += [(array, expected.named()[name]) for name, array in state.named().items()]
    for name, (one, other) in enumerate(pairs):
        assert one.shape == other.shape and one.dtype == other.dtype
        scale = np.abs(other).max(initial=1e-300)
        assert (off := np.abs(one - other).max(initial=0.0) / scale) <= steps * tolerance, f"{name} {off}"


OPTIMIZERS = {**cases.OPTIMIZERS, "nesterov": replace(cases.OPTIMIZERS["momentum"], nesterov=True)}  # type: ignore[call-arg]


def changed(optimizer: Optimizer, draw: Any) -> Optimizer:
    """The same rule with numbers of its own."""
    rate, decay = draw(st.sampled_from([1e-3, 5e-3, 2e-2])), draw(st.sampled_from([0.0, 0.0, 0.02]))
    own: dict[str, Any] = {"lr": rate, "weight_decay": decay}
    if isinstance(optimizer, Momentum):
        own["momentum"] = draw(st.sampled_from([0.5, 0.9]))
    if isinstance(optimizer, Adam):
        own |= {
            "betas": draw(st.sampled_from([[0.9, 0.999], [0.0, 0.9]])),
            "eps": draw(st.sampled_from([1e-8, 1e-3])),
        }
    return replace(optimizer, **own)


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Experiment], list[Data], int | None]:
    """Runs that differ in every number they may differ in; the number of one whose weights are not numbers, or None."""
    method, loss = draw(st.sampled_from(STACKING)), draw(st.sampled_from(sorted(LOSSES)))
    optimizer = OPTIMIZERS[draw(st.sampled_from(sorted(OPTIMIZERS)))]
    activation, bias = draw(st.sampled_from(sorted(ACTIVATIONS))), draw(st.booleans())
    depth, count = draw(st.integers(0, 3)), draw(st.integers(2, 4))
    batch = draw(st.sampled_from([None, 4, 11]))
    training = Training(steps=draw(st.sampled_from([1, 7, 13])), batch_size=batch, evaluate_every=5, log_every=6)
    shared_seed, shared_data = draw(st.booleans()), draw(st.booleans())
    everyone = problem(0, classes=LOSSES[loss].needs_classes)
    experiments, data = [], []
    for number in range(count):
        hidden = [draw(st.integers(1, 6)) for _ in range(depth)]
        initial = draw(st.sampled_from(["standard_normal", "he", "glorot"]))
        network = Network(hidden=hidden, activation=activation, bias=bias, initial=initial, seed=number)
        own = replace(training, seed=0 if shared_seed else number)
        experiments.append(run(METHODS[method], network, loss, changed(optimizer, draw), own, "fp64"))
        data.append(everyone if shared_data else problem(number, classes=LOSSES[loss].needs_classes))
    return experiments, data, draw(st.sampled_from([None, None, *range(count)]))


@settings(max_examples=80, deadline=None, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)
@given(programs())
def test_a_run_in_a_program_is_what_it_is_alone(drawn: tuple[list[Experiment], list[Data], int | None]) -> None:
    experiments, data, broken = drawn
    if broken is not None:  # its data are its own
        bad = data[broken].train.inputs.copy()
        bad[3, 2] = np.nan
        data = [
            replace(each) if number != broken else replace(each, train=replace(each.train, inputs=bad))
            for number, each in enumerate(data)
        ]
    curves, states = trained(experiments, data)
    for number, (experiment, each) in enumerate(zip(experiments, data, strict=True)):
        (alone,), (state,) = trained([experiment], [each])
        require_same((curves[number], states[number]), (alone, state), PER_STEP)
        assert (alone.blew_up_at_step is not None) or number != broken or experiment.training.batch_size == 4


@pytest.mark.parametrize("name", STACKING)
def test_in_float32_too(name: str) -> None:
    network = Network(hidden=[5], activation="tanh", bias=True, initial="glorot")
    training = Training(epochs=2, batch_size=4)
    experiments = [
        run(
            METHODS[name],
            replace(network, seed=seed, hidden=[5 - seed]),
            "mean_squared_error",
            AdamW(lr=rate),
            replace(training, seed=seed),
            "fp32",
        )
        for seed, rate in enumerate([1e-3, 1e-2, 3e-2])
    ]
    data = [problem(seed, classes=False) for seed in range(3)]
    curves, states = trained(experiments, data)
    for number, experiment in enumerate(experiments):
        (alone,), (state,) = trained([experiment], [data[number]])
        # 30 roundings a step at most on its way to any entry of these small sums
        require_same((curves[number], states[number]), (alone, state), 30 * 2.0**-24)


def test_every_run_has_its_own_batches_however_many_have_the_same() -> None:
    """Seeds of batches and data sets, each once and each twice; what is sent to the device has every batch once."""
    seeds, sets = [0, 1, 0, 1, 0], [0, 0, 1, 1, 0]
    data = [problem(seed, classes=False) for seed in range(2)]
    trainings = [Training(steps=6, batch_size=4, seed=seed) for seed in seeds]
    place = Place("numpy", dtype="float64")
    feed = Feed(trainings, [data[which] for which in sets], place)
    together: list[Any] = [block.placed(place) for block, _ in feed.blocks()]
    for run, (training, which) in enumerate(zip(trainings, sets, strict=True)):
        for rows, block in zip(together, training.blocks(SAMPLES), strict=True):
            np.testing.assert_array_equal(feed.x[rows[:, run]], data[which].train.x[block.rows])
    assert {len(block.rows) for block, _ in feed.blocks() if block.rows is not None} == {4}


def test_padding_stays_zero_and_is_not_kept() -> None:
    experiments = [
        run(
            NumPy(),
            Network(hidden=[width, 4], bias=True, activation="gelu", seed=width),
            "squared_error",
            Adam(lr=0.1, weight_decay=0.1),
            Training(steps=9),
            "fp64",
        )
        for width in (3, 6)
    ]
    program = Program(experiments, [problem(0, classes=False)] * 2)
    program.start(Cpu())
    *_, _ = program.train()
    stacked = program.method.export()
    assert stacked.params["layer1.weight"].shape == (2, INPUTS, 6)
    for name, array in stacked.named().items():
        if "layer1" in name:
            assert not array[0][..., 3:].any() and array[1][..., 3:].all()
    assert not stacked.params["layer2.weight"][0, 3:].any()
    assert [state.params["layer1.weight"].shape for state in program.export()] == [(INPUTS, 3), (INPUTS, 6)]


def test_states_of_different_shapes_are_stacked_and_taken_apart_again() -> None:
    states = [
        State({"w": np.full((2, width), float(width))}, {"m": {"w": np.full((2, width), -1.0)}}, np.array(width))
        for width in (3, 1, 4)
    ]
    stacked = stack_states(states)
    assert stacked.params["w"].shape == (3, 2, 4) and stacked.count.tolist() == [3, 1, 4]
    for before, after in zip(states, unstack_state(stacked, states), strict=True):
        assert before.named().keys() == after.named().keys()
        for name, array in before.named().items():
            np.testing.assert_array_equal(array, after.named()[name], strict=True)


@pytest.mark.parametrize(
    ("together", "alone", "agrees"),
    [
        (None, None, True),
        (3, None, False),
        (None, 3, False),
        (3, 3, True),
        (3, 4, True),
        (3, 6, False),
        (EARLY - 1, None, False),
        (EARLY - 1, EARLY, True),
        (EARLY, None, True),
        (None, EARLY + 4, True),
    ],
)
def test_a_run_that_blows_up_early_in_a_program_alone_or_outside_of_it_alone_is_not_believed(
    together: int | None, alone: int | None, agrees: bool
) -> None:
    """Where roundings have grown, one may blow up and the other not; of what overflows one may be a step ahead."""

    def seen(blew_up: int | None) -> Seen:
        losses = [1.0 + step for step in range(20 if blew_up is None else blew_up)]
        state = State({"w": np.ones(2)}, {}, np.array(0))
        curve = Curve(train_loss=losses, blew_up_at_step=blew_up)
        return Seen(state, State({"w": np.zeros(2)}, {}, np.array(1)), curve, np.ones((2, 1)))

    found = agreement(seen(together), seen(alone), Arithmetic("fp32", "float32"), terms=10)
    assert found.agrees is agrees, str(found)


@pytest.mark.parametrize(
    ("together", "alone", "agrees"),
    [
        ({"valid": nan}, {}, False),
        ({}, {"valid": nan}, False),
        ({"valid": nan}, {"valid": nan}, True),
        ({"valid": inf}, {"valid": inf}, True),
        ({"output": -5e20}, {"output": 1e20}, False),
        ({"output": 1e20}, {"output": 1e20}, True),
        ({"output": nan}, {}, False),
    ],
)
def test_what_is_not_finite_or_too_large_to_be_squared_is_compared_too(
    together: dict[str, float], alone: dict[str, float], agrees: bool
) -> None:
    def seen(valid: float = 1.0, output: float = 1.0) -> Seen:
        state = State({"w": np.ones(2)}, {}, np.array(0))
        curve = Curve(train_loss=[1.0, 1.0], valid={"loss": [valid]}, valid_step=[0])
        return Seen(state, State({"w": np.zeros(2)}, {}, np.array(1)), curve, np.full((2, 1), output, np.float32))

    found = agreement(seen(**together), seen(**alone), Arithmetic("fp32", "float32"), terms=10)
    assert found.agrees is agrees, str(found)


@pytest.mark.parametrize(("off", "chaos", "agrees"), [(0.0, 0.0, True), (0.3, 0.0, False), (0.3, 0.2, True), (0.3, inf, True)])
def test_early_losses_that_differ_by_themselves_decide_nothing(off: float, chaos: float, agrees: bool) -> None:
    def seen(loss: float) -> Seen:
        state = State({"w": np.ones(2)}, {}, np.array(0))
        return Seen(state, State({"w": np.zeros(2)}, {}, np.array(1)), Curve(train_loss=[1.0, loss]), np.ones((2, 1)))

    found = agreement(seen(1.0 + off), seen(1.0), Arithmetic("fp32", "float32"), 10, chaos=chaos)
    assert found.agrees is agrees, str(found)


@pytest.mark.parametrize("lr", [1e6, 1e15])
def test_absurd_rates_of_adam_are_no_fault_of_a_program(lr: float) -> None:
    """Where a gradient is rounding its sign decides, and the losses of such a run are far from its own after a nudge."""
    experiments = [
        run(NumPy(), Network(hidden=[4], seed=seed), "cross_entropy", Adam(lr=lr), Training(steps=14), "fp32")
        for seed in range(6)
    ]
    data = [problem(0, classes=True)] * 6
    with controlled(1, "numpy", PRECISIONS["fp32"], "cpu"):
        for compared in range(6):
            program = Program(experiments, data)
            program.compared = compared
            program.start(Cpu())
            *_, curves = program.train()
            found = program.compared_alone(curves[compared], program.export()[compared], Cpu())
            assert found.agrees, str(found)


# What a program that is wrong looks like


class RateOfTheFirst(NumPy):
    """Every run of a stack is updated at the rate of the first."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        kept = self.constants
        self.constants = {
            key: value if np.ndim(value) == 0 else np.full_like(value, np.asarray(value)[0]) for key, value in kept.items()
        }
        try:
            return super().update(state, grads)
        finally:
            self.constants = kept


class Leaking(Tensor):
    """The gradients of a stack are those of the mean of all runs."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        stacked = next(iter(grads.values())).ndim == 3
        mixed = {name: grad.mean(0, keepdim=True).expand_as(grad) for name, grad in grads.items()} if stacked else grads
        return super().update(state, mixed)


class OtherBatch(Autograd):
    """The runs of a stack are given each other's rows."""

    def step(self, x: Array, y: Array) -> Array:
        return super().step(x, y.flip(0)) if y.ndim == 3 else super().step(x, y)


class LaterBatches(NumPy):
    """From the third step on the runs of a stack are given targets in another order."""

    taken = 0

    def step(self, x: Array, y: Array) -> Array:
        self.taken += 1
        return super().step(x, y[:, ::-1] if self.taken > 2 and y.ndim == 3 else y)


class Swapped(NumPy):
    """The losses of a stack are given in another order."""

    def step(self, x: Array, y: Array) -> Array:
        return super().step(x, y)[::-1] if np.ndim(self.state.count) else super().step(x, y)


class LargerTogether(NumPy):
    """The gradients of a stack are three hundredths too large: less than a row that is flipped may change them."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        larger = {name: grad * grad.dtype.type(1.03) for name, grad in grads.items()}
        return super().update(state, larger if np.ndim(state.count) else grads)


class PredictsTheFirst(NumPy):
    """What is predicted of every run of a stack is the prediction of the first."""

    def predict(self, x: Array) -> Array:
        found = super().predict(x)
        return np.broadcast_to(found[:1], found.shape) if found.ndim == 3 else found


class ExportsInReverse(NumPy):
    """The weights of a stack are exported in another order, but after the first step."""

    def export(self) -> State:
        found = super().export()
        return found.map(lambda array: array[::-1].copy()) if np.ndim(found.count) and found.count[0] > 1 else found


class Forgetful(NumPy):
    """A stack has no momentum: nothing that shows in the first step."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        if state.count.ndim and "momentum" in self.constants:
            self.constants["momentum"] = 0.0


class LastLikeTheFirst(NumPy):
    """The last run of a stack gets the gradients of the first."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        stacked = np.ndim(state.count)
        return super().update(state, {name: np.concatenate([g[:-1], g[:1]]) for name, g in grads.items()} if stacked else grads)


WRONG_AT_ONCE = [RateOfTheFirst, Leaking, OtherBatch, Swapped, LargerTogether, Forgetful, LastLikeTheFirst, ExportsInReverse]
WRONG = [*WRONG_AT_ONCE, LaterBatches, PredictsTheFirst]


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("kind", [NumPy, Tensor, Autograd, *WRONG])
def test_a_program_that_is_wrong_disagrees_with_its_run_alone(kind: type[Method], precision: str) -> None:
    """Each of them in its second step, if that shows it; else the last run, trained alone."""
    right = kind in (NumPy, Tensor, Autograd)
    experiments = [
        run(
            kind(),
            Network(hidden=[5], seed=seed, initial="he"),
            "squared_error",
            Momentum(lr=1e-3),
            Training(steps=20, batch_size=4, seed=seed),
            precision,
        )
        for seed in range(2)
    ]
    experiments[1] = replace(experiments[1], optimizer=replace(experiments[1].optimizer, lr=2e-3))
    program = Program(experiments, [problem(seed, classes=False) for seed in range(2)])
    program.compared = 1
    with controlled(1, "torch", PRECISIONS[precision], "cpu"):
        program.start(Cpu())
        try:
            *_, curves = program.train()
            found = program.compared_alone(curves[1], program.export()[1], Cpu())
        except Disagreement as disagreement:
            assert kind in WRONG_AT_ONCE, str(disagreement)
            return
    assert found.agrees is right and kind not in WRONG_AT_ONCE, str(found)
    if right:
        assert found.steps == 20 and found.largest <= (1e-12 if precision == "fp64" else 1e-4)
    else:
        assert max(found.loss, found.update, found.early, found.outputs) > FLIPPED or found.typical > TYPICAL
