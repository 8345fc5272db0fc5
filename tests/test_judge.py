"""The judge: what is within the tolerance, what comes first, and that a verdict is the right one."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import inf, isnan, nan
from typing import Any

import cases
import numpy as np
import pytest
import torch
from cases import METHODS, OPTIMIZERS, WIDTHS, case, judged
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.activations import ACTIVATIONS
from exp.arrays import get
from exp.composition import compose
from exp.configuration import instantiate
from exp.judgement import judged as judged_experiment
from exp.losses import SquaredError
from exp.methods.manual import NumPy
from exp.seeds import generator
from exp.state import State
from exp.verification.comparison import (
    BEATS,
    Comparison,
    Judged,
    compare,
    exactly,
    first_difference,
    same_bits,
    same_states,
)
from exp.verification.envelope import Envelope, near_kink
from exp.verification.judge import At
from exp.verification.probes import probes
from exp.verification.reference import exact
from exp.verification.single_step import judge_step
from exp.verification.subject import empty
from exp.verification.tolerance import DRAWS, FACTOR, Arithmetic, Uniform
from exp.verification.update import judge_update
from exp.verification.verdict import EXIT_CODES, Finding, Verdict, concluded

# One tensor

tensors = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32))


def tensor(rows: int, columns: int, seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A right tensor and what is allowed of it, over three powers of ten."""
    random = np.random.default_rng(seed)
    right = random.standard_normal((rows, columns))
    return random, right, 1e-6 * 10 ** random.uniform(-1.5, 1.5, right.shape)


def different(found: np.ndarray, right: np.ndarray, allowed: np.ndarray) -> bool:
    comparison = compare(found, torch.from_numpy(right), torch.from_numpy(allowed))
    return Judged("", None, "loss", "loss", comparison).wrong


@settings(deadline=None)
@given(tensors)
def test_an_error_of_the_size_of_the_envelope_is_none(sizes: tuple[int, int, int]) -> None:
    random, right, allowed = tensor(*sizes)
    signs = random.choice([-1.0, 1.0], right.shape)
    assert not different(right, right, allowed)
    assert not different(right + signs * allowed, right, allowed)
    assert not different(right + 0.99 * FACTOR * signs * allowed, right, allowed)


@settings(deadline=None)
@given(tensors)
def test_an_error_beyond_the_resolution_is_seen(sizes: tuple[int, int, int]) -> None:
    """Of the whole tensor, and of one element beyond what is allowed of it."""
    random, right, allowed = tensor(*sizes)
    resolution = compare(right, torch.from_numpy(right), torch.from_numpy(allowed)).resolution
    assert resolution == pytest.approx(FACTOR * np.linalg.norm(allowed) / np.linalg.norm(right))
    for size in (1.001, 3.0):
        assert different(right * (1 + size * resolution), right, allowed)
    one, index = right.copy(), tuple(random.integers(right.shape))
    one[index] += 1.001 * FACTOR * allowed[index]
    comparison = compare(one, torch.from_numpy(right), torch.from_numpy(allowed))
    assert comparison.ratio > 1
    assert comparison.index == index
    assert (comparison.found, comparison.expected) == (one[index], right[index])


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    right, found = torch.ones(2, 3, dtype=torch.float64), np.ones((2, 3))
    found[1, 2] = value
    comparison = compare(found, right, 1e-6 * right)
    assert comparison.score == comparison.ratio == inf
    assert comparison.index == (1, 2)
    assert comparison.expected == 1


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (1, 3), ()])
def test_another_shape_is_infinitely_far(shape: tuple[int, ...]) -> None:
    right = torch.ones(2, 3, dtype=torch.float64)
    comparison = compare(np.ones(shape), right, 1e-6 * right)
    assert comparison.score == inf
    assert isnan(comparison.found)


def test_an_empty_tensor_is_right() -> None:
    empty = torch.ones(0, 3, dtype=torch.float64)
    assert compare(np.ones((0, 3)), empty, empty).score == 0
    assert compare(np.ones((0, 2)), empty, empty).score == inf


