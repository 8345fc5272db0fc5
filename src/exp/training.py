"""The one training loop: batches, blocks of steps, reading the losses, evaluation, timing, stopping."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from exp.arrays import Array, Place, get, put, synchronize
from exp.curve import Curve
from exp.errors import InputError, require
from exp.losses import Loss
from exp.methods.base import Block, Method
from exp.metrics import METRICS
from exp.problems import Data
from exp.seeds import generator
from exp.state import State

LONGEST_BLOCK = 100
"""Steps between two looks at the losses, at most: what a run that blew up still computes in vain."""


@dataclass(kw_only=True)
class Training:
    """How long and in which batches. Give `steps` or `epochs`. Cadences are in steps; null: ten evaluations, five logs.

    `batch_size` null is the whole training split in every step. `watch_finite` looks at the loss and the state after
    every step, to name the first that is not finite. `verify` adds the verdict on the method to the run.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    evaluate_every: int | None = None
    log_every: int | None = None
    watch_finite: bool = False
    verify: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "epochs", "batch_size", "evaluate_every", "log_every"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "a whole number >= 1, or null")
        if self.steps is None and self.epochs is None:
            raise InputError("steps", None, "training.epochs is null too; give one of them, such as training.steps=500")
        if self.steps is not None and self.epochs is not None:
            advice = "both are set; to train by epochs add training.steps=null"
            raise InputError("epochs", self.epochs, f"training.steps={self.steps}: {advice}")
        require(self.seed >= 0, "seed", self.seed, "a whole number >= 0")

    def check(self, samples: int) -> None:
        """Raise `InputError` for a batch larger than the training split of `samples` rows."""
        allowed = f"1 to {samples}, the training split; null for all of it"
        require(self.batch_size is None or self.batch_size <= samples, "batch_size", self.batch_size, allowed)

    def total_steps(self, samples: int) -> int:
        """Steps in all, for a training split of `samples` rows."""
        return self.steps or (self.epochs or 0) * ceil(samples / (self.batch_size or samples))

    def log_cadence(self, samples: int) -> int:
        return self.log_every or ceil(self.total_steps(samples) / 5)

    def evaluation_cadence(self, samples: int) -> int:
        return self.evaluate_every or ceil(self.total_steps(samples) / 10)

    def batches(self, samples: int) -> Iterator[np.ndarray | None]:
        """The rows of each step, (B,); None for all. Each epoch is a new permutation, its last batch may be ragged."""
        epoch = 0
        while True:
            if self.batch_size is None:
                yield None
                continue
            order = generator(self.seed, "training", epoch).permutation(samples)
            yield from np.split(order, range(self.batch_size, samples, self.batch_size))
            epoch += 1

    def blocks(self, samples: int) -> Iterator[Block]:
        """The run as blocks of steps of one batch size. The first step, and what a cadence ends, close a block."""
        total = self.total_steps(samples)
        longest = 1 if self.watch_finite else LONGEST_BLOCK
        cadences = (self.log_cadence(samples), self.evaluation_cadence(samples))
        rows: list[np.ndarray | None] = []
        first = 0
        for step, batch in zip(range(total), self.batches(samples), strict=False):
            if rows and _size(batch) != _size(rows[0]):  # a ragged last batch is a block of its own
                yield _block(first, rows)
                first, rows = step, []
            rows.append(batch)
            done = step + 1
            if done in (1, total) or len(rows) == longest or any(done % cadence == 0 for cadence in cadences):
                yield _block(first, rows)
                first, rows = done, []


def _size(batch: np.ndarray | None) -> int | None:
    return None if batch is None else len(batch)


def _block(first: int, rows: list[np.ndarray | None]) -> Block:
    return Block(first, len(rows), None if rows[0] is None else np.stack([batch for batch in rows if batch is not None]))


def train(method: Method, training: Training, data: Data, loss: Loss, place: Place) -> Iterator[Curve]:
    """Train a started method; yields the growing curve after every block, the whole one last.

    `train/loss` at step t is the loss before update t. Stops at the end of the block in which it is not finite.
    """
    curve, rows_sha = Curve(), hashlib.sha256()
    x, y = put(data.train.inputs, place), put(data.train.targets, place)
    valid_x = put(data.valid.inputs, place) if data.valid else None
    samples = len(data.train.inputs)
    total, cadence = training.total_steps(samples), training.evaluation_cadence(samples)
    for block in training.blocks(samples):
        if block.first == 0:
            _evaluate(curve, 0, method, data, valid_x, loss)
        synchronize(place)
        started = time.perf_counter()
        losses = get(method.steps(x, y, block, place)).astype(np.float64)  # (steps,): waits for the device
        synchronize(place)
        curve.block_seconds.append(time.perf_counter() - started)
        curve.block_steps.append(block.steps)
        for batch in block.rows if block.rows is not None else ():
            rows_sha.update(f"{len(batch)} ".encode() + batch.astype("<i8").tobytes())
        curve.rows_digest = None if block.rows is None else rows_sha.hexdigest()
        done = block.first + block.steps
        finite = np.isfinite(losses)
        if not finite.all():
            losses = losses[: np.argmin(finite)]
            curve.blew_up_at_step = block.first + len(losses)
            curve.first_not_finite = "the loss itself, of weights that were finite" if training.watch_finite else None
        elif done == total or training.watch_finite:
            state = method.export()
            curve.first_not_finite = _first_not_finite(state)
            if curve.first_not_finite in state.params:  # an infinite slot may stay harmless
                curve.blew_up_at_step = done
        curve.train_loss.extend(losses.tolist())
        curve.train_time.extend([time.time()] * len(losses))
        if curve.blew_up_at_step is None and (done % cadence == 0 or done == total):
            _evaluate(curve, done, method, data, valid_x, loss)
        yield curve
        if curve.blew_up_at_step is not None:
            return


def _first_not_finite(state: State) -> str | None:
    """The first tensor of the state that holds something not finite; parameters come before slots."""
    return next((name for name, array in state.named().items() if not np.isfinite(array).all()), None)


def _evaluate(curve: Curve, step: int, method: Method, data: Data, valid_x: Array | None, loss: Loss) -> None:
    """Loss and metric on the validation split after `step` updates, computed in float64 on the host."""
    if data.valid is None:
        return
    prediction = get(method.predict(valid_x)).astype(np.float64)
    target = data.valid.targets
    curve.valid_step.append(step)
    curve.valid_time.append(time.time())
    curve.valid.setdefault("loss", []).append(float(loss.value(prediction, target)))
    curve.valid.setdefault(data.metric, []).append(METRICS[data.metric](prediction, target))
