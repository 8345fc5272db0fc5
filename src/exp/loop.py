"""The one training loop: blocks of steps, reading the losses, evaluation, timing, stopping; for one run or a stack of K."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exp.arrays import Array, Place, get
from exp.clock import Stopwatch, settled
from exp.curve import Curve
from exp.feed import Feed
from exp.losses import Loss
from exp.methods.base import Block, Method
from exp.metrics import METRICS
from exp.problems import Data
from exp.state import State, unstack_state
from exp.training import Training


@dataclass(frozen=True)
class Begun:
    """A block that a device was given: its steps, each run's digest of rows, its losses there, marks before and after."""

    block: Block
    digests: Sequence[str | None]
    losses: Array
    marks: tuple[Any, Any]


def train(
    method: Method, initial: Sequence[State], trainings: Sequence[Training], data: Sequence[Data], loss: Loss, place: Place
) -> Iterator[list[Curve]]:
    """Train a method that was started with one run, or a stack of K; yields their growing curves after every block.

    `initial` are the states that it was started with. `train/loss` at step t is the loss before update t. A run is over at
    the end of the block in which it is not finite; the others go on, and their curves are what they are without it.
    """
    feed, watch = Feed(trainings, data, place), Stopwatch(place)
    curves = [Curve() for _ in data]
    first = trainings[0]
    total, cadence = first.total_steps(feed.samples), first.evaluation_cadence(feed.samples)
    begun: deque[Begun] = deque()
    _evaluate(curves, 0, method, data, feed, loss)
    for block, digests in feed.blocks():
        marks = watch.mark()
        losses = settled(method.steps(feed.x, feed.y, block, place))
        begun.append(Begun(block, digests, losses, (marks, watch.mark())))
        done = block.first + block.steps
        looked_at = done in (1, total) or done % cadence == 0 or first.watch_finite
        ahead = 0 if looked_at or watch.waits else 1  # a GPU has the next block before one is read
        while len(begun) > ahead:
            _read(begun.popleft(), curves, watch, blame_loss=first.watch_finite)
            if not begun:  # the state is that after `done` steps
                if done == total or first.watch_finite:
                    _look_at_state(curves, exported(method, initial), done)
                if done == total or done % cadence == 0:
                    _evaluate(curves, done, method, data, feed, loss)
            yield curves
            if all(curve.blew_up_at_step is not None for curve in curves):
                return


def exported(method: Method, initial: Sequence[State]) -> list[State]:
    """The canonical state of each run that was started from `initial`."""
    state = method.export()
    return unstack_state(state, initial) if len(initial) > 1 else [state]


def _read(begun: Begun, curves: list[Curve], watch: Stopwatch, *, blame_loss: bool) -> None:
    """Read the losses of a block, (steps,) or (steps, K), into the curves; waits for the device. Time is shared equally."""
    block, losses = begun.block, get(begun.losses).astype(np.float64)
    now, seconds = time.time(), watch.seconds(*begun.marks) / len(curves)
    if losses.shape != ((block.steps,) if len(curves) == 1 else (block.steps, len(curves))):
        raise ValueError(f"the losses of {block.steps} steps of {len(curves)} runs have shape {losses.shape}")
    losses = losses.reshape(block.steps, len(curves))
    finite = np.isfinite(losses)
    counts = np.where(finite.all(axis=0), block.steps, finite.argmin(axis=0)).tolist()  # finite losses of each run
    for curve, digest, own, count in zip(curves, begun.digests, losses.T.tolist(), counts, strict=True):
        if curve.blew_up_at_step is not None:
            continue
        curve.block_seconds.append(seconds)
        curve.block_steps.append(block.steps)
        curve.rows_digest = digest
        if count < block.steps:
            curve.blew_up_at_step = block.first + count
            curve.first_not_finite = "the loss itself, of weights that were finite" if blame_loss else None
        curve.train_loss.extend(own[:count])
        curve.train_time.extend([now] * count)


def _look_at_state(curves: list[Curve], states: list[State], done: int) -> None:
    """The first tensor of each state that is not finite; parameters come before slots, which may stay harmless."""
    for curve, state in zip(curves, states, strict=True):
        if curve.blew_up_at_step is None:
            finite = {name: np.isfinite(array).all() for name, array in state.named().items()}
            curve.first_not_finite = next((name for name in finite if not finite[name]), None)
            if curve.first_not_finite in state.params:
                curve.blew_up_at_step = done


def _evaluate(curves: list[Curve], step: int, method: Method, data: Sequence[Data], feed: Feed, loss: Loss) -> None:
    """Loss and metric on the validation split after `step` updates, computed in float64 on the host."""
    if feed.valid_x is None:
        return
    predictions = get(method.predict(feed.valid_x)).astype(np.float64)
    for curve, each, prediction in zip(curves, data, predictions if len(curves) > 1 else [predictions], strict=True):
        if curve.blew_up_at_step is None and each.valid is not None:
            curve.valid_step.append(step)
            curve.valid_time.append(time.time())
            curve.valid.setdefault("loss", []).append(float(loss.value(prediction, each.valid.targets)))
            curve.valid.setdefault(each.metric, []).append(METRICS[each.metric](prediction, each.valid.targets))
