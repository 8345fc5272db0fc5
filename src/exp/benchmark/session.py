"""A session: combinations that are timed together, block by block in turns, in an order drawn anew for each round.

Everything is repeated with new processes: memory lies otherwise in each. What computes with one thread computes on the same
core as all others of its set, and the next set on another: cores of one machine differ, from moment to moment. Of one
combination there are two workers, which nobody could tell apart: what is found between those two is the noise floor.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from exp.benchmark import machine
from exp.benchmark.bench import BLOCK_SECONDS, MOST_CALLS, Started, Timed, Warm
from exp.benchmark.ceilings import Ceilings
from exp.benchmark.processes import Local, Worker, WorkerFailed
from exp.benchmark.statistics import LEAST_OF_A_STRETCH
from exp.environment import cores
from exp.experiment import Experiment
from exp.problems import Data
from exp.seeds import Generator, generator
from exp.state import State

LEAST_ROUNDS = 2 * LEAST_OF_A_STRETCH
"""Two stretches: without, nobody could say how much the rounds of a process differ, and no floor would be known."""

AUDITS = 3
"""Of every process at most so many timed blocks are kept whole, to be judged: chosen by what no method can know."""

LARGEST_AUDIT_BYTES = 2**28
MOST_SEED = 2**62

Engine = tuple[str, str, str, int]
"""Library, device, precision and threads: what computes, and what a ceiling belongs to."""


@dataclass(frozen=True)
class Audit:
    """A timed block with the state before and after it."""

    timed: Timed
    before: State
    after: State


@dataclass
class Participant:
    """What takes part in a session. `kind` is combination, twin or peer; the lists have an entry for each process."""

    label: str
    experiment: Experiment
    data: Data
    kind: str = "combination"
    started: list[Started] = field(default_factory=list)
    warm: list[Warm] = field(default_factory=list)
    blocks: list[list[Timed]] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    traceback: str = ""
    skipped: str | None = None
    """Why it is not timed at all: too large for this machine."""
    decided: tuple[int, int] = (0, 0)
    """Of how many timed steps that were kept the losses were decided, and how many were judged."""

    @property
    def able(self) -> bool:
        """Whether it takes part (still)."""
        return self.failed is None and self.skipped is None

    @property
    def of_one_core(self) -> bool:
        """Whether it computes on the CPU with one thread."""
        return self.experiment.threads == 1 and self.experiment.device.name == "cpu"

    @property
    def engine(self) -> Engine:
        chosen = self.experiment
        return chosen.method.library, chosen.device.torch_name, chosen.precision.name, chosen.threads


@dataclass
class Session:
    """What was measured: the ceilings of each engine in turn, looks at the machine, and the order of every round."""

    seed: int
    participants: list[Participant]
    ceilings: dict[Engine, list[Ceilings]] = field(default_factory=dict)
    looks: list[tuple[machine.Look, machine.Look]] = field(default_factory=list)
    orders: list[list[list[int]]] = field(default_factory=list)
    cores: list[int | None] = field(default_factory=list)
    """Of every set: where its workers of one thread computed; None where the system chose."""

    @property
    def warnings(self) -> list[str]:
        """What makes the measurement doubtful."""
        operations = [[each.operations_per_second for each in found] for found in self.ceilings.values()]
        return machine.warnings(self.looks, operations, max(each.experiment.threads for each in self.participants))


def measure(
    participants: Sequence[Participant],
    seed: int,
    processes: int,
    seconds: float,
    *,
    isolated: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Session:
    """Time all of them together, `seconds` of timed blocks each, in `processes` sets of new processes.

    One that fails takes no further part, and says why in `failed`.
    """
    session = Session(seed, list(participants))
    first = int(generator(seed, "benchmark", processes).integers(cores()))
    for process in range(processes):
        session.cores.append(machine.quiet_core(first + process) if isolated else None)
        with ExitStack() as stack:
            alive: dict[int, Worker | Local] = {}
            for number, each in enumerate(session.participants):
                if each.failed is not None:
                    continue
                try:
                    alive[number] = (Worker if isolated else Local)(each.experiment, each.data)
                except WorkerFailed as error:
                    each.failed = str(error)
                else:
                    stack.callback(alive[number].close)
            stack.enter_context(_killed_early(alive))
            if isolated:  # they import in parallel
                for worker in alive.values():
                    worker.load()
                for number, worker in list(alive.items()):
                    _attempt(session, alive, number, worker.answer)
                _stay(session, alive)
            if alive:
                _one_set(session, alive, process, seconds / processes)
        progress(process + 1)
    return session


@contextmanager
def _killed_early(alive: dict[int, Any]) -> Iterator[None]:
    """Interrupted, workers end at once, whatever they do."""
    try:
        yield
    except BaseException:
        for worker in alive.values():
            worker.kill()
        raise


def _stay(session: Session, alive: dict[int, Any]) -> None:
    """Those of one thread stay on the set's core, or, where one of them may not, none is said to."""
    for number, worker in list(alive.items()):
        if session.cores[-1] is not None and session.participants[number].of_one_core:
            stayed: list[bool] = []
            _attempt(session, alive, number, partial(worker.do, "stay", session.cores[-1]), stayed)
            if stayed == [False]:
                session.cores[-1] = None