def test_of_what_is_zero_nothing_relative_is_known() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    assert compare(np.zeros(2), zero, zero + 1e-9) == Comparison(0.0, (0,), 0.0, 0.0, inf)
    assert not different(np.full(2, 1e-9), np.zeros(2), np.full(2, 1e-9))
    assert different(np.array([0.0, 4e-9]), np.zeros(2), np.full(2, 1e-9))
    assert compare(np.array([0.0, 1e-300]), zero, zero).score == inf  # nothing is allowed


def test_what_has_no_tolerance_is_compared_exactly() -> None:
    assert exactly(3, 3).score == 0
    assert exactly(3, 4).score == inf
    assert same_bits(np.array([nan, 0.0]), np.array([nan, 0.0]))
    assert not same_bits(np.array(0.0), np.array(-0.0))
    assert not same_bits(np.zeros(2), np.zeros((2, 1)))
    assert not same_bits(np.zeros(2), np.zeros(2, dtype=np.float32))
    found = first_difference(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [3.5, 4.5]]))
    assert (found.index, found.found, found.expected) == ((1, 0), 3.5, 3.0)
    assert first_difference(np.array([0.0]), np.array([-0.0])).score == inf


def test_states_are_the_same_in_every_bit() -> None:
    state = cases.OPTIMIZERS["adam"]
    assert same_states(*(_state(state, 0.0) for _ in range(2)))
    assert not same_states(_state(state, 0.0), _state(state, -0.0))


def _state(optimizer: Any, value: float) -> Any:
    params = {"layer1.weight": np.ones((2, 2))}
    return cases.State(params, {slot: {"layer1.weight": np.full((2, 2), value)} for slot in optimizer.slot_names}, np.array(1))


# The envelope


def test_the_envelope_takes_in_every_way_of_computing() -> None:
    right = {"a": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)}
    found = Envelope(right, smallest=1e-9)
    found.widen({"a": right["a"] + torch.tensor([0.0, 3e-3, 0.0])})
    found.widen({"a": right["a"] - torch.tensor([4e-3, 1e-3, 0.0])})
    assert found.allowed("a", floor=False).tolist() == pytest.approx([4e-3, 3e-3, 1e-9], rel=1e-6)
    assert found.allowed("a").tolist() == pytest.approx([4e-3, 3e-3, np.sqrt(25e-6 / 3)], rel=1e-6)
    assert found.finite
    assert not replace(found, largest=2.5).finite


def test_a_row_is_near_a_kink_if_rounding_may_turn_its_sign() -> None:
    """But for a pre-activation that is 0 in every order of summation."""
    z = torch.tensor([[1.0, 1.0], [3.9e-3, 1.0], [-1.0, -3.9e-3], [4.1e-3, -4.1e-3], [0.0, 1.0]], dtype=torch.float64)
    spread = torch.full((5, 2), 1e-3, dtype=torch.float64)
    spread[4, 0] = 0.0
    found = Envelope({"pre/layer1": z}, {"pre/layer1": spread}, rows=5)
    assert near_kink(found).tolist() == [False, True, True, False, False]
    assert FACTOR + 1 == 4
    output = Envelope({"forward/layer1.output": z}, {"forward/layer1.output": spread}, rows=5)
    assert near_kink(output).tolist() == [False] * 5  # the output has no kink


@pytest.mark.parametrize(
    ("precision", "dtype", "roundoff"),
    [("fp64", "float64", 2.0**-53), ("fp32", "float32", 2.0**-24), ("bf16", "float32", 2.0**-8), ("tf32", "float32", 2.0**-11)],
)
def test_noise_has_the_size_of_the_roundings(precision: str, dtype: str, roundoff: float) -> None:
    arithmetic = Arithmetic(precision, dtype)
    noise, ones = Uniform(np.random.default_rng(0), arithmetic), torch.ones(100, 100, dtype=torch.float64)
    found = noise.operand(ones, 400) - 1
    delta = arithmetic.product(400)
    assert float(found.abs().max()) == pytest.approx(delta, rel=1e-2)
    assert abs(float(found.mean())) < delta / 30
    assert delta == pytest.approx(2 * roundoff if arithmetic.coarse else 20 * roundoff, rel=1e-2)
    assert arithmetic.coarse == (precision in ("bf16", "tf32"))
    assert arithmetic.storage == (2.0**-53 if dtype == "float64" else 2.0**-24)


