"""How far a long computation is, and how long it takes yet: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Shows on standard error how much is done, how fast it goes, and the time left. It is a context manager.

    On a terminal it is a bar. Elsewhere it is a plain line every few seconds, so that short work is silent.

    Args:
        what: is being done, such as "sample".
        total: how much there is to do.
        unit: what is counted, such as "step".
        done: how much is done already. The speed does not count it.
        shown: whether anything is shown; of several processes only the first shows its progress.
        every: seconds between two plain lines.
    """

    def __init__(
        self, what: str, total: int, unit: str = "sample", done: int = 0, shown: bool = True, every: float = 10.0
    ) -> None:
        self.what, self.total, self.unit, self.shown, self.every = what, total, unit, shown, every
        self.done, self.skipped = float(done), float(done)
        self.start = self.last = time.monotonic()
        self.bar = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, smoothing=0.1)

    def __call__(self, done: float, note: str = "", total: int | None = None) -> None:
        """Show that so much is done.

        Args:
            done: how much in all.
            note: something to show beside it, such as the newest loss.
            total: how much there is to do, where that was not known before.
        """
        self.done = done
        if total is not None and total != self.total:
            self.total = total
            if self.bar is not None:
                self.bar.total = total
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(int(done) - self.bar.n)
        elif self.shown and time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(self.line(self.last - self.start, note), file=sys.stderr, flush=True)

    def advance(self, more: float = 1.0) -> None:
        """Show that so much more is done."""
        self(self.done + more)

    def skip(self, more: float) -> None:
        """Show that so much more was done before, by an earlier command. The speed does not count it."""
        self.skipped += more
        self(self.done + more)

    def line(self, seconds: float, note: str = "") -> str:
        """The plain line, `seconds` after the start."""
        rate = (self.done - self.skipped) / max(seconds, 1e-9)
        speed = ""
        if rate > 0:
            left = tqdm.format_interval((self.total - self.done) / rate)
            speed = f"  {rate:.3g} {self.unit}s/s, {left} left"
        return f"{self.what}: {int(self.done)} of {self.total} {self.unit}s{speed}{f'  {note}' if note else ''}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the bar and leave it on the screen."""
        if self.bar is not None:
            self.bar.close()
