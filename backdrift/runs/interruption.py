"""Ctrl-C and SIGTERM: both end a command in the same orderly way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SAME = 1.0
"""Seconds in which a second signal counts as the same request: launchers pass on what the terminal has sent already."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Have SIGTERM raise `Terminated`, as Ctrl-C raises `KeyboardInterrupt`.

    Where somebody else handles or ignores the signal, and in threads but the first, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    error: BaseException | None = interrupt
    while error is not None:
        if isinstance(error, Terminated):
            return 128 + signal.SIGTERM
        error = error.__cause__ or error.__context__
    return 128 + signal.SIGINT


@dataclass
class Pending:
    """What was asked for while signals were held back.

    Attributes:
        number: the signal, or None while there was none.
        since: when it came, in seconds of the monotonic clock.
    """

    number: int | None = None
    since: float = 0.0

    def interrupt(self, message: str) -> KeyboardInterrupt:
        """The exception that the signal would have raised."""
        return Terminated(message) if self.number == signal.SIGTERM else KeyboardInterrupt(message)


@contextmanager
def signals_held() -> Iterator[Pending]:
    """Hold Ctrl-C and SIGTERM back, so that what is half done can be brought to an end.

    A second signal, a second or more after the first one, acts at once. In threads but the first nothing is held back:
    Python handles signals in the first.

    Yields:
        What to look at from time to time.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hold(number: int, frame: FrameType | None) -> None:
        if pending.number is None:
            pending.number, pending.since = number, time.monotonic()
        elif time.monotonic() - pending.since >= SAME:
            raise pending.interrupt("")

    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, hold)
        yield pending
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def advising(message: str) -> Iterator[None]:
    """Give an interruption without a message this one: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt):
            raise
        raise type(interrupt)(message) from interrupt
