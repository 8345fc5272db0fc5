"""When a method is warm: a stated rule, on the seconds a step of the blocks that went before."""

from collections.abc import Sequence
from statistics import median

WINDOW = 5
"""Blocks whose median stands for how fast a method is now."""

STABLE = 0.05
"""Two windows in a row whose medians differ by less than this share: warm."""

LEAST_SECONDS, MOST_SECONDS = 0.3, 5.0
"""Warming up takes at least and at most so long (a step that takes longer is waited for)."""


def is_warm(step_seconds: Sequence[float], spent_seconds: float) -> bool:
    """Whether the last WINDOW blocks are as fast as the WINDOW before them, after LEAST_SECONDS."""
    if len(step_seconds) < 2 * WINDOW or spent_seconds < LEAST_SECONDS:
        return False
    before, now = median(step_seconds[-2 * WINDOW : -WINDOW]), median(step_seconds[-WINDOW:])
    return abs(now - before) < STABLE * before
