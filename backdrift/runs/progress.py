"""The progress of a training or of chains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Shows the loss, the steps per second and the time left.

    Args:
        total: number of steps.
        done: how many of them are done already.
        shown: whether anything is shown; only the first process shows its progress.
        every: seconds between two plain lines.
    """

    def __init__(self, total: int, done: int = 0, shown: bool = True, every: float = 10.0) -> None:
        self.total, self.done, self.shown, self.every = total, done, shown, every
        self.start, self.first, self.last = time.monotonic(), done, time.monotonic()
        self.bar = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.1)

    def __call__(self, step: int, loss: float) -> None:
        """Show that `step` steps are done, with the newest mean loss."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.bar.update(step - self.done)
        elif self.shown and (step == self.total or time.monotonic() - self.last >= self.every):
            self.last = time.monotonic()
            rate = (step - self.first) / (self.last - self.start)
            left = (self.total - step) / rate
            print(f"step {step}/{self.total}  loss {loss:.4g}  {rate:.1f} steps/s  {left:.0f} s left", flush=True)
        self.done = step

    def close(self) -> None:
        """End the bar and leave it on the screen."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def bar(steps: int) -> Iterator[Callable[[int], None]]:
    """A bar of `steps` steps on a terminal, and nothing elsewhere.

    Yields:
        A function to call after each step, with the number of the step.
    """
    with tqdm(total=steps, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()) as shown:

        def advance(_: int) -> None:
            shown.update()

        yield advance
