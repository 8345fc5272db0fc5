"""What is verified, and the judgement of a method alone: at all probes, then in a chain of steps. Independent of any data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import numpy as np

from exp.seeds import Generator
from exp.state import State
from exp.training import LONGEST_BLOCK
from exp.verification.block import judge_block
from exp.verification.chain import Chain, judge_steps
from exp.verification.judge import Judge
from exp.verification.probes import Probe, Shape, probes, signed
from exp.verification.reference import Reference
from exp.verification.rules import Rule
from exp.verification.single_step import judge_step
from exp.verification.subject import Subject, empty, visible
from exp.verification.tolerance import Arithmetic

PROBE_ROWS, WHOLE_ROWS = 20, 1024
"""Rows of a probe at most, and of the one probe that is as large as the batches of the training."""

CHAIN_STEPS = 4

BLOCK_OPERATIONS = 2e10
"""Floating-point operations of the steps in blocks, at most; one block of the longest in any case."""


@dataclass(frozen=True)
class Case:
    """A method for a network of `widths`, trained in batches of `batch_size` of `samples` rows. `classes`: one-hot targets.

    `readers` are other optimizers by which the method's gradient can be read, `lengths` those of the training's blocks, the
    most frequent first.
    """

    subject: Subject
    precision: str
    widths: tuple[int, ...]
    classes: bool
    batch_size: int | None
    samples: int
    seed: int
    readers: Sequence[Any] = ()
    lengths: Sequence[int] = ()

    @property
    def shape(self) -> Shape:
        network = self.subject.network
        rows = self.batch_size or self.samples
        few, whole = min(rows, PROBE_ROWS), min(rows, WHOLE_ROWS)
        return Shape(self.widths, network.bias, network.activation == "relu", self.classes, few, whole)

    @property
    def ragged(self) -> int:
        """Rows of the last batch of an epoch, where they are fewer than those of a batch."""
        return self.samples % (self.batch_size or 1)

    @property
    def arithmetic(self) -> Arithmetic:
        return Arithmetic(self.precision, self.subject.place.dtype)

    def judge(self, generator: Generator) -> Judge:
        """A judge that has seen nothing yet. Raises `Unknown` for a loss or an optimizer that torch has no twin of."""
        subject = self.subject
        Rule(subject.optimizer)
        return Judge(subject, Reference(subject.network.activation, subject.loss), self.arithmetic, generator)


def judge_method(case: Case, judge: Judge) -> None:
    """Judge single steps at all probes, then a chain of steps and the same steps as a block."""
    overflowing = 1000.0 if case.subject.place.dtype == "float64" else 150.0
    for probe in probes(case.shape, judge.generator, overflowing=overflowing):
        if probe.conditioned or not judge.arithmetic.coarse:
            judge_step(judge, probe)
    judge_chain(case, judge)


def judge_chain(case: Case, judge: Judge) -> None:
    """Steps from a conditioned state, in batches as configured, a ragged one among them; then steps of one size, as blocks too.

    No two batches of a block are the same, and one method does two blocks of 2 and of each length that the training has, or one
    of the longest: what is filled once and not again is seen, and what a loop leaves out at its end.
    """
    subject, rows, batched = case.subject, case.shape.rows, case.batch_size is not None
    if case.ragged >= rows:  # a ragged batch is smaller than the others, here too
        rows = min(case.ragged + 1, case.shape.whole)
    ragged = min(case.ragged or rows // 2, rows - 1)
    probe = signed(replace(case.shape, rows=2 * rows + ragged) if batched else case.shape, judge.generator)
    params = {name: subject.cast(value) for name, value in probe.params.items()}
    optimizer = visible(subject.optimizer, params, judge.gradient(params, probe.x, probe.y))
    start = State(params, empty(optimizer, params), np.array(0, dtype=np.int64))
    plan = _batches(probe, rows, judge.generator) if batched else [None] * CHAIN_STEPS
    chain = Chain("chain", optimizer, start, subject.cast(probe.x), subject.cast(probe.y), plan)
    judge_steps(judge, chain, range(len(plan)))

    def batches(steps: int) -> list[np.ndarray | None]:
        return [judge.generator.permutation(len(probe.x))[:rows] if batched else None for _ in range(steps)]

    block = replace(chain, name="block", plan=batches(CHAIN_STEPS))
    judge_block(judge, block, *judge_steps(judge, block, ()), blocks=2)
    left = BLOCK_OPERATIONS / (6 * rows * sum(value.size for value in params.values()))
    for length in dict.fromkeys([LONGEST_BLOCK, *case.lengths]):
        blocks = 2 if length in case.lengths and 2 * length <= left else 1
        if length < LONGEST_BLOCK and blocks == 1:  # it would take too long
            judge.remarks.append(f"blocks of {length} steps: not judged, for the sake of time")
            continue
        left -= blocks * length
        slower = replace(optimizer, lr=optimizer.lr / 2 ** ceil(log2(blocks * length)))  # as far in all as one step before
        long = replace(chain, name=f"blocks of {length}", optimizer=slower, plan=batches(1))
        _, moving = judge_steps(judge, long, ())  # with slots that are not empty: Adam's tell nothing of a gradient's scale
        long = replace(long, state=moving, plan=batches(blocks * length))
        looked_at = range(LONGEST_BLOCK - 1, 0, -LONGEST_BLOCK // 3) if length == LONGEST_BLOCK else ()
        judge_block(judge, long, *judge_steps(judge, long, looked_at), blocks=blocks)


def _batches(probe: Probe, rows: int, generator: Generator) -> list[np.ndarray]:
    """An epoch of two batches and a ragged one, if there is room for it, and the first batch of the next."""
    order, again = generator.permutation(len(probe.x)), generator.permutation(len(probe.x))
    return [batch for batch in (*np.split(order, [rows, 2 * rows]), again[:rows]) if len(batch)]
