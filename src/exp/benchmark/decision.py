"""What a measured ratio is called, and what limits a step: stated rules, each in a word."""

from dataclasses import dataclass
from math import expm1, log

from exp.benchmark.statistics import Ratio

NONE = "none"

EXPLAINED = 0.5
"""Of a step's time, what its arithmetic or its memory traffic must explain at the machine's ceilings to be what limits it."""

LAUNCH_SECONDS = 0.002
"""For each layer, what starting its operations can take at most. Forward, backward and update are some forty of them, of 10
to 30 µs each where Python starts kernels on a GPU, the slowest way there is: a millisecond, and as much again to be safe."""


@dataclass(frozen=True)
class NoiseFloor:
    """How far apart two independent workers of the same combination were found, and two standard errors more: a log ratio."""

    log_ratio: float

    @classmethod
    def of(cls, twins: Ratio) -> "NoiseFloor":
        return cls(abs(log(twins.ratio)) + 2 * twins.error)

    @property
    def known(self) -> bool:
        """Whether the twins had blocks enough to say anything: their ratio is known to a factor of ten."""
        return self.log_ratio < log(10)

    @property
    def share(self) -> float:
        """As a relative difference: 0.01 is one per cent."""
        return expm1(min(self.log_ratio, 700.0))

    def hides(self, ratio: Ratio) -> bool:
        """Whether a difference is called none: its interval holds 1, or it is no larger than that between equals."""
        return not ratio.certain or abs(log(ratio.ratio)) <= self.log_ratio


def limited_by(step_seconds: float, arithmetic_seconds: float, traffic_seconds: float, layers: int) -> str:
    """`compute`, `memory`, `launch` or `other`: what a step of `step_seconds` is bound by.

    Arithmetic and traffic are what its operations and its bytes would take at this machine's ceilings. Where neither
    explains EXPLAINED of the time, most of it goes to starting operations (Python, dispatch, kernel launches); or, where it is
    more than that can take, to something else: functions of many instructions, a slow kernel, waiting, what is not counted.
    """
    explained = max(arithmetic_seconds, traffic_seconds)
    if explained < EXPLAINED * step_seconds:
        return "launch" if step_seconds - explained <= LAUNCH_SECONDS * layers else "other"
    return "compute" if arithmetic_seconds >= traffic_seconds else "memory"
