"""The one loop: batches, blocks, evaluations, and where the curve of a run that blew up is cut."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import reference_tutorial
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exp
from exp.arrays import Array, Place
from exp.clock import Stopwatch, settled
from exp.composition import compose
from exp.configuration import instantiate
from exp.curve import Curve
from exp.feed import Feed
from exp.loop import train
from exp.losses import MeanSquaredError
from exp.methods import Formulas, Method
from exp.metrics import METRICS
from exp.problems import Data, Split
from exp.program import Program
from exp.state import State
from exp.training import LONGEST_BLOCK, Training

METHODS = [*cases.METHODS]
steady = settings(deadline=None, derandomize=True, database=None)


@st.composite
def trainings(draw: st.DrawFn) -> tuple[Training, int]:
    """A training and the rows of the split that it is for."""
    samples = draw(st.integers(1, 40))
    by_steps = draw(st.booleans())
    training = Training(
        steps=draw(st.integers(1, 350)) if by_steps else None,
        epochs=None if by_steps else draw(st.integers(1, 7)),
        batch_size=draw(st.none() | st.integers(1, samples)),
        evaluate_every=draw(st.none() | st.integers(1, 150)),
        log_every=draw(st.none() | st.integers(1, 150)),
        watch_finite=draw(st.sampled_from([False, False, True])),
        seed=draw(st.integers(0, 3)),
    )
    return training, samples


def batches_of(training: Training, samples: int) -> list[np.ndarray]:
    """The rows of every step, in order, from the blocks."""
    return [batch for block in training.blocks(samples) if block.rows is not None for batch in block.rows]


# Batches and blocks


@steady
@given(trainings())
def test_blocks_cover_the_run(case: tuple[Training, int]):
    training, samples = case
    total, blocks = training.total_steps(samples), list(training.blocks(samples))
    if training.steps is None:
        assert total == (training.epochs or 0) * ceil(samples / (training.batch_size or samples))
    else:
        assert total == training.steps
    ends = [block.first + block.steps for block in blocks]
    assert [block.first for block in blocks] == [0, *ends[:-1]]
    assert ends[-1] == total
    assert max(block.steps for block in blocks) <= (1 if training.watch_finite else LONGEST_BLOCK)
    every = [training.evaluate_every or ceil(total / 10), training.log_every or ceil(total / 5)]
    assert (every[0], every[1]) == (training.evaluation_cadence(samples), training.log_cadence(samples))
    assert {1, total, *(step for cadence in every for step in range(cadence, total + 1, cadence))} <= set(ends)


@steady
@given(trainings())
def test_every_epoch_is_a_permutation(case: tuple[Training, int]):
    training, samples = case
    size = training.batch_size
    if size is None:
        assert all(block.rows is None for block in training.blocks(samples))
        return
    per_epoch, batches = ceil(samples / size), batches_of(training, samples)
    assert len(batches) == training.total_steps(samples)
    for start in range(0, len(batches), per_epoch):
        epoch = batches[start : start + per_epoch]
        rows = np.concatenate(epoch).tolist()
        assert len(set(rows)) == len(rows) and set(rows) <= set(range(samples))
        assert [len(batch) for batch in epoch] == [min(size, samples - step * size) for step in range(len(epoch))]
        if len(epoch) == per_epoch:
            assert len(rows) == samples


@steady
@given(trainings())
def test_ragged_last_batch_is_a_block_of_its_own(case: tuple[Training, int]):
    training, samples = case
    size = training.batch_size or samples
    for block in training.blocks(samples):
        if block.rows is not None:
            assert block.rows.shape == (block.steps, size) or block.rows.shape == (1, samples % size)


@steady
@given(trainings(), st.integers(1, 40), st.integers(1, 9))
def test_order_of_batches_depends_on_the_seed_only(case: tuple[Training, int], steps: int, cadence: int):
    training, samples = case
    size = training.batch_size or samples
    other = Training(steps=steps, batch_size=size, evaluate_every=cadence, log_every=cadence, seed=training.seed)
    whole = Training(steps=40, batch_size=size, seed=training.seed)
    for one, same in zip(batches_of(other, samples), batches_of(whole, samples), strict=False):
        assert np.array_equal(one, same)


def test_another_seed_and_another_epoch_are_another_order():
    first, again, other = (np.concatenate(batches_of(Training(epochs=2, batch_size=7, seed=seed), 30)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:30], first[30:])


def test_cadences_and_the_first_step_close_blocks():
    training = Training(steps=250, evaluate_every=120, log_every=250)
    assert [(block.first, block.steps) for block in training.blocks(7)] == [
        (0, 1),
        (1, 100),
        (101, 19),
        (120, 100),
        (220, 20),
        (240, 10),
    ]
    ragged = Training(epochs=2, batch_size=3, evaluate_every=6, log_every=6)
    assert [block.rows.shape for block in ragged.blocks(7) if block.rows is not None] == [
        (1, 3), (1, 3), (1, 1), (2, 3), (1, 1)
    ]  # fmt: skip


# The loop


class Scripted(Method):
    """Losses as written; `weight` is exported after the last step."""

    library = "numpy"

    def __init__(self, losses: list[float], weight: float = 1.0):
        self.losses, self.weight, self.done = losses, weight, 0

    def start(self, formulas: Formulas, state: State, place: Place) -> None: ...

    def step(self, x: Array, y: Array) -> Array:
        self.done += 1
        return np.float64(self.losses[self.done - 1])

    def predict(self, x: Array) -> Array:
        return x[:, :1] * self.done

    def export(self) -> State:
        weight = np.array([self.weight if self.done == len(self.losses) else 1.0])
        return State({"layer1.weight": np.ones(2), "layer2.weight": weight}, {}, np.array(self.done))


def split(rows: int) -> Split:
    x = np.random.default_rng(rows).standard_normal((rows, 3))
    return Split(x, x[:, :1], x, x[:, :1])


def whole(method: Method, training: Training, valid: Split | None = None) -> Curve:
    """The curve at the end."""
    place, data = Place("numpy", "cpu", "float64"), Data(split(7), valid)
    *_, (curve,) = train(method, [method.export()], [training], [data], MeanSquaredError(), place)
    return curve


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [0, 1, 57, 99, 100, 101, 249])
def test_curve_is_cut_at_the_first_loss_that_is_not_finite(step: int, bad: float):
    losses = [float(250 - number) for number in range(250)]
    method = Scripted([*losses[:step], bad, *losses[step + 1 :]])
    curve = whole(method, Training(steps=250, evaluate_every=100, log_every=100), split(5))
    assert curve.blew_up_at_step == step
    assert curve.first_not_finite is None
    assert curve.train_loss == losses[:step]
    assert len(curve.train_time) == step
    assert method.done <= step + LONGEST_BLOCK
    assert curve.valid_step == [0, *(done for done in (100, 200) if done <= step)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_after_the_last_step_are_seen(bad: float):
    curve = whole(Scripted([3.0, 2.0, 1.0], weight=bad), Training(steps=3), split(5))
    assert (curve.blew_up_at_step, curve.first_not_finite) == (3, "layer2.weight")
    assert curve.train_loss == [3.0, 2.0, 1.0]
    assert 3 not in curve.valid_step


def test_watch_finite_looks_after_every_step():
    class Rotten(Scripted):
        def export(self) -> State:
            return State({"layer1.weight": np.array([np.nan if self.done >= 4 else 1.0])}, {}, np.array(self.done))

    curve = whole(Rotten([1.0] * 9), Training(steps=9, watch_finite=True))
    assert (curve.blew_up_at_step, curve.first_not_finite, len(curve.train_loss)) == (4, "layer1.weight", 4)


def test_curve_of_a_finite_run_is_whole():
    losses = [1.0 / (1 + number) for number in range(23)]
    curve = whole(Scripted(losses), Training(steps=23), split(5))
    assert curve.train_loss == losses
    assert (curve.blew_up_at_step, curve.first_not_finite) == (None, None)
    assert sum(curve.block_steps) == 23
    assert curve.valid_step == [*range(0, 23, 3), 23]
    assert curve.arrays().keys() == {f"{part}/{name}" for part in ("train", "valid") for name in ("loss", "time")} | {
        "valid/step",
        "valid/r2",
    }
    assert whole(Scripted(losses), Training(steps=23)).arrays().keys() == {"train/loss", "train/time"}


def test_growing_curve_is_yielded_after_every_block():
    training = Training(steps=120, evaluate_every=50, log_every=50)
    ends = [block.first + block.steps for block in training.blocks(7)]
    place = Place("numpy", "cpu", "float64")
    method = Scripted([1.0] * 120)
    growing = train(method, [method.export()], [training], [Data(split(7))], MeanSquaredError(), place)
    assert [len(curve.train_loss) for (curve,) in growing] == ends == [1, 50, 100, 120]


# Real runs that blow up


def trained(tmp_path: Path, *overrides: str) -> Any:
    return exp.run(*overrides, "tracker=none", "device=cpu", f"runs={tmp_path}")


@pytest.mark.parametrize("method", METHODS)
def test_tutorial_at_ten_times_its_rate_blows_up(method: str, tmp_path: Path):
    run = trained(tmp_path, f"method={method}", "optimizer.lr=1e-5", "precision=fp64", "training.steps=30")
    data, (w1, w2) = exp.data("problem=random").train, run.initial_weights.values()
    with np.errstate(all="ignore"):
        losses, *_ = reference_tutorial.numpy(data.x, data.y, w1, w2, 30, 1e-5)
    step = int(np.argmin(np.isfinite(losses)))
    assert (run.blew_up_at_step, len(run.losses)) == (step, step)
    # Every step multiplies the rounding of sums of 1,000 with the cube of its weights: 1e4 EPS is ample, 1e-9 still tells.
    np.testing.assert_allclose(run.losses, losses[:step], rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_last_update_that_overflows_blows_the_run_up(method: str, tmp_path: Path):
    """All losses are finite, the weights after the last update are not."""
    run = trained(tmp_path, f"method={method}", "optimizer.lr=1e307", "precision=fp64", "training.steps=1", "problem.inputs=7")
    assert (run.blew_up_at_step, len(run.losses)) == (1, 1)
    assert np.isfinite(run.losses).all()
    with pytest.raises(ValueError, match="blew up at step 1"):
        _ = run.weights


@pytest.mark.parametrize("method", METHODS)
def test_hidden_units_do_not_swallow_what_is_not_a_number(method: str, tmp_path: Path):
    """Products of weights near 1e30 overflow, and ∞ − ∞ in a hidden layer is NaN: the next loss must be, too."""
    overrides = ["experiment=digits", "optimizer=sgd", "optimizer.lr=1e30", "network.hidden=[16,8,4]", "training.epochs=1"]
    assert trained(tmp_path, f"method={method}", *overrides).blew_up_at_step == 1


# Evaluation


def independent_metrics(weights: dict[str, np.ndarray], data: Data, activation: Any) -> dict[str, float]:
    """Validation loss and metric of a network of these weights, by torch and scikit-learn."""
    assert data.valid is not None
    values = torch.tensor(data.valid.inputs)
    layers = sum(name.endswith("weight") for name in weights)
    for layer in range(1, layers + 1):
        weight, bias = (torch.tensor(weights[f"layer{layer}.{kind}"], dtype=torch.float64) for kind in ("weight", "bias"))
        values = values @ weight + bias
        values = activation(values) if layer < layers else values
    if data.classes is None:
        targets = torch.tensor(data.valid.targets)
        r2 = sklearn.metrics.r2_score(data.valid.targets, values.numpy())
        return {"loss": torch.nn.functional.mse_loss(values, targets).item(), "r2": float(r2)}
    labels = np.searchsorted(data.classes, data.valid.y)
    accuracy = sklearn.metrics.accuracy_score(labels, values.argmax(dim=1).numpy())
    return {"loss": torch.nn.functional.cross_entropy(values, torch.tensor(labels)).item(), "accuracy": float(accuracy)}


def evaluated(overrides: list[str]) -> Iterator[tuple[Curve, dict[str, np.ndarray], Data]]:
    """The curve, the weights and the data after every block."""
    experiment, _ = instantiate(*compose([*overrides, "precision=fp64", "tracker=none", "device=cpu"]))
    data = experiment.check()
    program = Program([experiment], [data])
    program.start(experiment.resolve_device())
    for (curve,) in program.train():
        yield curve, program.export()[0].params, data


@pytest.mark.parametrize(
    ("problem", "activation"), [("digits", torch.relu), ("diabetes", torch.tanh)], ids=["digits", "diabetes"]
)
@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_at_the_cadence_and_of_the_weights_of_that_step(method: str, problem: str, activation: Any):
    steps, cadence = 53, 20
    overrides = [f"experiment={problem}", f"method={method}", "training.epochs=null", f"training.steps={steps}"]
    overrides += ["network.hidden=[7,5]", f"training.evaluate_every={cadence}", "training.log_every=7"]
    seen = []
    for curve, weights, data in evaluated(overrides):
        assert curve.valid_step == [step for step in (0, 20, 40, 53) if step <= len(curve.train_loss)]
        assert curve.valid.keys() == {"loss", data.metric}
        if len(curve.train_loss) == curve.valid_step[-1]:
            seen.append(curve.valid_step[-1])
            for name, value in independent_metrics(weights, data, activation).items():
                # Sums of at most 64 products through three layers, and of 360 rows.
                assert curve.valid[name][-1] == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert seen == [20, 40, 53]


@pytest.mark.parametrize("outputs", [1, 4])
def test_metrics_are_those_of_scikit_learn(outputs: int):
    random = np.random.default_rng(outputs)
    target = random.standard_normal((7, outputs)) + 3
    prediction = target + random.standard_normal((7, outputs))
    # Two sums of 7 numbers.
    assert METRICS["r2"](prediction, target) == pytest.approx(sklearn.metrics.r2_score(target, prediction), rel=1e-14)
    logits, labels = random.standard_normal((9, 5)), random.integers(5, size=9)
    expected = sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1))
    assert METRICS["accuracy"](logits, np.eye(5)[labels]) == expected


# What is recorded of a run


def test_the_digest_is_of_every_batch_with_its_size():
    """However the steps are cut into blocks; 7 rows in batches of 3 have a ragged last one."""
    training, written = Training(epochs=2, batch_size=3), hashlib.sha256()
    for batch, _ in zip(training.batches(7), range(training.total_steps(7)), strict=False):
        assert batch is not None
        written.update(f"{len(batch)} ".encode() + batch.astype("<i8").tobytes())
    *_, (_, (digest,)) = Feed([training], [Data(split(7))], Place("numpy")).blocks()
    assert digest == written.hexdigest()


def test_the_digest_of_the_batches_is_of_their_order_alone(tmp_path: Path):
    """Cadences cut the run into other blocks; the batches stay the same."""
    digits = (
        "experiment=digits",
        "method=numpy",
        "training.epochs=1",
        "network.hidden=[7]",
        "tracker=none",
        f"runs={tmp_path}",
    )
    found = [
        exp.run(*digits, *more)._folder.status()["digests"]["rows"]
        for more in ((), ("training.log_every=7",), ("training.watch_finite=true",), ("training.seed=1",))
    ]
    assert found[0] == found[1] == found[2] != found[3]


def test_an_infinite_slot_is_no_blow_up(tmp_path: Path):
    """Ten layers of standard-normal weights: Adam's second moment overflows float32, loss and weights stay finite."""
    deep = ("optimizer=adam", f"network.hidden={[100] * 10}".replace(" ", ""), "training.steps=3")
    trained = exp.run("method=numpy", "tracker=none", f"runs={tmp_path}", *deep)
    assert trained.blew_up_at_step is None
    assert all(np.isfinite(weight).all() for weight in trained.weights.values())


