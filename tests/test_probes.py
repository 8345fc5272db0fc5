"""Probes: a pre-activation is never a small difference of large terms, every unit is on and off, zeros are exact zeros."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.losses import CrossEntropy, SquaredError
from exp.verification.envelope import PlainSteps, envelope, near_kink
from exp.verification.probes import Probe, Shape, probes, signed, slots
from exp.verification.reference import Evaluation, Reference, exact
from exp.verification.tolerance import DRAWS, Arithmetic, Uniform

BF16 = Arithmetic("bf16", "float32")


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    depth = draw(st.integers(1, 4))
    classes = draw(st.booleans())
    widths = [draw(st.integers(1, 30)) for _ in range(depth)] + [draw(st.integers(2 if classes else 1, 12))]
    return Shape(tuple(widths), draw(st.booleans()), draw(st.booleans()), classes, draw(st.integers(1, 20)))


seeds = st.integers(0, 2**32)
each_shape = given(shapes(), seeds)
quickly = settings(max_examples=60, deadline=None)


def drawn(shape: Shape, seed: int = 0, overflowing: float = 150.0) -> dict[str, Probe]:
    """All probes, by name."""
    random = np.random.default_rng(seed)
    found = [*probes(shape, random, overflowing=overflowing), signed(shape, random)]
    assert len({probe.name for probe in found}) == len(found)
    return {probe.name: probe for probe in found}


def layers(probe: Probe, shape: Shape) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every layer z, (rows, units), and the sum of the sizes of its terms."""
    found, a = [], probe.x
    for layer in range(1, len(shape.widths)):
        weight, bias = probe.params[f"layer{layer}.weight"], probe.params.get(f"layer{layer}.bias", np.zeros(1))
        z = a @ weight + bias
        found.append((z, np.abs(a) @ np.abs(weight) + np.abs(bias)))
        a = np.maximum(z, 0) if shape.relu else np.tanh(z)
    return found


SIGNED = ("signed 1", "signed 2", "one row", "saturated", "chain")
"""The probes that are kink-free by construction."""


@quickly
@each_shape
def test_no_hidden_pre_activation_is_a_difference(shape: Shape, seed: int) -> None:
    """A bias takes away half at most, so that |z| is a third of its terms: bfloat16 rounds them by a 256th."""
    found = drawn(shape, seed)
    for name in SIGNED:
        for z, terms in layers(found[name], shape)[:-1]:
            assert (np.abs(z) >= terms * (1 / 3 - 1e-12)).all(), name
            alive = terms > 0  # of a unit to which no unit that is on leads
            assert alive.any()
            assert alive.all() or shape.relu


def test_of_random_weights_some_is() -> None:
    """What the property above would say of other probes."""
    shape = Shape((7, 9, 8, 3), True, True, False, 20)
    assert any((np.abs(z) < terms / 10).any() for z, terms in layers(drawn(shape)["random 1"], shape)[:-1])


@quickly
@each_shape
def test_every_hidden_unit_is_on_for_some_rows_and_off_for_others(shape: Shape, seed: int) -> None:
    found = drawn(shape, seed)
    # A hidden layer of one unit has no other that is on for the other rows: the layers behind it see zeros there.
    whole = not shape.relu or min(shape.widths[1:-1], default=2) > 1
    for name in ("signed 1", "signed 2", "chain"):
        for z, _ in layers(found[name], shape)[:-1]:
            if shape.rows > 1 and whole:
                assert (z > 0).any(axis=0).all(), name
                assert (z < 0).any(axis=0).all(), name
            assert (z > 0).any(), name


@quickly
@each_shape
def test_probes_have_the_shape_that_was_asked_for(shape: Shape, seed: int) -> None:
    for name, probe in drawn(shape, seed).items():
        rows = 1 if name == "one row" else shape.rows
        expected = {f"layer{n}.weight": pair for n, pair in enumerate(pairwise(shape.widths), start=1)}
        expected |= {f"layer{n}.bias": (width,) for n, width in enumerate(shape.widths[1:], start=1) if shape.bias}
        assert {key: value.shape for key, value in probe.params.items()} == expected
        assert (probe.x.shape, probe.y.shape) == ((rows, shape.widths[0]), (rows, shape.widths[-1]))
        arrays = [*probe.params.values(), probe.x, probe.y]
        assert all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays)
        assert probe.conditioned == (not name.startswith("random"))
        assert probe.count >= 0
        if shape.classes:
            assert set(np.unique(probe.y)) == {0.0, 1.0}
            assert (probe.y.sum(axis=1) == 1).all()


