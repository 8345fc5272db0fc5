"""A sample of the campaigns on right implementations: no false alarm, and resolutions that are what they say."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from campaigns.calibration import BOUNDS, RANDOM, SCALED, detected, network, plants, resolutions
from campaigns.false_alarms import TRAINED, TUTORIAL, trial

from exp.conditions import controlled
from exp.precisions import FP32
from exp.verification.verdict import EQUIVALENT, UNDECIDED

RANDOM_NETWORKS = [*range(2, 7), 1152, 1435, 1460, 2561, 2754, 2776]
"""The last six were false alarms, or nearly: by tanh in GELU's derivative, by squares of gradients that overflow, by velocities
that nearly cancel."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    with controlled(1, "torch", FP32(), "cpu"):
        yield


@pytest.mark.parametrize("number", RANDOM_NETWORKS)
def test_no_false_alarm_on_a_random_network(number: int) -> None:
    chosen = replace(trial(number), threads=1)  # two threads wait for each other, where other tests run beside
    found = chosen.verdict()
    assert found.verdict in (EQUIVALENT, UNDECIDED), f"{chosen}: {found.line}"


@pytest.mark.parametrize("turn", [0, 1, 2, 3, 6])
def test_no_false_alarm_from_trained_states_of_the_tutorial(turn: int) -> None:
    chosen = replace(trial(60 * turn + 1), threads=1)
    assert chosen.states == TRAINED
    found = chosen.verdict()
    assert found.verdict == EQUIVALENT, f"{chosen}: {found.line}"


def test_no_false_alarm_along_the_training_of_the_tutorial() -> None:
    chosen = trial(0)
    assert chosen.states == TUTORIAL
    found = chosen.verdict()
    assert found.verdict == EQUIVALENT, f"{chosen}: {found.line}"


@pytest.mark.parametrize("precision", BOUNDS)
def test_resolution_at_the_size_of_the_tutorial(precision: str, one_thread: None) -> None:
    found = resolutions(network(0, full=True), precision)
    assert {key: size for key, size in found.items() if size > BOUNDS[precision]} == {}


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_fault_of_thrice_the_resolution_is_caught(precision: str, one_thread: None) -> None:
    configuration = network(2, full=False)
    stated = resolutions(configuration, precision)
    assert [plant for plant in plants(stated, 3.0, seed=1) if not detected(configuration, precision, plant)] == []


@pytest.mark.parametrize(("precision", "direction"), [("fp64", RANDOM), ("fp32", SCALED), ("tf32", RANDOM), ("bf16", SCALED)])
def test_a_fault_of_a_thirtieth_of_the_resolution_is_not_called_different(
    precision: str, direction: str, one_thread: None
) -> None:
    configuration = network(0, full=False)
    stated = resolutions(configuration, precision)
    chosen = [plant for plant in plants(stated, 1 / 30, seed=2) if plant.direction == direction]
    assert [plant for plant in chosen if detected(configuration, precision, plant)] == []