def test_r2_of_a_constant_target_is_nan():
    assert np.isnan(METRICS["r2"](np.zeros((3, 1)), np.full((3, 1), 0.1)))


# A device that computes behind the host's back


class Ahead(Stopwatch):
    """A clock of a GPU, as far as the loop sees."""

    waits = False  # type: ignore[assignment]

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, first: float, last: float) -> float:
        return last - first


@pytest.mark.parametrize("bad", [None, 57, 120])
def test_a_block_that_is_begun_early_changes_no_curve(bad: int | None, monkeypatch: pytest.MonkeyPatch):
    """One more block may be computed in vain."""
    losses = [float(300 - number) if number != bad else np.nan for number in range(250)]
    training = Training(steps=250, evaluate_every=120, log_every=33)
    right = whole(Scripted(losses), training, split(5))
    monkeypatch.setattr("exp.loop.Stopwatch", Ahead)
    method = Scripted(losses)
    found = whole(method, training, split(5))
    for name in ("train_loss", "valid_step", "valid", "block_steps", "blew_up_at_step", "first_not_finite"):
        assert getattr(found, name) == getattr(right, name)
    assert len(found.block_seconds) == len(right.block_seconds) and method.done <= (bad or 250) + 2 * LONGEST_BLOCK


def test_the_first_step_is_read_before_the_second_is_begun(monkeypatch: pytest.MonkeyPatch):
    """Its state is what a run in a program is compared by."""
    monkeypatch.setattr("exp.loop.Stopwatch", Ahead)
    method, place = Scripted([1.0] * 50), Place("numpy", "cpu", "float64")
    growing = train(method, [method.export()], [Training(steps=50)], [Data(split(7))], MeanSquaredError(), place)
    next(growing)
    assert method.done == 1