# What comes first


def entry(beat: str, step: int | None = None, *, score: float = inf, decides: bool = True) -> Judged:
    return Judged("probe", step, beat, "tensor", Comparison(score, (), 1.0, 2.0, 1e-6), decides)


def test_what_is_wrong_first_in_a_step_comes_first() -> None:
    assert BEATS == ("state", "inputs", "forward", "loss", "backward", "update", "batches")
    in_order = [entry(beat, step) for step in (None, 0, 1, 12) for beat in BEATS]
    assert all(one.order < other.order for one, other in pairwise(in_order))
    assert sorted([*in_order[7:], *in_order[:7]], key=lambda each: each.order) == in_order


def test_only_what_decides_and_is_beyond_the_tolerance_is_wrong() -> None:
    assert entry("loss", score=FACTOR * 1.001).wrong
    assert not entry("loss", score=FACTOR).wrong
    assert not entry("loss", decides=False).wrong


# A verdict as a file


def stored(verdict: Verdict) -> Verdict:
    return Verdict.from_json(json.loads(json.dumps(verdict.as_json(), allow_nan=False)))


def test_a_verdict_comes_back_from_its_file() -> None:
    finding = Finding("backward", "layer2.weight", 2, "signed 1", None, (1, 2), 0.5, 1.0, 123.4)
    numbers = {"backward/layer2.weight": 1e-6}
    kit = {"items": {"determinism": {"kept": True, "seen": "the same"}}, "smallest_example": None, "report": "kept"}
    full = Verdict("different", "", "", finding, numbers, {"loss/loss": 0.3}, ["a remark"], 17, {"steps": 3}, kit, 1.5, "")
    for verdict in (full, Verdict("equivalent", resolution=numbers), Verdict("undecided", "why", "what")):
        assert stored(verdict) == verdict
        assert stored(verdict).line == verdict.line


def test_every_verdict_has_its_exit_code() -> None:
    assert EXIT_CODES == {"equivalent": 0, "unsupported": 1, "different": 2, "undecided": 4}


def test_a_verdict_with_infinite_numbers_comes_back_from_its_file() -> None:
    """Another shape or a NaN is infinitely far, and no number of JSON."""
    finding = Finding("loss", "loss", None, "chain", 3, (), nan, -inf, inf)
    verdict = Verdict("different", first=finding, resolution={"loss/loss": inf}, largest={"loss/loss": inf})
    found = stored(verdict)
    assert found.first is not None
    assert isnan(found.first.found)
    assert (found.first.expected, found.first.ratio) == (-inf, inf)
    assert found.resolution == found.largest == {"loss/loss": inf}
    assert found.line == verdict.line
    assert "nan where -inf is right" in found.line


# Every shipped method


EACH = [(method, precision) for method in METHODS for precision in ("fp32", "fp64", "bf16")]
SUPPORTED = [pair for pair in EACH if cases.supported(METHODS[pair[0]], pair[1])]
WITH_OPTIMIZERS = [
    (*pair, optimizer)
    for number, pair in enumerate(SUPPORTED)
    for turn, optimizer in enumerate(OPTIMIZERS)
    if pair[1] == "fp32" or (number + turn) % 4 == 0
]


@pytest.mark.parametrize(("method", "precision", "optimizer"), WITH_OPTIMIZERS)
def test_every_shipped_method_is_equivalent(method: str, precision: str, optimizer: str) -> None:
    """With every optimizer, in fp64 and bf16 with every fourth; losses, activations, biases and batches take turns too."""
    turn = [*OPTIMIZERS].index(optimizer) + [*METHODS].index(method) + SUPPORTED.index((method, precision))
    loss, activation = [*cases.LOSSES][turn % len(cases.LOSSES)], [*ACTIVATIONS][turn % len(ACTIVATIONS)]
    batch_size = cases.BATCH if turn % 2 else None
    asked = case(
        METHODS[method],
        precision,
        loss=loss,
        optimizer=optimizer,
        activation=activation,
        bias=turn % 5 > 0,
        batch_size=batch_size,
        widths=(6, 5, 4, 3) if turn % 3 else (5, 7, 3),
    )
    found, judge = judged(asked)
    assert found.verdict == "equivalent", found.line
    assert max(found.resolution.values()) < {"fp32": 1e-4, "fp64": 1e-12, "bf16": 0.3}[precision]
    assert max(found.largest.values()) < 1
    assert {each.beat for each in judge.judged} >= {"forward", "loss", "backward", "update"}
    assert found.comparisons == len(judge.judged) > 50


