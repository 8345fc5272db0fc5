"""What a run has measured: its losses, evaluations and times."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Curve:
    """What a run has measured so far. Times are host seconds; `train_time` is the Unix time at which a loss was read."""

    train_loss: list[float] = field(default_factory=list)
    train_time: list[float] = field(default_factory=list)
    valid_step: list[int] = field(default_factory=list)
    valid: dict[str, list[float]] = field(default_factory=dict)
    valid_time: list[float] = field(default_factory=list)
    block_steps: list[int] = field(default_factory=list)
    block_seconds: list[float] = field(default_factory=list)
    rows_digest: str | None = None
    blew_up_at_step: int | None = None
    first_not_finite: str | None = None

    @property
    def first_step_seconds(self) -> float:
        return self.block_seconds[0]

    @property
    def step_seconds(self) -> float:
        """The median over all steps but the first, each taken as its block's mean."""
        means = np.repeat(np.divide(self.block_seconds, self.block_steps), self.block_steps)
        return float(np.median(means[1:] if len(means) > 1 else means))

    @property
    def train_seconds(self) -> float:
        """Time in training steps, evaluation not included."""
        return sum(self.block_seconds)

    def arrays(self) -> dict[str, np.ndarray]:
        """As stored: `train/loss` of step 0, 1, …; `valid/…` after `valid/step` updates; `…/time` in Unix seconds."""
        arrays = {"train/loss": np.array(self.train_loss), "train/time": np.array(self.train_time)}
        if self.valid_step:
            arrays |= {"valid/step": np.array(self.valid_step), "valid/time": np.array(self.valid_time)}
            arrays |= {f"valid/{name}": np.array(values) for name, values in self.valid.items()}
        return arrays
