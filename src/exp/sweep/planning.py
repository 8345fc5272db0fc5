"""The plan of a sweep: every run composed and checked before the first begins, and what became of it earlier."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from exp.claims import Claims
from exp.config_errors import as_typed, explained
from exp.configuration import flat_values, instantiate
from exp.errors import InputError
from exp.experiment import Experiment, Unsupported
from exp.identity import identity, task_identity
from exp.naming import labels
from exp.problems import Data
from exp.sweep.specification import Setting, Sweep, excluded
from exp.tasks.base import Ready, RunTask

NEW, RETRY, RUNNING, DONE, FAILED = "new", "retry", "running", "done", "failed"
UNSUPPORTED, EXCLUDED, INVALID = "unsupported", "excluded", "invalid"


@dataclass(frozen=True)
class Rule:
    """Which runs that were tried before are to be tried again.

    `since`: of older attempts the sweep takes no notice; `began`: what failed after it, failed since somebody works on the
    sweep without a break, and is not tried again by who joins. Clocks differ: what this `invocation` did it knows by name.
    """

    rerun: str
    since: float
    began: float
    invocation: str

    def again(self, status: dict[str, Any]) -> bool:
        """Whether the run of an attempt that is over is to be done once more."""
        if status["status"] == "KILLED":
            return True
        if status.get("invocation") == self.invocation:
            return False
        if status["started"] < self.since:
            return True
        return status["status"] == "FAILED" and self.rerun != "missing" and status["ended"] < self.began


@dataclass
class Entry:
    """One run of a plan, recorded as `title`. `key` tells it from all others; those that cannot be done have none.

    `died`: so many runs were trained together in its last attempt, whose process ended without a word; 0: it did not.
    """

    name: str
    overrides: list[str]
    factors: dict[str, Any] = field(default_factory=dict)
    state: str = NEW
    reason: str = ""
    key: str = ""
    title: str = ""
    ready: Ready | None = None
    error: InputError | None = None
    died: int = 0


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, in order; `swept` are the keys in which they differ."""

    entries: list[Entry]
    swept: list[str]

    @property
    def runs(self) -> list[Entry]:
        """Those that can be done."""
        return [entry for entry in self.entries if entry.key]

    @property
    def first(self) -> Ready:
        """The first that can be done; it is kept as long as it was not done."""
        ready = self.runs[0].ready
        assert ready is not None
        return ready

    def count(self) -> str:
        """How many there are in each state."""
        counts = Counter(entry.state for entry in self.entries)
        order = (NEW, RETRY, RUNNING, DONE, FAILED, EXCLUDED, UNSUPPORTED, INVALID)
        return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


Compose = Callable[[list[str]], tuple[Any, dict[str, Any]]]
"""From overrides to a configuration and the choices of its groups."""


def plan(compose: Compose, constants: list[str], settings: list[Setting], sweep: Sweep, *, elsewhere: bool = False) -> Plan:
    """Compose and check every setting, with the `constants` that all have. Runs of one problem share its data.

    `elsewhere`: they run on other machines, whose devices are not known here. Raises `InputError` for two that are one.
    """
    swept = _differing(settings)
    loaded: dict[str, Data] = {}
    entries = [_entry(constants, setting, swept) for setting in settings]
    composed: list[tuple[Any, dict[str, Any]] | None] = []
    for entry in entries:
        found = None
        with _noting(entry), explained(entry.overrides):
            found = compose(entry.overrides)
        composed.append(found)
    _exclude(sweep, settings, entries, composed)
    for entry, found in zip(entries, composed, strict=True):
        if entry.state == NEW and found is not None:
            with _noting(entry):
                _check(entry, *found, swept, loaded, elsewhere)
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.key and entry.key in seen:
            raise InputError("sweep", entry.name, f"is the same run as {seen[entry.key]}; give every combination once")
        seen[entry.key] = entry.name
    return Plan(entries, swept)