def test_methods_of_conf_are_all_judged() -> None:
    assert {method for method, _ in SUPPORTED} == {*METHODS}
    assert {precision for _, precision in SUPPORTED} == {"fp32", "fp64", "bf16"}
    assert {(method, optimizer) for method, _, optimizer in WITH_OPTIMIZERS} == {*product(METHODS, OPTIMIZERS)}
    assert {(method, precision) for method, precision, _ in WITH_OPTIMIZERS} == {*SUPPORTED}
    in_precisions = {(precision, optimizer) for _, precision, optimizer in WITH_OPTIMIZERS}
    assert in_precisions == {*product(("fp32", "fp64", "bf16"), OPTIMIZERS)}


def scaled(name: str, factor: float) -> cases.Altered:
    return cases.Altered(altered=lambda grads: {key: grad * factor if key == name else grad for key, grad in grads.items()})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("method", "beat", "wrong"),
    [
        (scaled("layer2.weight", 1 + 3e-5), "backward", "layer2.weight"),
        (scaled("layer1.bias", 1.1), "backward", "layer1.bias"),
        (cases.HalfLoss(), "loss", "loss"),
        (cases.DoubleRate(), "update", "layer3.weight"),
        (cases.ForgottenCount(), "update", "count"),
        (cases.OtherActivation(), "forward", "layer1.output"),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if not isinstance(value, str) else value,
)
def test_a_fault_is_named_by_its_beat_and_tensor(method: Any, beat: str, wrong: str, optimizer: str) -> None:
    found, _ = judged(case(method, optimizer=optimizer))
    assert found.verdict == "different"
    assert found.first is not None
    assert found.first.beat == beat, found.line
    if beat != "update":
        assert found.first.tensor == wrong


# Undecided


def test_numbers_that_overflow_are_not_decided() -> None:
    asked = case(METHODS["numpy"])
    judge = asked.judge(np.random.default_rng(0))
    probe = next(probes(asked.shape, judge.generator, overflowing=2.0))
    huge = replace(probe, params={name: 1e19 * value for name, value in probe.params.items()})
    with np.errstate(all="ignore"):
        judge_step(judge, huge)
    found = concluded(asked, judge)
    assert judge.remarks == ["signed 1: could not be decided (numbers overflow)"]
    assert found.verdict == "undecided"
    assert "backward/layer2.weight" in found.reason
    assert "precision=fp64" in found.would_decide
    assert "could not be judged at any probe; would decide it:" in found.line


def test_what_is_known_to_a_third_only_is_not_decided() -> None:
    asked = case(METHODS["numpy"])
    found, judge = judged(asked)
    assert found.bluntest == max(found.resolution.items(), key=lambda item: item[1])
    for number, each in enumerate(judge.judged):
        if each.tensor == "layer2.weight" and each.beat == "backward":
            judge.judged[number] = replace(each, comparison=replace(each.comparison, resolution=0.31))
    found = concluded(asked, judge)
    assert found.line.startswith("undecided: backward/layer2.weight is known to 31% only; would decide it: precision=fp64")


def experiment(*words: str) -> Any:
    words = ("problem=diabetes", "loss=mean_squared_error", "network.hidden=[5]", "training.steps=3", *words)
    return instantiate(*compose(list(words)))[0]


def test_a_method_that_raises_is_not_decided() -> None:
    asked = experiment("method=tensor")
    asked.method = cases.Raising()
    found = judged_experiment(asked, asked.check(), "cpu")
    assert (found.verdict, found.first) == ("undecided", None)
    assert "the method raised ZeroDivisionError: nothing to divide by (cases.py line" in found.reason
    assert "ZeroDivisionError" in found.traceback


