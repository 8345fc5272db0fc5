"""The parent's end of a worker: orders and answers, in another process or (`isolated` false) in this one."""

import copy
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

from exp.benchmark import clock
from exp.benchmark.bench import Bench, Timed
from exp.conditions import controlled
from exp.environment import environment
from exp.experiment import Experiment
from exp.problems import Data

ENDING_SECONDS = 5.0


class WorkerFailed(Exception):
    """A worker could not do what it was ordered. `traceback` is its own."""

    def __init__(self, sentence: str, traceback: str = ""):
        super().__init__(sentence)
        self.traceback = traceback


class Worker:
    """A combination in a process of its own."""

    def __init__(self, experiment: Experiment, data: Data):
        sent = _pickled(experiment), pickle.dumps(data)
        self._here, there = Pipe()
        command = [sys.executable, "-m", "exp.benchmark.worker", str(there.fileno())]
        # A group of its own: Ctrl-C in the terminal is for the parent, which ends its workers. What a method prints is lost.
        self._process = subprocess.Popen(command, pass_fds=[there.fileno()], stdout=subprocess.DEVNULL, process_group=0)
        there.close()
        self._sent = sent

    @property
    def pid(self) -> int | None:
        """Of its process, where it is another one than this."""
        return self._process.pid

    def load(self) -> None:
        """The first order: import what the combination needs."""
        self.send("load", list(sys.path), *self._sent)

    def send(self, name: str, *arguments: Any) -> None:
        """Give an order, and do not wait."""
        with suppress(OSError):  # that it died, says the answer
            self._here.send((name, arguments))

    def answer(self) -> Any:
        """What the latest order gave. Raises `WorkerFailed`."""
        try:
            kind, value, *traceback = self._here.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            signal = f"by signal {-code} (killed by the system, perhaps for its memory?)"
            raise WorkerFailed(f"its process died {signal if code < 0 else f'with code {code}'}") from None
        if kind == "failed":
            raise WorkerFailed(value, *traceback)
        return value

    def do(self, name: str, *arguments: Any) -> Any:
        """Give an order and wait for what it gives. Raises `WorkerFailed`."""
        self.send(name, *arguments)
        return self.answer()

    def timed(self) -> Timed:
        """The block that was prepared, with this process's clock beside the worker's own."""
        began = clock.seconds()
        self.do("nothing")
        exchange = clock.seconds() - began
        self.do("ready")
        began = clock.seconds()
        self.do("go")
        outside = clock.seconds() - began
        return replace(self.answer(), outside_seconds=outside, exchange_seconds=exchange)

    def kill(self) -> None:
        """In the middle of whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._here.close()
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Local:
    """A combination in this process: the same orders."""

    pid = None

    def __init__(self, experiment: Experiment, data: Data):
        # A copy: two of the same combination have a method each.
        self._experiment: Experiment = pickle.loads(_pickled(experiment))
        self._bench = Bench(self._experiment, data)
        self._outcome: Any = None

    def load(self) -> None:
        """Nothing: what it needs is imported here."""

    def send(self, name: str, *arguments: Any) -> None:
        self._order = name, arguments

    def answer(self) -> Any:
        name, arguments = self._order
        experiment, library = self._experiment, self._experiment.method.library
        device = experiment.device.torch_name
        with controlled(experiment.threads, library, experiment.precision, device) as conditions:
            if name == "environment":
                return environment(device if library == "torch" else None) | {"conditions": conditions}
            try:
                return getattr(self._bench, name)(*arguments)
            except (Exception, SystemExit) as error:
                import traceback

                from exp.benchmark.worker import failure

                raise WorkerFailed(failure(error), traceback.format_exc()) from None

    def do(self, name: str, *arguments: Any) -> Any:
        self.send(name, *arguments)
        return self.answer()

    def timed(self) -> Timed:
        ends: list[float] = []
        self.do("ready")
        began = clock.seconds()
        found = self.do("go", lambda: ends.append(clock.seconds()))
        return replace(found, outside_seconds=ends[0] - began)

    def kill(self) -> None:
        """Nothing is left to end."""

    def close(self) -> None:
        """Nothing is left to end."""


def _pickled(experiment: Experiment) -> bytes:
    """An experiment for another process, without the seed by which blocks are chosen to be judged.

    Raises `WorkerFailed` for parts that no other process can import.
    """
    sent = copy.copy(experiment)
    sent.config = {key: value for key, value in experiment.config.items() if key != "benchmark"}
    try:
        return pickle.dumps(sent)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        problem = f"cannot be sent to a process of its own ({error}); put its class into a module beside its YAML"
        raise WorkerFailed(f"method={experiment.choices['method']} {problem}") from None
