"""What times mean: the estimate, its interval, the noise floor; and on a fake clock how often it is right."""

from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import pytest

from exp.benchmark import session as sessions
from exp.benchmark.bench import Started, Timed, Warm
from exp.benchmark.ceilings import Ceilings
from exp.benchmark.decision import NoiseFloor, limited_by
from exp.benchmark.outcome import floor, relative
from exp.benchmark.plan import Size
from exp.benchmark.session import Participant, measure
from exp.benchmark.statistics import Ratio, location, paired, spread
from exp.benchmark.warming import WINDOW, is_warm
from exp.composition import compose
from exp.configuration import instantiate
from exp.seeds import Generator, generator


def test_the_interval_of_the_median_holds_it_as_often_as_it_says() -> None:
    random = generator(0, "benchmark", 1)
    held = 0
    for _ in range(400):
        found = spread(np.exp(random.standard_normal(41)).tolist())
        held += found.low <= 1.0 <= found.high
    assert 0.935 <= held / 400 < 1.0  # at least 0.95, less what 400 draws may miss


def test_the_spread_of_known_numbers() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.median, found.first_quartile, found.third_quartile, found.blocks) == (3.0, 2.0, 4.0, 5)
    assert (found.low, found.high) == (1.0, 5.0)  # too few for anything but the extremes


def test_the_location_is_blind_to_a_fifth_that_was_disturbed() -> None:
    values = np.concatenate([np.linspace(-0.01, 0.01, 81), np.full(19, 5.0)])
    assert abs(location(values)) < 0.01
    assert location(np.array([1.0, 2.0, 4.0])) == 2.25  # of the averages 1, 1.5, 2, 2.5, 3, 4
    large = generator(0, "benchmark", 2).standard_normal(2001)
    assert abs(location(large) - float(np.median(large))) < 0.1


def test_a_paired_ratio_is_blind_to_what_disturbs_both() -> None:
    random = generator(0, "benchmark", 3)
    machine = [np.exp(np.cumsum(random.normal(0, 0.3, 60))) for _ in range(4)]
    one = [(1.05 * times).tolist() for times in machine]
    found = paired(one, [times.tolist() for times in machine])
    assert found.ratio == pytest.approx(1.05) and found.low == pytest.approx(1.05) and found.high == pytest.approx(1.05)


def test_what_repeats_with_the_process_is_not_taken_for_certain() -> None:
    """Blocks agree to a thousandth within each process, processes to a hundredth only."""
    random = generator(0, "benchmark", 4)
    processes = [0.99, 1.01, 1.02, 0.995]
    one = [(share * np.exp(random.normal(0, 0.001, 50))).tolist() for share in processes]
    found = paired(one, [[1.0] * 50] * 4)
    assert found.high - found.low > 0.02
    assert not found.certain


def test_one_round_is_certain_of_nothing() -> None:
    assert not paired([[2.0]], [[1.0]]).certain


@pytest.mark.parametrize(
    ("ratio", "hidden"),
    [
        (Ratio(1.05, 1.04, 1.06, 0.005), False),
        (Ratio(0.95, 0.94, 0.96, 0.005), False),
        (Ratio(1.015, 1.01, 1.02, 0.002), True),  # certain, and smaller than the floor
        (Ratio(1.05, 0.99, 1.11, 0.03), True),  # larger, and not certain
    ],
)
def test_a_difference_below_the_floor_is_none(ratio: Ratio, hidden: bool) -> None:
    assert NoiseFloor.of(Ratio(0.99, 0.98, 1.0, 0.005)).hides(ratio) is hidden


def test_the_floor_is_how_far_equals_were_apart_and_two_standard_errors_more() -> None:
    assert NoiseFloor.of(Ratio(0.99, 0.98, 1.0, 0.005)).log_ratio == pytest.approx(0.01 - log(0.99))
    assert NoiseFloor.of(Ratio(1.0, 0.99, 1.03, 0.03)).share == pytest.approx(np.expm1(0.06))
    assert not NoiseFloor.of(paired([[2.0]], [[1.0]])).known


