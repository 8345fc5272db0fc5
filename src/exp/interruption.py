"""Being told to stop: Ctrl-C and SIGTERM end a run as KILLED."""

import _thread
import signal
from typing import Any


class Terminated(BaseException):
    """SIGTERM, as an exception: it unwinds like Ctrl-C."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread."""

    def handle(number: int, frame: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handle)


def terminate() -> None:
    """Raise `Terminated` in the main thread, as a SIGTERM would."""
    _thread.interrupt_main(signal.SIGTERM)


def interrupted(error: BaseException) -> bool:
    """Whether this is a request to stop rather than a fault."""
    return isinstance(error, KeyboardInterrupt | Terminated)


def exit_code(error: BaseException) -> int:
    """130 for Ctrl-C, 143 for SIGTERM: 128 and the signal's number."""
    return 143 if isinstance(error, Terminated) else 130