@quickly
@each_shape
def test_the_degenerate_probe_has_exact_zeros(shape: Shape, seed: int) -> None:
    found = drawn(shape, seed)["zeros"]
    for width, (z, terms) in zip(shape.widths[1:-1], layers(found, shape), strict=False):
        dead = (terms == 0).all(axis=0)
        assert (z[:, dead] == 0).all()
        assert dead.sum() >= (width // 3 if width > 2 else width - 1)
        assert not dead.all()
    assert (found.x == 0).all(axis=0).sum() >= shape.widths[0] // 3
    if shape.rows > 2:
        assert (found.x == 0).all(axis=1).any()


@quickly
@each_shape
def test_logits_of_the_saturated_probe_overflow_an_exponential(shape: Shape, seed: int) -> None:
    z = layers(drawn(shape, seed)["saturated"], shape)[-1][0]
    size = float(np.sqrt(np.mean(z**2)))
    expected = 150.0 if shape.classes else 12.0
    assert expected / 2 < size < expected * 1.5  # a bias adds half of the smallest at most
    assert shape.bias or not shape.classes or np.abs(z).max() > np.log(np.finfo(np.float32).max)


@quickly
@each_shape
def test_the_same_generator_gives_the_same_probes(shape: Shape, seed: int) -> None:
    first, second, other = drawn(shape, seed), drawn(shape, seed), drawn(shape, seed + 1)
    for name, probe in first.items():
        arrays = zip(probe.params.values(), second[name].params.values(), strict=True)
        assert all(np.array_equal(*pair) for pair in [*arrays, (probe.x, second[name].x), (probe.y, second[name].y)])
        assert not np.array_equal(probe.params["layer1.weight"], other[name].params["layer1.weight"])


def test_probes_differ_from_each_other() -> None:
    found = list(drawn(Shape((4, 5, 3), True, True, False, 6)).values())
    weights = [probe.params["layer1.weight"] for probe in found]
    assert not any(np.array_equal(one, other) for number, one in enumerate(weights) for other in weights[:number])
    assert len({probe.count for probe in found}) > 3  # Adam's bias corrections differ


# In the arithmetic that rounds most

WIDE = [
    Shape((13, 7, 3), True, True, False, 20),
    Shape((10, 17, 9, 5), False, True, True, 12),
    Shape((16, 12, 11, 9, 4), True, True, False, 20),
    Shape((64, 100, 10), False, True, False, 20),
]


def evaluate(probe: Probe, noise: Uniform | None, classes: bool) -> Evaluation:
    reference = Reference("relu", CrossEntropy() if classes else SquaredError())
    params = {name: exact(value) for name, value in probe.params.items()}
    return reference.evaluate(params, exact(probe.x), exact(probe.y), noise)


@pytest.mark.parametrize("shape", WIDE, ids=str)
@pytest.mark.parametrize("name", ["signed 1", "chain"])
def test_bfloat16_changes_no_sign_of_a_pre_activation(name: str, shape: Shape) -> None:
    for seed in range(3):
        probe = drawn(shape, seed)[name]
        right, noise = evaluate(probe, None, shape.classes), Uniform(np.random.default_rng(seed), BF16)
        for _ in range(DRAWS):
            found = evaluate(probe, noise, shape.classes)
            for z, right_z in zip(found.pre[:-1], right.pre[:-1], strict=True):
                assert bool((z.sign() == right_z.sign()).all())
                assert bool(((z - right_z).abs() <= 0.3 * right_z.abs()).all())


@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_most_rows_are_away_from_the_kink_in_bfloat16(shape: Shape) -> None:
    """The kink that a verdict looks out for: where bfloat16 decides by what is left, something must be."""
    loss = CrossEntropy() if shape.classes else SquaredError()
    reference, random = Reference("relu", loss), np.random.default_rng(5)
    left = {}
    for name in ("signed 1", "random 1"):
        probe = drawn(shape)[name]
        params = {key: exact(value) for key, value in probe.params.items()}
        plain = PlainSteps(reference, "cpu", "float32")
        found, _ = envelope(reference, BF16, random, params, exact(probe.x), exact(probe.y), plain)
        left[name] = 1 - near_kink(found).mean()
    assert left["signed 1"] >= 0.5
    assert left["random 1"] < left["signed 1"]


@pytest.mark.parametrize("shape", [shape for shape in WIDE if not shape.classes], ids=str)
def test_nothing_cancels_in_the_gradient(shape: Shape) -> None:
    """Where targets are on the far side of the predictions every entry is known to a few roundings; of random ones not."""
    largest = {}
    for name in ("signed 1", "random 1"):
        probe, noise = drawn(shape)[name], Uniform(np.random.default_rng(0), Arithmetic("fp32", "float32"))
        right, others = evaluate(probe, None, False), [evaluate(probe, noise, False) for _ in range(DRAWS)]
        ratios = []
        for other in others:
            for key, grad in right.grads.items():
                distance = (other.grads[key] - grad).abs()[grad != 0]
                ratios.append(float((distance / grad.abs()[grad != 0]).max()))
        largest[name] = max(ratios) / Arithmetic("fp32", "float32").product(20)
    assert largest["signed 1"] < 20
    assert largest["random 1"] > 5 * largest["signed 1"]


# Slots


def test_slots_are_of_the_size_that_gradients_leave() -> None:
    random = np.random.default_rng(0)
    grads = {"layer1.weight": 1e-3 * random.standard_normal((40, 30)), "layer1.bias": np.zeros(4)}
    grads["layer1.weight"][0] = 0
    found = slots(("exp_avg", "exp_avg_sq"), grads, random, smallest=1e-8)
    assert {slot: {key: value.shape for key, value in arrays.items()} for slot, arrays in found.items()} == {
        slot: {"layer1.weight": (40, 30), "layer1.bias": (4,)} for slot in ("exp_avg", "exp_avg_sq")
    }
    squares = found["exp_avg_sq"]["layer1.weight"]
    assert (squares > 0).all()
    assert squares[1:].max() / squares[1:].min() > 500  # over three powers of ten
    assert 1e-8 < squares[1:].mean() < 1e-4
    roots = np.sqrt(np.concatenate([squares[0], found["exp_avg_sq"]["layer1.bias"]]))  # beside ε
    assert (roots >= 1e-9).all()
    assert (roots <= 1e-7).all()
    assert slots((), grads, random, smallest=1.0) == {}