def test_what_has_no_clock_of_its_own_is_waited_for():
    class Lazy:
        waited = False

        def block_until_ready(self) -> None:
            self.waited = True

    lazy = Lazy()
    assert settled(lazy) is lazy and lazy.waited
    assert settled(1) == 1


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 50),
    st.booleans(),
)
def test_blocks_close_where_they_should_and_nowhere_else(
    samples: int, steps: int, batch: int | None, evaluate: int | None, log: int | None, watch: bool
) -> None:
    """After the first step, at a cadence, before and after a ragged batch, at the longest, at the end."""
    size = min(batch, samples) if batch else None
    training = Training(steps=steps, batch_size=size, evaluate_every=evaluate, log_every=log, watch_finite=watch)
    spans = list(training.spans(samples))
    assert [step for span in spans for step in span] == list(range(steps))
    cadences = training.evaluation_cadence(samples), training.log_cadence(samples)
    epoch, ragged = -(-samples // (size or samples)), samples % (size or samples)

    def closes(done: int) -> bool:
        beside_ragged = ragged and epoch - 1 in (done % epoch, (done - 1) % epoch)
        return bool(done in (1, steps) or any(done % each == 0 for each in cadences) or beside_ragged or watch)

    for before, span in zip([range(0), *spans], spans, strict=False):
        assert before.stop == span.start
        assert closes(span.stop) or len(span) == LONGEST_BLOCK
        assert not any(closes(done) for done in span[1:])
    counts, lengths = Counter(map(len, spans)), training.lengths(samples)
    assert {*lengths} == counts.keys() - {1}
    assert [counts[length] for length in lengths] == sorted((counts[length] for length in lengths), reverse=True)
