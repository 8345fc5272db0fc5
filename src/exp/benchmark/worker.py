"""The worker: one combination in a process of its own, told by its parent what to do. `python -m exp.benchmark.worker FD`.

Every order is answered by ("ok", value) or ("failed", sentence, traceback); a timed block first by ("done", None), at its very
end. The clocks are taken before the method's module is imported.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from exp.benchmark import clock  # before the method's own module, which comes with the first order
from exp.benchmark.bench import Bench
from exp.errors import in_a_line

__all__ = ["clock", "serve"]

PR_SET_PDEATHSIG = 1


class Orders:
    """What the parent may order, by name; once loaded, what the bench itself does too."""

    def __init__(self, parent: Connection):
        self._parent, self._held = parent, ExitStack()

    def load(self, path: list[str], experiment: bytes, data: bytes) -> None:
        """Import what the experiment needs, in the parent's import path, and set its conditions for good."""
        from exp.conditions import controlled

        sys.path[:] = path
        self._experiment, self._data = pickle.loads(experiment), pickle.loads(data)
        library, device = self._experiment.method.library, self._experiment.device.torch_name
        self._set = self._held.enter_context(controlled(self._experiment.threads, library, self._experiment.precision, device))
        self._bench = bench = Bench(self._experiment, self._data)
        self.ceilings, self.start, self.warm, self.finish = bench.ceilings, bench.start, bench.warm, bench.finish
        self.prepare, self.ready, self.states = bench.prepare, bench.ready, bench.states
        from exp.environment import environment

        # Before it stays on one core: how many there are belongs to the machine.
        self._environment = environment(device if library == "torch" else None) | {"conditions": self._set}

    def stay(self, core: int) -> bool:
        """Compute on this core only, with all threads that there are; returns whether the system lets it."""
        try:
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
                os.sched_setaffinity(int(thread), [core])
        except OSError:
            return False
        return True

    def environment(self) -> dict[str, Any]:
        """What there is to know of this process, and the conditions that were really set."""
        return self._environment

    def nothing(self) -> None:
        """What an order and its answer take."""

    def go(self) -> Any:
        return self._bench.go(lambda: self._parent.send(("done", None)))


def serve(parent: Connection, orders: Any) -> None:
    """Do what is ordered until the parent is gone."""
    while True:
        try:
            name, arguments = parent.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("ok", getattr(orders, name)(*arguments))
        except (Exception, SystemExit) as error:
            answer = ("failed", failure(error), traceback.format_exc())
        try:
            parent.send(answer)
        except OSError:
            return


def failure(error: BaseException) -> str:
    """What was raised, and where, in a sentence."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{in_a_line(error)} ({Path(where.filename).name} line {where.lineno})"


def end_with_parent() -> None:
    """Let Linux kill this process when its parent is gone, also in the middle of a step: see prctl(2)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    connection = Connection(int(sys.argv[1]))
    serve(connection, Orders(connection))
    sys.stdout.flush()
    os._exit(0)  # to take torch apart in an orderly way costs half a second
