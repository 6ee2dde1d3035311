"""The processes that a launcher has started for one command, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from backdrift.runs.device import AUTO, device_named
from backdrift.runs.processes import number_of_processes

MEETING = timedelta(minutes=10)
"""How long a process waits at the start for the others to be there."""

PATIENCE = timedelta(days=7)
"""How long it then waits for their results, as they may have a slower device. One that ends is noticed at once."""

KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (TypeError, FloatingPointError, OSError)}
"""Errors that keep their kind in the other processes. All others are a `ValueError` there."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work on one command together. Each of them runs the command from its start.

    They talk through gloo, on the hosts' memory, whatever the devices are. Results go through files in the run folder.

    Attributes:
        rank: the number of this process, from 0.
        size: how many processes there are.
        channel: through which they talk, or None for one process.
    """

    rank: int = 0
    size: int = 1
    channel: dist.ProcessGroup | None = None

    @classmethod
    def join(cls) -> ProcessGroup:
        """The processes that torchrun, or a launcher that sets the same variables, has started.

        Raises:
            ValueError: if the launcher has not said where the processes meet.
            ConnectionError: if some of them do not come.
        """
        size = number_of_processes()
        if size == 1:
            return cls()
        try:
            dist.init_process_group("gloo", timeout=MEETING)
            channel = dist.new_group(backend="gloo", timeout=PATIENCE)
        except ValueError as error:
            raise ValueError(
                f"WORLD_SIZE={size}: expected the variables that torchrun sets for each process ({error})"
            ) from error
        except RuntimeError as error:
            raise ConnectionError(f"the {size} processes of this command do not meet ({error})") from error
        return cls(dist.get_rank(), dist.get_world_size(), cast(dist.ProcessGroup, channel))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that shows the progress and writes the results."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process, by the value of the key `device`. Each process of a machine takes its own.

        Raises:
            ValueError: if there is no such device, a number is given, or the machine has fewer devices than processes.
        """
        found = device_named(name)
        if self.size == 1 or found.type == "cpu":
            return found
        if found.index is not None:
            raise ValueError(
                f"device={name}: expected a device without a number, as each of {self.size} processes takes its own"
            )
        own, count = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
        if own >= count:
            raise ValueError(
                f"device={name}: expected at most {count} processes on this machine, as it has {count} of "
                f"{found.type}; this is process {own + 1}"
            )
        device = torch.device(found.type, own)
        if name == AUTO or found.type == "cuda":
            torch.accelerator.set_device_index(own)  # for code that says "cuda" without a number
        return device

    def from_first(self, compute: Callable[[], Result]) -> Result:
        """What the first process computes, in all of them. The others wait for it.

        Raises:
            ValueError, OSError, TypeError, FloatingPointError: in all processes, what `compute` raises in the first.
        """
        if self.size == 1:
            return compute()
        box: list[object] = [None]
        with self.together():
            if self.is_first:
                box[0] = compute()
        with _answering():
            dist.broadcast_object_list(box, group=self.channel)
        return cast(Result, box[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end until all processes are there. An error in one of them is raised in all.

        Raises:
            ConnectionError: if another process has ended, for instance because it was killed.
        """
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            mine = error
        if self.size == 1:
            return
        said: list[tuple[str, str] | None] = [None] * self.size
        with _answering():
            dist.all_gather_object(said, None if mine is None else (_kind(mine), str(mine)), group=self.channel)
        if mine is not None:
            raise mine
        for kind, text in filter(None, said):
            raise KINDS.get(kind, ValueError)(text)

    def leave(self) -> None:
        """Let go of the other processes."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _kind(error: Exception) -> str:
    """The name in `KINDS` of the kind of an error, or "" where it has none there."""
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "")


@contextmanager
def _answering() -> Iterator[None]:
    """Turn the error by which gloo says that another process is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this command has ended before its part was done; the finished batches are kept, and "
            "the same command goes on from there"
        ) from error


ALONE = ProcessGroup()
"""One process."""
