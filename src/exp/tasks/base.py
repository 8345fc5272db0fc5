"""The contract of a task."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from exp.claims import Claim
from exp.experiment import Experiment
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder


@dataclass(frozen=True)
class RecordedConfig:
    """The resolved configuration of a recorded run, the choices of its groups, and its name."""

    config: dict[str, Any]
    choices: dict[str, str]
    name: str


@dataclass(kw_only=True)
class Task(abc.ABC):
    """What to do with an experiment."""

    @abc.abstractmethod
    def __call__(self, experiment: Experiment) -> int:
        """Do it; returns the exit code. Raises `InputError` where it could not start."""

    def recorded(self, runs: str) -> RecordedConfig | None:
        """What a run under `runs` recorded, to be used in place of what was composed; None: what was composed."""
        return None


@dataclass(frozen=True)
class Group:
    """Runs that are done together, by their numbers in a list of runs; and the rule by which they are."""

    runs: list[int]
    rule: str = ""


@dataclass(frozen=True)
class Table:
    """What is printed of runs: headings and cells. `metrics` are the names of the numbers in it, the one to rank by first."""

    columns: list[str]
    rows: list[list[str]]
    metrics: list[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Member:
    """A checked run that is to be done: the arguments of `RunTask.record` for it."""

    experiment: Experiment
    data: Data
    claim: Claim | None = None
    status: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunTask(Task):
    """A task that leaves one run for each experiment: a sweep may do it once for each combination.

    `kind` is its name in every record; `undisturbed` says that nothing else may run beside it: no launcher is given it.
    """

    kind: ClassVar[str]
    undisturbed: ClassVar[bool] = False

    @abc.abstractmethod
    def record(
        self, experiment: Experiment, data: Data, report: Report, claim: Claim | None = None, **status: Any
    ) -> RunFolder:
        """Do it for a checked experiment; returns the folder, whatever became of the run. `status` goes into its status.

        A run of a sweep comes with its `claim`; without one a new folder is made.
        """

    def groups(
        self, runs: Sequence[tuple[Experiment, Data]], fuse: str, *, elsewhere: bool = False, workers: int = 1
    ) -> list[Group]:
        """Which runs of a sweep are done together, by `record_together`: all of them, each in one group.

        `fuse` is `sweep.fuse`; `elsewhere`: they are done on machines unknown to this one; `workers`: so many groups at once.
        """
        return [Group([number]) for number in range(len(runs))]

    def record_together(self, members: Sequence[Member], report: Report) -> list[RunFolder]:
        """Do the runs of a group; returns their folders, whatever became of each."""
        return [self.record(member.experiment, member.data, report, member.claim, **member.status) for member in members]

    @abc.abstractmethod
    def table(self, statuses: list[dict[str, Any]], first: Sequence[str]) -> Table:
        """The table of runs that ended, best first. Its columns begin with `first`: "run", or what tells a single run."""

    def concluded(self, statuses: list[dict[str, Any]], folder: RunFolder) -> list[str]:
        """Leave in a sweep's `folder` what is to be shown of all its runs that ended; returns what is said of it."""
        return []

    @abc.abstractmethod
    def exit_code(self, statuses: list[dict[str, Any]]) -> int:
        """The exit code of runs that ended, failed ones left out."""


class Ready(NamedTuple):
    """A run that was checked and can be done: what it is, what is done with it, and its data."""

    experiment: Experiment
    task: RunTask
    data: Data
