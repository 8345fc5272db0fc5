"""What a row and the notes say of what was measured, of participants and statuses that are made up."""

import numpy as np
import pytest

from exp.benchmark.bench import Timed
from exp.benchmark.outcome import baseline, compared, floor, raw
from exp.benchmark.plan import Size, sizes
from exp.benchmark.rows import _about_floor
from exp.benchmark.session import Participant, Session
from exp.composition import compose
from exp.configuration import instantiate
from exp.verification.verdict import DIFFERENT, EQUIVALENT, UNDECIDED

SMALL = ["tracker=none", "device=cpu", "problem.samples=11", "problem.inputs=7", "problem.outputs=3", "network.hidden=[5]"]


def participant(label: str, seconds: float = 0.04, *, threads: float = 1.0, words: tuple[str, ...] = ()) -> Participant:
    """One whose blocks of 100 steps took `seconds`, more or less, on so many threads."""
    experiment, _ = instantiate(*compose(["method=numpy", *SMALL, *words]))
    data = experiment.check()
    experiment.resolve_device()
    found = Participant(label, experiment, data)
    times = seconds * np.exp(0.001 * np.cos(np.arange(30)))
    found.blocks = [[Timed(0, 100, 1, s, None, threads * s, 0.0, 100, np.ones(100), s) for s in times]]
    return found


def size_of(*members: Participant, verdict: str | None = EQUIVALENT) -> Size:
    return Size([*members], participant("twin"), original=members[0], baseline_verdict=verdict)


# Speeds


def test_a_speed_is_relative_to_a_baseline_that_is_right() -> None:
    first, second = participant("first"), participant("second", 0.02)
    size = size_of(first, second)
    assert compared(first, size, EQUIVALENT) == {"speed": "1", "is_baseline": True}
    assert compared(second, size, EQUIVALENT)["speed"] == "2"


@pytest.mark.parametrize("verdict", [DIFFERENT, UNDECIDED])
def test_of_a_baseline_that_is_not_right_nobody_has_a_speed(verdict: str) -> None:
    first, second = participant("first"), participant("second", 0.02)
    size = size_of(first, second, verdict=verdict)
    assert compared(first, size, verdict) == {"speed": "not shown", "is_baseline": True}
    assert compared(second, size, EQUIVALENT) == {"speed": f"not shown (baseline {verdict})"}
    assert compared(second, size, DIFFERENT) == {"speed": "not shown"}
    assert compared(second, size_of(first, second, verdict=None), EQUIVALENT)["speed"] == "not shown (baseline not judged)"


def test_of_a_baseline_whose_times_are_refused_nobody_has_a_speed() -> None:
    first, second = participant("first", threads=2.0), participant("second", 0.02)
    size = size_of(first, second)
    assert compared(first, size, EQUIVALENT) == {"speed": "refused (threads)", "is_baseline": True}
    assert compared(second, size, EQUIVALENT) == {"speed": "not shown (baseline refused)"}


def test_where_the_twins_original_failed_the_next_baseline_has_no_twin() -> None:
    first, second = participant("first"), participant("second")
    (size,) = sizes([first, second], [])
    assert size.twin is not None and size.original is first
    size.twin.blocks = first.blocks
    assert floor(size) is not None
    assert _about_floor(first, size)[0].startswith("noise floor")
    first.failed = "it broke"
    assert baseline(size) is second
    assert floor(size) is None
    assert _about_floor(second, size) == ["no noise floor: the twin is that of first, which failed, and not of second"]
    assert raw(second, size, Session(0, size.members))["twin"] is None
    first.failed, size.twin.failed = None, "it died"
    assert _about_floor(first, size) == ["no noise floor: the twin of first was not timed (it died)"]