class RaisingLater(cases.HalfLoss):
    """Wrong first, then it does not run."""

    steps_done = 0

    def transition(self, state: Any, x: Any, y: Any) -> Any:
        if len(x) == 1:
            raise ZeroDivisionError
        return super().transition(state, x, y)


def test_a_method_that_was_wrong_before_it_raised_is_different() -> None:
    asked = experiment("method=numpy")
    asked.method = RaisingLater()
    found = judged_experiment(asked, asked.check(), "cpu")
    assert found.verdict == "different"
    assert found.first is not None
    assert found.first.beat == "loss"
    assert "ZeroDivisionError" in found.traceback


class Hinge(SquaredError):
    torch_name = "nothing_of_torch"


def test_a_loss_that_torch_has_not_is_not_decided() -> None:
    asked = experiment("method=numpy")
    asked.loss = Hinge()
    found = judged_experiment(asked, asked.check(), "cpu")
    assert found.verdict == "undecided"
    assert "the reference has no Hinge" in found.reason
    assert "a loss, an activation or an optimizer that torch has too" in found.line


@dataclass(kw_only=True)
class SmallBatchesOnly(NumPy):
    """Half the gradient where a batch has more than 20 rows."""

    rows = 0

    def transition(self, state: Any, x: Any, y: Any) -> Any:
        self.rows = len(x)
        return super().transition(state, x, y)

    def update(self, state: Any, grads: Any) -> Any:
        return super().update(state, {name: grad / 2 for name, grad in grads.items()} if self.rows > 20 else grads)


@dataclass(kw_only=True)
class FirstStepsOnly(NumPy):
    """Nothing is trained from the eleventh step on."""

    done = 0

    def transition(self, state: Any, x: Any, y: Any) -> Any:
        loss, after = super().transition(state, x, y)
        self.done += 1
        return loss, after if self.done <= 10 else after._replace(params=state.params)


@dataclass(kw_only=True)
class ShortBlocksOnly(NumPy):
    """Long blocks end in other weights."""

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        losses = super().steps(x, y, block, place)
        if block.steps > 20:
            self.state = self.state.map(lambda value: value * 2 if value.dtype.kind == "f" else value)
        return losses


@dataclass(kw_only=True)
class NoDecay(NumPy):
    """Weight decay is forgotten."""

    def start(self, formulas: Any, state: Any, place: Any) -> None:
        super().start(formulas, state, place)
        self.constants = {name: 0.0 if name.endswith("decay") else value for name, value in self.constants.items()}


