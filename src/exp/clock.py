"""How long work on a device takes, without waiting for it in between."""

import time
from typing import Any

from exp.arrays import Array, Place


def settled(array: Array) -> Array:
    """The array once it is computed, where its library computes behind the host's back and has no clock of its own (JAX)."""
    getattr(array, "block_until_ready", lambda: None)()
    return array


class Stopwatch:
    """Marks in the order of the work at a place: the host's clock, or on a GPU events among the work that it was given."""

    def __init__(self, place: Place):
        self._kind = place.device.partition(":")[0] if place.library == "torch" else "cpu"

    @property
    def waits(self) -> bool:
        """Whether the host has done the work once the call that asks for it returns."""
        return self._kind == "cpu"

    def mark(self) -> Any:
        """This moment."""
        if self.waits:
            return time.perf_counter()
        import torch

        event = getattr(torch, self._kind).Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, first: Any, last: Any) -> float:
        """From one mark to another. What lies before the last must have been waited for."""
        return last - first if self.waits else first.elapsed_time(last) / 1000
