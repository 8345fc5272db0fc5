"""The checks of the conformance kit: what the contract of `methods.base` asks beside the right numbers.

Each is a function of a `Case` that returns what it saw. It raises `Broken` where the contract is not kept, and `Limit` where
the method says itself that it cannot.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from exp.arrays import get
from exp.conditions import controlled
from exp.in_stack import RUNS, InStack, scaled
from exp.methods.base import Block, Formulas
from exp.seeds import generator
from exp.state import State, stack_states
from exp.verification.case import Case, judge_method
from exp.verification.chain import Chain, judge_steps
from exp.verification.comparison import same_bits
from exp.verification.probes import signed
from exp.verification.reads import reads
from exp.verification.subject import Subject, visible
from exp.verification.verdict import concluded

STEPS = 4


class Broken(Exception):
    """The contract is not kept."""


class Limit(Exception):
    """A thing that the method does not do, and says so."""


@dataclass(frozen=True)
class Start:
    """A conditioned state with slots, a batch plan with a ragged end, and an optimizer that moves the weights visibly."""

    optimizer: Any
    state: State
    x: np.ndarray
    y: np.ndarray
    plan: list[np.ndarray]


def start_of(case: Case) -> Start:
    rows = case.shape.rows
    random = generator(case.seed, "verification", 1)
    probe = signed(replace(case.shape, rows=2 * rows + max(1, rows // 2)), random)
    params = {name: case.subject.cast(value) for name, value in probe.params.items()}
    judge = case.judge(random)
    right = judge.gradient(params, probe.x, probe.y)
    optimizer = visible(case.subject.optimizer, params, right)
    slots = {
        slot: {name: np.abs(random.standard_normal(value.shape)) * np.abs(right[name]).mean() for name, value in params.items()}
        for slot in optimizer.slot_names
    }
    order = random.permutation(len(probe.x))
    plan = [*np.split(order, [rows, 2 * rows]), random.permutation(len(probe.x))[:rows]]
    state = case.subject.rounded(State(params, slots, np.array(2, dtype=np.int64)))
    return Start(optimizer, state, case.subject.cast(probe.x), case.subject.cast(probe.y), plan)


def _trained(subject: Subject, start: Start, state: State, plan: list[np.ndarray], first: int = 0) -> tuple[np.ndarray, State]:
    """The losses of these steps, (steps,), and the state after them."""
    method = subject.start(state, start.optimizer)
    x, y = subject.put(start.x), subject.put(start.y)
    losses = [subject.steps(method, x, y, Block(first + step, 1, rows[None]))[0] for step, rows in enumerate(plan)]
    return np.array(losses), method.export()


def _same(one: tuple[np.ndarray, State], other: tuple[np.ndarray, State]) -> str | None:
    """The first tensor that is not the same bit for bit."""
    pairs = [("loss", *(each[0] for each in (one, other)))]
    pairs += [(name, np.asarray(value), np.asarray(other[1].named()[name])) for name, value in one[1].named().items()]
    return next((name for name, left, right in pairs if not same_bits(left, right)), None)


def deterministic(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    first, second = (_trained(case.subject, start, start.state, start.plan) for _ in range(2))
    if name := _same(first, second):
        raise Broken(f"{name} differs when the same {STEPS} steps are repeated")
    return f"{STEPS} steps repeated: the same bits"


def leaves_inputs_alone(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    subject = case.subject
    method = subject.start(start.state, start.optimizer)
    x, y = subject.put(start.x), subject.put(start.y)
    get(method.predict(x))
    for step, rows in enumerate([None, *start.plan]):
        subject.steps(method, x, y, Block(step, 1, None if rows is None else rows[None]))
    for name, placed, given in (("x", x, start.x), ("y", y, start.y)):
        if not same_bits(get(placed), given):
            raise Broken(f"{name} was changed by a step")
    return "x and y are as they were"


def keeps_the_type(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    subject, dtype = case.subject, case.subject.place.dtype
    method = subject.start(start.state, start.optimizer)
    x, y = subject.put(start.x), subject.put(start.y)
    losses = subject.steps(method, x, y, Block(0, 2))
    found = {"loss": losses, "prediction": get(method.predict(x)), **method.export().named()}
    for name, value in found.items():
        if value.dtype != ("int64" if name == "count" else dtype):
            raise Broken(f"{name} is {value.dtype}, not {dtype}")
    if losses.shape != (2,):
        raise Broken(f"a block of 2 steps gives losses of shape {losses.shape}")
    return f"loss, prediction and state are {dtype}"


def loss_is_before_the_update(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    subject, judge = case.subject, case.judge(generator(case.seed, "verification", 2))
    losses, after = _trained(subject, start, start.state, start.plan[:1])
    x, y = start.x[start.plan[0]], start.y[start.plan[0]]
    before, later = (float(judge.evaluation(state.params, x, y).loss) for state in (start.state, after))
    if abs(losses[0] - before) > abs(losses[0] - later):
        raise Broken(
            f"the loss of a step is {losses[0]:.9g}, that of the updated weights; before the update it is {before:.9g}"
        )
    return f"{losses[0]:.6g} before, {later:.6g} after"


def takes_a_ragged_batch(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    judge = case.judge(generator(case.seed, "verification", 3))
    judge_steps(judge, Chain("ragged", start.optimizer, start.state, start.x, start.y, start.plan), range(STEPS))
    if judge.wrong:
        first = judge.wrong[0]
        raise Broken(f"{first.tensor} is wrong at step {first.step}, of {len(start.plan[first.step or 0])} rows")
    return f"batches of {', '.join(str(len(rows)) for rows in start.plan)} rows are right"


def continues_from_its_export(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    half = STEPS // 2
    whole = _trained(case.subject, start, start.state, start.plan)
    first = _trained(case.subject, start, start.state, start.plan[:half])
    second = _trained(case.subject, start, first[1], start.plan[half:], half)
    if name := _same(whole, (np.concatenate([first[0], second[0]]), second[1])):
        raise Broken(f"{name} differs when a run is stopped after {half} steps and continued from its export")
    return f"stopped after {half} of {STEPS} steps and continued: the same bits"


def trains_stacks(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    """K runs with rates of their own, as one program, are the K single runs."""
    subject = case.subject
    if not subject.method.stacks:
        raise Limit("has a state of its own, so it trains one run at a time")
    optimizers = [replace(start.optimizer, lr=start.optimizer.lr * (1 + run / 4)) for run in range(RUNS)]
    states = [start.state.map(lambda value, run=run: scaled(value, 1 + run / 64)) for run in range(RUNS)]
    method = replace(subject.method)
    each = [optimizer.constants() for optimizer in optimizers]
    constants = {key: np.array([numbers[key] for numbers in each]) for key in each[0]}
    x, y = subject.put(start.x), subject.put(start.y)
    try:
        method.start(Formulas(subject.network, subject.loss, start.optimizer, constants), stack_states(states), subject.place)
        losses = get(method.steps(x, y, Block(0, 2), subject.place))
        after = method.export()
    except NotImplementedError:
        raise Limit("trains one run at a time: a stack raises NotImplementedError") from None
    except Exception as error:
        raise Broken(f"says that it trains stacks, and one raises {type(error).__name__}: {error}") from None
    if losses.shape != (2, RUNS):
        raise Broken(f"says that it trains stacks, and the losses of one have shape {losses.shape}, not (2, {RUNS})")
    for run, (optimizer, state) in enumerate(zip(optimizers, states, strict=True)):
        single = subject.start(state, optimizer)
        right = get(single.steps(x, y, Block(0, 2), subject.place))
        pairs = [("loss", losses[:, run], right)]
        pairs += [(name, after.named()[name][run], value) for name, value in single.export().named().items()]
        for name, found, expected in pairs:
            apart = float(np.linalg.norm(np.asarray(found, float) - expected)) / (float(np.linalg.norm(expected)) or 1.0)
            # A sum in another order, twice: forward and backward.
            if not apart <= 8 * case.arithmetic.product(max(len(start.x), *case.widths)):
                raise Broken(f"{name} of run {run} in a stack of {RUNS} is {apart:.1e} from that of the single run")
    stacked = replace(case, subject=replace(subject, method=InStack(inner=subject.method)))
    judge = stacked.judge(generator(case.seed, "verification", 3))
    judge_method(stacked, judge)
    if judge.wrong:
        raise Broken(f"a run in a stack is {concluded(stacked, judge).line}")
    return f"{RUNS} runs stacked are the {RUNS} single runs, and one of them is equivalent too"


def never_waits(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    """No value is read from the device, and nothing waits for it, between two losses."""
    subject = case.subject
    if subject.method.library != "torch":
        return f"{subject.method.library} is not watched: what waits for a device is known of torch alone"
    method = subject.start(start.state, start.optimizer)
    x, y = subject.put(start.x), subject.put(start.y)
    method.step(x, y)  # what is only done once does not count
    with reads(subject.place.device) as found:
        for _ in range(2):
            method.step(x, y)
    if found:
        raise Broken(f"a step reads values from the device ({', '.join(sorted(set(found)))}): the host waits for it each time")
    return "a step reads nothing from the device"


def goes_to_a_worker(case: Case, start: Start, conditions: tuple[Any, ...]) -> str:
    """Pickled to a fresh process, it does the same steps there."""
    try:
        payload = pickle.dumps((case.subject, start, conditions))
    except Exception as error:
        raise Broken(f"cannot be pickled: {error}") from None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_in_worker, payload).result()
    if name := _same(_trained(case.subject, start, start.state, start.plan), there):
        raise Broken(f"{name} differs when the same steps are done in another process")
    return "another process gives the same bits"


def _in_worker(payload: bytes) -> tuple[np.ndarray, State]:
    subject, start, conditions = pickle.loads(payload)
    with controlled(*conditions):
        return _trained(subject, start, start.state, start.plan)


CHECKS: dict[str, Callable[[Case, Start, tuple[Any, ...]], str]] = {
    "determinism": deterministic,
    "inputs untouched": leaves_inputs_alone,
    "type kept": keeps_the_type,
    "loss before update": loss_is_before_the_update,
    "ragged batch": takes_a_ragged_batch,
    "stop and continue": continues_from_its_export,
    "stacked runs": trains_stacks,
    "no synchronisation": never_waits,
    "worker process": goes_to_a_worker,
}