@pytest.mark.parametrize(
    ("method", "beat", "batch_size", "optimizer"),
    [
        (SmallBatchesOnly(), "backward", None, "sgd"),
        (FirstStepsOnly(), "update", 5, "sgd"),
        (FirstStepsOnly(), "update", None, "adam"),
        (ShortBlocksOnly(), "batches", None, "momentum"),
        (ShortBlocksOnly(), "batches", 5, "sgd"),
        (NoDecay(), "update", None, "sgd"),
        (NoDecay(), "update", 5, "momentum"),
        (NoDecay(), "update", 5, "adamw"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NumPy) else str(value),
)
def test_what_shows_only_in_size_is_seen(method: Any, beat: str, batch_size: int | None, optimizer: str) -> None:
    """By large batches, late steps, long blocks; and a weight decay of 10⁻⁶, far below what an update resolves."""
    asked = replace(case(method, optimizer=optimizer, batch_size=batch_size), samples=64)
    little = replace(asked.subject.optimizer, weight_decay=1e-6)
    found, _ = judged(replace(asked, subject=replace(asked.subject, optimizer=little)))
    assert found.verdict == "different"
    assert found.first is not None
    assert found.first.beat == beat, found.line


@dataclass(kw_only=True)
class SizeOfTheFirstBatch(NumPy):
    """Every batch is weighted as if it were of the first one's size."""

    def transition(self, state: Any, x: Any, y: Any) -> Any:
        self.first = getattr(self, "first", len(x))
        return super().transition(state, x[:1], y[:1]) if len(x) < self.first else super().transition(state, x, y)


@dataclass(kw_only=True)
class StaleRows(NumPy):
    """Chunks of `chunk` steps, whose rows are those of the first chunk: of a block, or (`kept`) of all that were ever done."""

    chunk: int
    kept: bool

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        if block.rows is None or block.steps < self.chunk:
            return super().steps(x, y, block, place)
        self.buffer = getattr(self, "buffer", block.rows[: self.chunk]) if self.kept else block.rows[: self.chunk]
        repeated = np.concatenate([self.buffer] * -(-block.steps // self.chunk))[: block.steps]
        return super().steps(x, y, replace(block, rows=repeated), place)


@pytest.mark.parametrize("ragged", [3, 20, 23])
def test_a_ragged_batch_is_smaller_than_others_in_a_chain_too(ragged: int) -> None:
    asked = replace(case(SizeOfTheFirstBatch(), loss="mean_squared_error", batch_size=24), samples=48 + ragged)
    found, _ = judged(asked)
    assert found.verdict == "different" and found.first is not None and found.first.probe == "chain", found.line
    assert judged(replace(asked, subject=replace(asked.subject, method=NumPy())))[0].verdict == "equivalent"


@pytest.mark.parametrize(
    ("chunk", "kept", "probe"), [(10, False, "blocks of 100"), (2, False, "blocks of 100"), (2, True, "block")]
)
def test_a_buffer_of_rows_that_is_not_filled_again_is_seen(chunk: int, kept: bool, probe: str) -> None:
    found, _ = judged(replace(case(StaleRows(chunk=chunk, kept=kept)), samples=64))
    assert found.verdict == "different" and found.first is not None, found.line
    assert (found.first.beat, found.first.probe) == ("batches", probe), found.line


@dataclass(kw_only=True)
class Unrolled(NumPy):
    """Two steps a turn: the last step of an odd block is left out, and its loss is that of the step before."""

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        if block.steps % 2 == 0 or block.steps == 1:
            return super().steps(x, y, block, place)
        losses = super().steps(x, y, replace(block, steps=block.steps - 1, rows=block.rows[:-1]), place)
        return np.append(losses, losses[-1])


@dataclass(kw_only=True)
class OncePerLength(NumPy):
    """Blocks of ten steps and more are done once for each length."""

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        self.known = getattr(self, "known", {})
        if block.steps < 10 or block.steps not in self.known:
            self.known[block.steps] = super().steps(x, y, block, place)
        return self.known[block.steps]


@dataclass(kw_only=True)
class WeakInSome(NumPy):
    """In blocks of 3 to 99 steps every gradient is a tenth."""

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        self.weak = 2 < block.steps < 100
        return super().steps(x, y, block, place)

    def update(self, state: Any, grads: Any) -> Any:
        tenth = {name: grad * np.float32(0.1) for name, grad in grads.items()}
        return super().update(state, tenth if getattr(self, "weak", False) else grads)


@pytest.mark.parametrize("method", [Unrolled(), OncePerLength(), WeakInSome()], ids=lambda method: type(method).__name__)
def test_blocks_as_long_as_those_of_the_training_are_judged_two_of_each(method: Any) -> None:
    asked = replace(case(method, optimizer="adam"), lengths=[50, 49])
    found, _ = judged(asked)
    assert found.verdict == "different" and found.first is not None, found.line
    assert found.first.probe in ("blocks of 50", "blocks of 49", "blocks of 100")
    right = replace(asked, subject=replace(asked.subject, method=NumPy()))
    assert judged(right)[0].verdict == "equivalent"


@dataclass(kw_only=True)
class FewPredictions(NumPy):
    """Predictions lie in a buffer of 64 rows."""

    def predict(self, x: Any) -> Any:
        return np.resize(super().predict(x[:64]), (len(x), WIDTHS[-1]))


def test_predictions_of_as_many_rows_as_there_are_are_judged() -> None:
    """An evaluation asks for them."""
    size = ["problem.samples=90", f"problem.inputs={WIDTHS[0]}", f"problem.outputs={WIDTHS[-1]}", "training.batch_size=7"]
    experiment, _ = instantiate(*compose(["method=numpy", "training.steps=5", *size]))
    data = experiment.check()
    assert judged_experiment(experiment, data, "cpu").verdict == "equivalent"
    experiment.method = FewPredictions()
    found = judged_experiment(experiment, data, "cpu")
    assert found.verdict == "different" and found.first is not None
    assert (found.first.beat, found.first.probe) == ("forward", "all rows"), found.line


@pytest.mark.parametrize("size", [1e17, 4e18, 2e19, 1e21])
def test_a_square_that_may_overflow_on_the_way_decides_nothing(size: float) -> None:
    """(1 − β₂) g² may be in range where g² is not: how a method multiplies the three is its own affair."""
    asked = case(NumPy(), optimizer="adam")
    judge = asked.judge(generator(0, "verification"))
    before = State({"layer1.weight": np.ones((2, 3), np.float32)}, {}, np.array(0, np.int64))
    before = before._replace(slots=empty(asked.subject.optimizer, before.params))
    grads = [{"layer1.weight": exact(np.full((2, 3), size))}] * (1 + DRAWS)
    with np.errstate(over="ignore"):
        squares = np.full((2, 3), size, np.float32) ** 2 * np.float32(0.001)
    slots = {"exp_avg": {"layer1.weight": np.full((2, 3), 0.1 * size, np.float32)}, "exp_avg_sq": {"layer1.weight": squares}}
    after = State({"layer1.weight": np.full((2, 3), 1 - 1e-3, np.float32)}, slots, np.array(1, np.int64))
    judge_update(judge, At("probe"), replace(asked.subject.optimizer, weight_decay=0.0), before, after, grads)
    assert not judge.wrong, judge.wrong[0]
    assert any(entry.tensor.startswith("exp_avg_sq") for entry in judge.judged) is (size < 1e19)


def test_right_long_blocks_in_other_bits_are_right() -> None:
    """A block that is rounded in another way than single steps, as a compiled loop is."""
    found, judge = judged(case(OtherBitsInBlocks()))
    assert found.verdict == "equivalent", found.line
    assert any(
        entry.probe == "blocks of 100" and entry.beat == "batches" and entry.comparison.score > 0 for entry in judge.judged
    )


@dataclass(kw_only=True)
class OtherBitsInBlocks(NumPy):
    """Blocks of several steps sum the rows of a batch from the last to the first."""

    def steps(self, x: Any, y: Any, block: Any, place: Any) -> Any:
        if block.steps == 1 or block.rows is None:
            return super().steps(x, y, block, place)
        return super().steps(x, y, replace(block, rows=block.rows[:, ::-1]), place)


@dataclass(kw_only=True)
class LossInAList(NumPy):
    def transition(self, state: Any, x: Any, y: Any) -> Any:
        loss, after = super().transition(state, x, y)
        return loss[None], after


@dataclass(kw_only=True)
class NoSlots(NumPy):
    def export(self) -> Any:
        return super().export()._replace(slots={})


@dataclass(kw_only=True)
class Doubled(NumPy):
    def export(self) -> Any:
        return super().export().map(lambda value: value.astype("float64") if value.dtype.kind == "f" else value)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (LossInAList(), "loss, loss at probe signed 1: has shape (1, 1), not ()"),
        (NoSlots(), "state, exp_avg/layer1.bias at probe signed 1: is missing"),
        (Doubled(), "state, layer1.weight at probe signed 1: is float64 of shape"),
    ],
)
def test_what_differs_in_kind_is_said(method: Any, said: str) -> None:
    asked = experiment("method=numpy", "optimizer=adam", "network=mlp", "network.hidden=[5]")
    asked.method = method
    found = judged_experiment(asked, asked.check(), "cpu")
    assert found.line.startswith("different: ")
    assert said in found.line


class Leaving(cases.Raising):
    def transition(self, state: Any, x: Any, y: Any) -> Any:
        raise SystemExit(0)


def test_a_method_that_leaves_python_is_not_decided() -> None:
    asked = experiment("method=numpy")
    asked.method = Leaving()
    found = judged_experiment(asked, asked.check(), "cpu")
    assert found.verdict == "undecided"
    assert "SystemExit" in found.reason


def test_a_prediction_in_bfloat16_can_be_read() -> None:
    assert get(torch.tensor([1.5, 2.0], dtype=torch.bfloat16)).tolist() == [1.5, 2.0]
