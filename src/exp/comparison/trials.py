"""The runs that are compared, read from their folders."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from exp.naming import is_seed, setting_name
from exp.run_folder import RunFolder


@dataclass
class Trial:
    """One run of a comparison. What a plan has not begun yet has no folder and an empty status.

    `factors` are the keys by which it was chosen, and its values of them.
    """

    name: str
    factors: dict[str, Any]
    folder: RunFolder | None
    status: dict[str, Any]

    @property
    def path(self) -> str:
        return str(self.folder.path) if self.folder else "–"

    @property
    def state(self) -> str:
        """`planned`, `running`, `finished`, `blew up`, `failed` or `killed`."""
        if self.status.get("status") == "FINISHED" and self.status.get("blew_up_at_step") is not None:
            return "blew up"
        return self.status.get("status", "planned").lower()

    @property
    def method(self) -> str:
        return self.choices.get("method", self.name)

    @property
    def choices(self) -> dict[str, str]:
        return self.status.get("choices", {})

    @property
    def metrics(self) -> dict[str, float]:
        return self.status.get("metrics", {})

    @property
    def setting(self) -> str:
        """What it is apart from its seed: the label of its other factors."""
        return setting_name(self.factors) or self.method

    @property
    def seed(self) -> tuple[Any, ...]:
        """The values of its seeds: runs of two settings with the same are a pair."""
        return tuple(value for key, value in self.factors.items() if is_seed(key))

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.folder.read_json("environment.json") if self.folder else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty for a run that has none yet."""
        return self.folder.config() if self.folder else {}

    @cached_property
    def curve(self) -> dict[str, np.ndarray]:
        return self.folder.curve() if self.folder else {}

    @property
    def losses(self) -> np.ndarray:
        """`train/loss` of step 0, 1, …, each before its update, (steps,)."""
        return self.curve.get("train/loss", np.empty(0))

    @property
    def seconds(self) -> np.ndarray:
        """Seconds since the first step began at which each loss was known, (steps,).

        Losses are read in blocks: within a block the steps are taken as equally long.
        """
        return seconds_of(self.curve.get("train/time", np.empty(0)), self.metrics.get("time/first_step_seconds", 0.0))


def seconds_of(times: np.ndarray, first: float) -> np.ndarray:
    """Unix times at which losses were read, (steps,), as seconds since the first step began; it took `first` seconds."""
    if not len(times):
        return times
    ends = np.flatnonzero(np.append(np.diff(times) > 0, True))  # the last step of each block
    known = np.concatenate([[times[0] - first], times[ends]])
    return np.interp(np.arange(1, len(times) + 1), np.concatenate([[0], ends + 1]), known) - known[0]
