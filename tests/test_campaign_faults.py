"""A sample of the campaigns: planted faults, cheats and replays of real bugs are seen, and named by beat and tensor.

The whole of them: `python -m campaigns.mutants` and `python -m campaigns.replayed`.
"""

import pytest
from campaigns.campaign import outcome
from campaigns.faults import BEATS, Fault
from campaigns.mutants import ALL, CHEATS, MUTANTS, PRECISIONS
from campaigns.replays import REPLAYS

SMALL_MUTANTS = [entry for entry in MUTANTS if entry.overrides and "fp32" in entry.precisions]
"""Without those of the tutorial's own size, which take longer."""

ONE_OF_EACH_FAMILY = list({entry.family: entry for entry in SMALL_MUTANTS}.values())


def named(fault: Fault) -> str:
    return f"{fault.family}, {fault.magnitude}".strip(", ").replace(" ", "-")


def said(fault: Fault, precision: str = "fp32") -> tuple[str, bool, bool, str]:
    """Verdict, whether beat and tensor are right, and the line of the verdict.

    Along a short training, for the sake of speed, unless the training has epochs.
    """
    short = () if "training=epochs" in fault.overrides else ("training.steps=30",)
    found = outcome(fault, precision, *short)
    return found.verdict.verdict, found.beat, found.tensor, found.verdict.line


@pytest.mark.parametrize("fault", [entry for entry in CHEATS if entry.overrides][::2], ids=named)
def test_a_cheat_is_different(fault: Fault) -> None:
    verdict, beat, tensor, line = said(fault)
    assert (verdict, beat, tensor) == ("different", True, True), line


@pytest.mark.parametrize("fault", ONE_OF_EACH_FAMILY[::12], ids=named)
def test_a_mutant_is_different_and_its_beat_and_tensor_are_named(fault: Fault) -> None:
    verdict, beat, tensor, line = said(fault)
    assert (verdict, beat, tensor) == ("different", True, True), line


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
@pytest.mark.parametrize("family", ["mask inverted", "betas swapped"])
def test_a_mutant_is_named_in_other_precisions(family: str, precision: str) -> None:
    verdict, beat, tensor, line = said(next(entry for entry in SMALL_MUTANTS if entry.family == family), precision)
    assert (verdict, beat, tensor) == ("different", True, True), line


@pytest.mark.parametrize("fault", REPLAYS[::16], ids=named)
def test_a_replayed_bug_is_different_and_its_beat_and_tensor_are_named(fault: Fault) -> None:
    verdict, beat, tensor, line = said(fault)
    assert (verdict, beat, tensor) == ("different", True, True), line


def test_the_lists_are_complete() -> None:
    """Families and cheats are as many as asked for; every entry names known beats, and every replay its source."""
    assert len({entry.family for entry in ALL}) >= 60
    assert len({entry.family for entry in CHEATS}) >= 4
    assert len(REPLAYS) >= 10
    assert all(set(entry.beats) <= set(BEATS) and entry.beats for entry in [*ALL, *REPLAYS])
    assert all(set(entry.precisions) <= set(PRECISIONS) for entry in ALL)
    assert all("https://" in entry.source for entry in REPLAYS)