def test_the_word_for_what_limits_a_step() -> None:
    assert limited_by(1.0, 0.6, 0.2, 2) == "compute"
    assert limited_by(1.0, 0.6, 0.7, 2) == "memory"
    assert limited_by(0.001, 0.0004, 0.00049, 2) == "launch"
    assert limited_by(0.0039, 0.0, 0.0, 2) == "launch"
    assert limited_by(0.0039, 0.0, 0.0, 1) == "other"  # more than a layer's launches can take
    assert limited_by(0.039, 0.001, 0.002, 2) == "other"  # GELU, or a sleep


def test_warm_is_when_two_windows_agree() -> None:
    falling, flat = [10.0 - step for step in range(WINDOW)], [5.0] * (2 * WINDOW)
    assert not is_warm(falling + [5.0] * WINDOW, 1.0)
    assert is_warm(falling + flat, 1.0)
    assert not is_warm(flat, 0.1)  # too early to say
    assert not is_warm(flat[:-1], 1.0)


# On a fake clock


@dataclass
class Machine:
    """Two noisy cores: a drift that all share and that is forgotten in seconds, blocks that are disturbed, and now and then
    long; every process has an offset of its own. Time passes by the blocks alone."""

    random: Generator
    drift: float = 0.0
    seconds: float = 0.0

    def block(self, seconds: float) -> float:
        self.drift = 0.97 * self.drift + self.random.normal(0, 0.012)
        disturbed = self.random.exponential(0.3) if self.random.random() < 0.15 else 0.0
        taken = seconds * np.exp(self.drift + self.random.normal(0, 0.02) + disturbed)
        self.seconds += taken
        return float(taken)


@dataclass
class FakeWorker:
    """Answers as a worker does; its blocks take what the machine lets them."""

    machine: Machine
    slower: float
    pid: None = None
    offset: float = field(init=False)

    def __post_init__(self) -> None:
        self.offset = float(np.exp(self.machine.random.normal(0, 0.003)))

    def do(self, name: str, *arguments: Any) -> Any:
        answers: dict[str, Any] = {
            "start": Started(0.0, 0.0, 1.0),
            "warm": Warm(100, 0.3, True, 4e-4, 100, 1),
            "ceilings": Ceilings(1.0, 1.0),
        }
        return answers.get(name, {})

    def timed(self) -> Timed:
        seconds = self.machine.block(0.04 * self.slower * self.offset)
        return Timed(0, 100, 1, seconds, None, seconds, 0.0, 100, np.ones(100), seconds)

    def close(self) -> None: ...


def trial(random: Generator, slower: float, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, float, float]:
    """Whether a difference is called one, the ratio, and the fake seconds it took."""
    experiment, _ = instantiate(*TUTORIAL)
    machine, data = Machine(random), None
    members = [Participant(name, experiment, data) for name in ("one", "other")]  # type: ignore[arg-type]  # none is read
    size = Size(members, Participant("twin", experiment, data, "twin"), original=members[0])  # type: ignore[arg-type]
    speeds = iter([1.0, slower, 1.0] * 5)
    monkeypatch.setattr(sessions, "Local", lambda *_: FakeWorker(machine, next(speeds)))
    measure(size.participants, int(random.integers(0, 2**60)), processes=5, seconds=20.0, isolated=False)
    ratio, hidden = relative(members[1], members[0]), floor(size)
    assert ratio is not None and hidden is not None
    return not hidden.hides(ratio), ratio.ratio, machine.seconds


TUTORIAL = compose(["method=numpy", "tracker=none", "device=cpu"])


def test_equals_are_told_apart_in_less_than_one_of_twenty_and_three_per_cent_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 s of blocks of two combinations and the twin, on a noisy machine: A/A says none ≥ 95 %, 3 % is found ≥ 90 %."""
    monkeypatch.setattr(sessions, "AUDITS", 0)
    random = generator(0, "benchmark", 5)
    equal = [trial(random, 1.0, monkeypatch) for _ in range(20)]
    slower = [trial(random, 1.03, monkeypatch) for _ in range(20)]
    assert max(seconds for _, _, seconds in equal + slower) < 66
    assert sum(apart for apart, _, _ in equal) <= 1
    found = [apart and ratio > 1 for apart, ratio, _ in slower]
    assert sum(found) >= 18
    assert abs(float(np.mean([ratio for _, ratio, _ in slower])) - 1.03) < 0.005
