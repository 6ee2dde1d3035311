"""How many processes a launcher has started, and the one launcher that starts fewer than it was asked for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

RANKS = ("RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which torchrun and the MPI launchers tell a process that it is one of several."""

SHARED = ("train", "resume", "sample", "likelihood", "information", "restore")
"""Commands whose work several processes share."""


def number_of_processes() -> int:
    """The number of processes that work together, as torchrun tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the first of the processes that work together, the one that speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def require_shared(command: str) -> None:
    """Refuse several processes for a command whose work they do not share: each would do the whole of it.

    Raises:
        ValueError: naming the commands that several processes share.
    """
    size = number_of_processes()
    if size > 1 and command not in SHARED:
        raise ValueError(f"{command}: expected one process, got {size}; several share {', '.join(SHARED)}")


def require_all_processes(arguments: Sequence[str]) -> None:
    """Refuse to train alone where several processes were asked for.

    On CPUs `accelerate launch --num_processes N` starts one process. It sets ACCELERATE_USE_CPU and, where N is
    above 1, MASTER_ADDR, but neither a rank nor a number of processes.

    Args:
        arguments: our command line, for the advice.

    Raises:
        ValueError: with the command that starts several processes.
    """
    launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if launched and not any(name in os.environ for name in RANKS) and _on_cpu():
        line = shlex.join(["torchrun", "--nproc_per_node", "2", "-m", "backdrift", *arguments])
        raise ValueError(
            "accelerate launch starts one process on CPUs, whatever --num_processes asks for; "
            f"torchrun starts several: {line}"
        )


def _on_cpu() -> bool:
    """Whether accelerate was told to take CPUs, or there is nothing else."""
    if os.environ["ACCELERATE_USE_CPU"].lower() == "true":
        return True
    import torch  # takes seconds, and only this question needs it here

    return not torch.accelerator.is_available()
