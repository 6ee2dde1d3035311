"""Several processes of one command, as torchrun starts them, forked from the test: they need not import torch again."""

import multiprocessing
import os
import socket
from collections.abc import Callable


def run_together(size: int, work: Callable[[int], int], limit: float = 120) -> list[int]:
    """The exit status of each process of `size`, in which `work(rank)` gives it; that of a killed one is negative."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def begin(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
        }
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os._exit(work(rank))

    begun = [multiprocessing.get_context("fork").Process(target=begin, args=(rank,)) for rank in range(size)]
    for process in begun:
        process.start()
    for process in begun:
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in begun]