def _entry(constants: list[str], setting: Setting, swept: list[str]) -> Entry:
    typed = [f"{key}={value}" for key, value in setting.values.items()]
    told = [f"{key}={value}" for key, value in setting.values.items() if _bare(key) in swept]
    overrides = [*constants, *typed]
    return Entry(" ".join(labels(told, swept)) or " ".join(labels(overrides)) or "run", overrides)


@contextmanager
def _noting(entry: Entry) -> Iterator[None]:
    """What keeps a run from being done is noted, and the others are looked at too."""
    try:
        yield
    except Unsupported as reason:
        entry.state, entry.reason = UNSUPPORTED, reason.problem
    except InputError as error:
        entry.state, entry.reason, entry.error = INVALID, str(error), error


def _exclude(sweep: Sweep, settings: list[Setting], entries: list[Entry], composed: list[Any]) -> None:
    """Set apart the runs for which a condition of the sweep holds."""
    if not sweep.exclude and not sweep.union:
        return
    rows = [found and flat_values(*found) for found in composed]
    names = list(dict.fromkeys(name for row in rows if row for name in row))
    for setting, entry, row in zip(settings, entries, rows, strict=True):
        if row and (condition := excluded(sweep, setting, row, names)) is not None:
            entry.state, entry.reason = EXCLUDED, condition


def _differing(settings: list[Setting]) -> list[str]:
    """The keys that have several values, in the order in which they come."""
    values: dict[str, set[str]] = {}
    for setting in settings:
        for key, value in setting.values.items():
            values.setdefault(key.lstrip("+"), set()).add(value)
    lacking = {key for key in values if any(key not in map(_bare, setting.values) for setting in settings)}
    return [key for key, found in values.items() if len(found) > 1 or key in lacking]


def _bare(key: str) -> str:
    return key.lstrip("+")


def _check(
    entry: Entry, config: Any, choices: dict[str, Any], swept: list[str], loaded: dict[str, Data], elsewhere: bool
) -> None:
    experiment, task = instantiate(config, choices, entry.overrides)
    if not isinstance(task, RunTask):
        raise InputError("task", choices["task"], "cannot be swept; leave -m out")
    with as_typed(entry.overrides):
        problem = repr(experiment.problem)
        loaded[problem] = data = experiment.check(loaded.get(problem), elsewhere=elsewhere)
    if not elsewhere:
        experiment.resolve_device()
    entry.title = experiment.name = f"{experiment.name} {entry.name}" if experiment.config["name"] else entry.name
    entry.factors = {key: factor(experiment, key) for key in swept}
    entry.key = task_identity(identity(experiment, data.digest), task)
    entry.ready = Ready(experiment, task, data)


def factor(experiment: Experiment, key: str) -> Any:
    """The value of a key: a choice by its name."""
    if key in experiment.choices:
        return experiment.choices[key]
    node: Any = experiment.config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def look_back(entries: Iterable[Entry], claims: Claims, rule: Rule) -> None:
    """Set the state of every run that was tried before."""
    for entry in entries:
        last = claims.latest(entry.key)
        status = last.status() if last else {}
        if last is None or not status or status["started"] < rule.since:
            entry.state = NEW
        elif status["status"] == "RUNNING":
            entry.state = RUNNING if last.alive else RETRY
            entry.reason = f"{'in' if last.alive else 'killed in'} {last.path}"
            entry.died = 0 if last.alive else status.get("together", 1)
        elif rule.again(status):
            entry.state, entry.reason = RETRY, f"{status['status'].lower()}{_because(status)}"
            entry.died = status.get("together", 1) if status.get("died") else 0
        else:
            entry.state = DONE if status["status"] == "FINISHED" else FAILED
            entry.reason = str(last.path) if entry.state == DONE else f"{_because(status)[2:]}; sweep.rerun=failed tries again"


def _because(status: dict[str, Any]) -> str:
    return f": {status['error']}" if status.get("error") else ""


def new_name() -> str:
    """What tells this invocation from others."""
    return f"{time.time():.3f}-{secrets.token_hex(3)}"
