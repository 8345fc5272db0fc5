"""One step from a probe's state: output, loss and gradients, then an update with slots and a count of its own."""

import numpy as np

from exp.arrays import get
from exp.methods.base import Block, Method
from exp.state import State
from exp.verification.comparison import first_difference, same_bits
from exp.verification.judge import At, Judge, Right
from exp.verification.probes import Params, Probe, slots
from exp.verification.reference import exact
from exp.verification.subject import empty, gradient, reading, reading_error, visible
from exp.verification.tolerance import DRAWS
from exp.verification.update import judge_update


def judge_step(judge: Judge, probe: Probe) -> None:
    """Judge one step from the probe's state, on its rows that are away from the kink."""
    subject, reader = judge.subject, reading(judge.subject.optimizer)
    at = At(probe.name, None, probe.conditioned or not judge.arithmetic.coarse)
    params = {name: subject.cast(value) for name, value in probe.params.items()}
    right = judge.conditioned(probe.name, params, subject.cast(probe.x), subject.cast(probe.y))
    if right is None:
        return
    state = State(params, empty(reader, params), np.array(0, dtype=np.int64))
    method = subject.start(state, reader)
    judge.same_state(at, state, method.export())
    output, loss = judge.step(at, method, state, right.x, right.y, Block(0, 1))
    after = method.export()
    if not judge.same_names(at, state, after):
        return
    _exports_what_it_trains(judge, at, method, state, after, right.x, output)
    grads, unread = gradient(reader, state, after), reading_error(reader, params, judge.arithmetic.storage)
    allowed = right.envelope
    for name, error in unread.items():
        allowed.spread[f"backward/{name}"] = allowed.spread[f"backward/{name}"].maximum(exact(error))
    keys = [key for key in allowed.right if key.startswith("backward/")]  # from the last layer to the first
    judge.compare(at, allowed, {allowed.output: output, "loss/loss": np.asarray(loss)})
    judge.compare(at, allowed, {key: grads[key.partition("/")[2]] for key in keys})
    if all(np.isfinite(grad).all() for grad in grads.values()):
        _judge_own_update(judge, at, probe, params, right, grads, unread)


def _judge_own_update(judge: Judge, at: At, probe: Probe, params: Params, right: Right, grads: Params, unread: Params) -> None:
    """An update by the method's own gradient, which was read with some error."""
    subject, count = judge.subject, probe.count
    right_grads = {name: right.envelope.right[f"backward/{name}"].numpy() for name in params}
    optimizer = visible(subject.optimizer, params, right_grads, decays=probe.decays)
    smallest = max(getattr(optimizer, "eps", 0.0), judge.arithmetic.smallest**0.5 * 1e3)
    given = slots(optimizer.slot_names, right_grads, judge.generator, smallest=smallest)
    state = subject.rounded(State(params, given, np.array(count, dtype=np.int64)))
    method = subject.start(state, optimizer)
    judge.same_state(at, state, method.export())
    judge.step(at, method, state, right.x, right.y, Block(count, 1))
    own = {name: exact(grad) for name, grad in grads.items()}
    ways = [{name: grad + judge.noise.of_size(exact(unread[name])) for name, grad in own.items()} for _ in range(DRAWS)]
    judge_update(judge, at, optimizer, state, method.export(), [own, *ways], own=True)


def _exports_what_it_trains(
    judge: Judge, at: At, method: Method, before: State, after: State, x: np.ndarray, output: np.ndarray
) -> None:
    """If by what is exported nothing has moved, nothing has moved."""
    if all(same_bits(before.params[name], after.params[name]) for name in before.params):
        now = get(method.predict(judge.subject.put(x)))
        if not same_bits(now, output):
            last = list(before.params)[-1]
            judge.add(At(at.probe), "state", last, first_difference(output, now))