def _one_set(session: Session, alive: dict[int, Any], process: int, seconds: float) -> None:
    """One set of processes: ceilings, start and warm-up one after the other, then the rounds."""
    random = generator(session.seed, "benchmark", process)
    first = machine.look(worker.pid for worker in alive.values())
    seen: set[Engine] = set()
    for number, worker in list(alive.items()):
        if (engine := session.participants[number].engine) not in seen:
            seen.add(engine)
            known = session.ceilings.setdefault(engine, [])
            _attempt(session, alive, number, partial(worker.do, "ceilings"), known)
    for number in random.permutation(list(alive)).tolist():
        each, worker = session.participants[number], alive[number]
        _attempt(session, alive, number, partial(worker.do, "start"), each.started)
        if number in alive:
            _attempt(session, alive, number, partial(worker.do, "warm", _seed(random)), each.warm)
    for number in alive:
        session.participants[number].blocks.append([])
    session.orders.append([])
    audited = set(random.integers(0, LEAST_ROUNDS, 1).tolist())
    while alive and (len(session.orders[-1]) < LEAST_ROUNDS or _timed(session, alive) < seconds * len(alive)):
        order = random.permutation(list(alive)).tolist()
        keep = len(session.orders[-1]) in audited or random.random() < (AUDITS - 1) * BLOCK_SECONDS / seconds
        session.orders[-1].append(order)
        _round(session, alive, order, random, keep=keep)
    for number, worker in list(alive.items()):
        each = session.participants[number]
        _attempt(session, alive, number, partial(worker.do, "finish"), each.memory)
        if number in alive and not each.environment:
            told: list[dict[str, Any]] = []
            _attempt(session, alive, number, partial(worker.do, "environment"), told)
            each.environment = told[0] if told else {}
    session.looks.append((first, machine.look(worker.pid for worker in alive.values())))


def _round(session: Session, alive: dict[int, Any], order: list[int], random: Generator, *, keep: bool) -> None:
    """A timed block of each, in this order. Where one fails, the round does not count for it: it leaves."""
    for number in order:
        each, worker = session.participants[number], alive[number]
        steps, calls, seed = each.warm[-1].block_steps, _calls(each), _seed(random)

        _attempt(session, alive, number, partial(_block, worker, seed, steps, calls), each.blocks[-1])
        if keep and number in alive and _of_this_process(each) < AUDITS:
            timed = each.blocks[-1][-1]
            states: list[tuple[State, State]] = []
            _attempt(session, alive, number, partial(worker.do, "states"), states)
            each.audits += [Audit(timed, *both) for both in states]


def _block(worker: Any, seed: int, steps: int, calls: int) -> Timed:
    worker.do("prepare", seed, steps, calls)
    return worker.timed()


def _calls(each: Participant) -> int:
    """Of the next block: as many as last time, or more where that was far too short by the clock of this process."""
    if not each.blocks[-1]:
        return each.warm[-1].block_calls
    last = each.blocks[-1][-1]
    if last.outside_seconds > BLOCK_SECONDS / 4:
        return last.calls
    return min(max(last.calls, round(last.calls * BLOCK_SECONDS / max(last.outside_seconds, 1e-9))), MOST_CALLS)


def _of_this_process(each: Participant) -> int:
    """How many blocks of the present process are kept already; large states are kept once."""
    weight = sum(array.nbytes for array in each.audits[0].before.named().values()) if each.audits else 0
    if weight > LARGEST_AUDIT_BYTES:
        return AUDITS
    return sum(audit.timed is timed for audit in each.audits for timed in each.blocks[-1])


def _attempt(session: Session, alive: dict[int, Any], number: int, work: Callable[[], Any], into: list | None = None) -> None:
    """Do it; what fails ends the participation."""
    try:
        found = work()
    except WorkerFailed as error:
        each = session.participants[number]
        each.failed, each.traceback = str(error), error.traceback
        alive.pop(number).close()
    else:
        if into is not None:
            into.append(found)


def _timed(session: Session, alive: dict[int, Any]) -> float:
    """Seconds of this set's timed blocks so far, of all that are left, by the clock of this process: theirs may stand still."""
    return sum(block.outside_seconds for number in alive for block in session.participants[number].blocks[-1])


def _seed(random: Generator) -> int:
    return int(random.integers(0, MOST_SEED))
