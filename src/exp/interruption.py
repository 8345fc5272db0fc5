"""Being told to stop: Ctrl-C and SIGTERM end a run as KILLED."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(BaseException):
    """SIGTERM, as an exception: it unwinds like Ctrl-C."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread."""

    def handle(number: int, frame: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handle)


@contextmanager
def told_first(act: Callable[[], None]) -> Iterator[None]:
    """Meanwhile the first Ctrl-C or SIGTERM only calls `act`, and is raised at the end; a second is raised at once.

    For waiting for other processes, which are told to end by `act` and then do.
    """
    told: list[int] = []

    def handle(number: int, frame: Any) -> None:
        told.append(number)
        act()
        if len(told) > 1:
            raise _EXCEPTIONS[number]

    before = {number: signal.signal(number, handle) for number in _EXCEPTIONS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise _EXCEPTIONS[told[0]]


_EXCEPTIONS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def end_by_sigterm_alone() -> None:
    """In a worker: Ctrl-C in the terminal is for the sweeper, which tells its runs to end; SIGTERM raises `Terminated`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_sigterm()


def terminate() -> None:
    """Send SIGTERM to the main thread: it raises `Terminated` there, also out of a call that waits."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


def interrupted(error: BaseException) -> bool:
    """Whether this is a request to stop rather than a fault."""
    return isinstance(error, KeyboardInterrupt | Terminated)


def exit_code(error: BaseException) -> int:
    """130 for Ctrl-C, 143 for SIGTERM: 128 and the signal's number."""
    return 143 if isinstance(error, Terminated) else 130
