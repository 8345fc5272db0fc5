"""The smallest network and batch at which a method is still wrong, with all of its numbers."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from exp.seeds import generator
from exp.verification.case import Case, judge_chain
from exp.verification.judge import Judge
from exp.verification.probes import Probe, probes
from exp.verification.single_step import judge_step
from exp.verification.verdict import concluded


def smallest_example(case: Case) -> list[str] | None:
    """The smallest network and batch of this depth at which the method is still wrong, with all of its numbers."""
    depth = len(case.widths) - 1
    for width, rows in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 3), (4, 5)):
        network = replace(case.subject.network, hidden=[width] * (depth - 1))
        outputs = max(width, 2) if case.classes else width
        small = replace(
            case,
            subject=replace(case.subject, network=network),
            widths=(*[width] * depth, outputs),
            samples=rows if case.batch_size is None else 2 * rows + 1,
            batch_size=case.batch_size and rows,
        )
        with contextlib.suppress(Exception):  # a method may not do other sizes
            for probe, judge in _judged(small):
                found = concluded(small, judge)
                if found.first is not None:
                    sizes = " → ".join(map(str, small.widths))
                    return [f"smallest failing example: {rows} × {sizes}: {found.first}", *_numbers(probe)]
    return None


def _judged(case: Case) -> Iterator[tuple[Probe | None, Judge]]:
    """Judges of one probe each, and of the chain."""
    random = generator(case.seed, "verification", 4)
    for probe in probes(case.shape, random, overflowing=2.0):
        judge = case.judge(random)
        judge_step(judge, probe)
        yield probe, judge
    judge = case.judge(random)
    judge_chain(case, judge)
    yield None, judge


def _numbers(probe: Probe | None) -> list[str]:
    if probe is None:
        return []
    arrays = {**probe.params, "x": probe.x, "y": probe.y}
    return [
        f"  {name} = {np.array2string(value, precision=9, separator=', ')}".replace("\n", "") for name, value in arrays.items()
    ]
