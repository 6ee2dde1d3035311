"""Several processes of one command, as torchrun starts them, forked from the test: they need not import torch again."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable


def run_together(size: int, work: Callable[[int], int], limit: float = 120, watched: bool = False) -> list[int]:
    """The exit status of each process of `size`, in which `work(rank)` gives it; that of a killed one is negative.

    With `watched` the others are ended, first by SIGTERM, when one was killed, as torchrun does.
    """
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
    end = time.monotonic() + limit
    while watched and any(process.is_alive() for process in begun) and time.monotonic() < end:
        if any((process.exitcode or 0) < 0 for process in begun):
            for process in begun:
                process.terminate()
            end = min(end, time.monotonic() + 5)
            break
        time.sleep(0.02)
    for process in begun:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in begun]
