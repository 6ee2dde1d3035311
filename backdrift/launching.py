"""Several processes on CPUs, where `accelerate launch` was asked for them and started one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def asked() -> int:
    """How many processes `accelerate launch --num_processes N --cpu` was to start, 1 where it did or was not asked.

    On CPUs it starts several through MPI alone, and else one (accelerate 1.15, `simple_launcher`), whose environment
    names a MASTER_ADDR to meet at but neither a rank nor a number: that is on the command line of our parent, or in
    the config that it read.
    """
    ranks = ("RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    met = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if not met or any(name in os.environ for name in ranks):
        return 1

    import psutil
    import torch

    if os.environ["ACCELERATE_USE_CPU"].lower() != "true" and torch.accelerator.is_available():
        return 1
    try:
        line = psutil.Process().parent().cmdline()
    except (AttributeError, psutil.Error):
        return 1
    return number(line)


def number(line: Sequence[str]) -> int:
    """`--num_processes` of a command line of `accelerate launch`, or of the config it names; 1 for any other line."""
    launchers = ("launch", "accelerate-launch", "accelerate.commands.launch")
    starts = [k for k, word in enumerate(line) if Path(word).name in launchers]
    if not starts:
        return 1

    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    options = launch_command_parser().parse_args(list(line[starts[0] + 1 :]))
    if options.num_processes is not None:
        return options.num_processes
    if options.config_file is None and (options.cpu or not Path(default_config_file).is_file()):
        return 1
    return getattr(load_config_from_file(options.config_file), "num_processes", 1)


def start(processes: int, arguments: Sequence[str]) -> int:
    """Run `backdrift` with these arguments in several processes of torch's own launcher; the exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    meet = ("--standalone", "--local_addr", "127.0.0.1")
    try:
        main([*meet, "--nproc_per_node", str(processes), "-m", "backdrift", *arguments])
    except ChildFailedError as error:  # its own process has said why
        return max(1, *(failure.exitcode for failure in error.failures.values()))
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
