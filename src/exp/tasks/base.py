"""The contract of a task."""

import abc
from dataclasses import dataclass
from typing import ClassVar

from exp.experiment import Experiment


@dataclass(kw_only=True)
class Task(abc.ABC):
    """What to do with an experiment. `trains` says that a sweep may do it once for each combination."""

    trains: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, experiment: Experiment) -> int:
        """Do it; returns the exit code. Raises `InputError` where it could not start."""
