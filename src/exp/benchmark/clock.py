"""The clocks, as they were when this module was imported: before any method's own module, which may replace those of `time`."""

from time import perf_counter_ns as _now
from time import process_time_ns as _computed

_clocks = {"host": _now, "processor": _computed}


def seconds() -> float:
    """Of the monotonic clock of the host."""
    return _clocks["host"]() * 1e-9


def processor_seconds() -> float:
    """That all threads of this process have computed so far."""
    return _clocks["processor"]() * 1e-9
