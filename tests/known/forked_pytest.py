"""pytest in a child process, forked from one that has imported the heavy packages already.

The parent must not import the package that is tested. Every child imports it afresh, from the folder that it is given.
"""

import faulthandler
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HEAVY = ["torch", "scipy.stats", "scipy.integrate", "scipy.special", "sklearn.mixture", "hydra", "matplotlib.figure"]
HEAVY += ["pandas", "accelerate", "safetensors.torch", "torchsde", "torchdiffeq", "tqdm", "PIL.Image", "omegaconf"]

GIGABYTES = 12
"""Of addresses that a child may ask for: a fault in a size must not take the machine's memory."""

LIMIT = (10.0, 60.0)
"""A test hangs if it takes more processor time than 10 times its normal time and 60 s. On a busy machine a test takes
longer by the clock, but it needs the same processor time."""

WAITING = 10.0
"""A test that waits for something also hangs if it takes this many times as long by the clock."""

HUNG = (1, -signal.SIGPROF)
"""Exit statuses of a child in which a test hung: of the clock's watch, and of the watch on processor time."""


def import_heavy_packages() -> None:
    for name in HEAVY:
        importlib.import_module(name)


class Watch:
    """Writes into a file which test runs and how it ended. A test that hangs ends the process.

    Args:
        told: the file.
        normal: the seconds that each test takes without a fault, in the order in which they are to run.
        others: tests that are not to run.
    """

    def __init__(self, told: Path, normal: dict[str, float], others: set[str]) -> None:
        self.told, self.normal, self.others = told, normal, others

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests that were asked for, also those whose parameter has another name with the fault."""
        collected = {item.nodeid for item in items}
        renamed = {node.partition("[")[0] for node in self.normal if node not in collected}
        place = {node: number for number, node in enumerate(self.normal)}
        for node in collected - self.normal.keys() - self.others:
            if node.partition("[")[0] in renamed:
                place[node] = len(place)
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.told.write_text(json.dumps({"test": item.nodeid, "ended": "hung"}))
        factor, least = LIMIT
        seconds = factor * self.normal.get(item.nodeid, 0.0) + least
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        faulthandler.dump_traceback_later(WAITING * seconds, exit=True, file=2)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_PROF, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.told.write_text(json.dumps({"test": report.nodeid, "ended": "failed"}))
        elif report.when == "teardown" and "failed" not in self.told.read_text():
            self.told.write_text(json.dumps({"test": report.nodeid, "ended": "passed"}))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.told.write_text(json.dumps({"test": report.nodeid, "ended": "failed"}))


class Reach:
    """Tells coverage which test or which shared fixture runs, and keeps how long each test took and how it ended."""

    def __init__(self, switch: Callable[[str], object]) -> None:
        self.switch = switch
        self.tests: dict[str, dict[str, Any]] = {}
        self.running = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tests[item.nodeid] = {"seconds": 0.0, "passed": True, "fixtures": getattr(item, "fixturenames", [])}
        self.running = item.nodeid
        self.switch(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self.tests[item.nodeid]["seconds"] = time.perf_counter() - began
            self.switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Iterator[None]:
        shared = fixturedef.scope != "function"
        if shared:
            self.switch(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            if shared:
                self.switch(self.running)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.tests[report.nodeid]["passed"] = False


def run_forked(work: Callable[..., int], root: Path, *arguments: Any) -> int:
    """The exit status of `work(*arguments)` in a child that works in `root`; negative where a signal ended it."""
    child = multiprocessing.get_context("fork").Process(target=_at_work, args=(work, root, *arguments))
    child.start()
    try:
        child.join()
    except BaseException:
        child.kill()
        raise
    return child.exitcode or 0


def _at_work(work: Callable[..., int], root: Path, *arguments: Any) -> None:
    os.setpgrp()  # Ctrl-C is for the parent, which ends its child
    memory = GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a fault leaves size and second of a file as they were
    sys.dont_write_bytecode = True
    code = work(*arguments)
    os._exit(code)


def run_until_failure(told: Path, normal: dict[str, float], others: set[str]) -> int:
    """pytest's exit status for the tests `normal`, which run in this order until one fails; see `Watch`."""
    told.write_text(json.dumps({"test": "", "ended": "not started"}))
    files = dict.fromkeys(node.partition("::")[0] for node in normal)
    return int(pytest.main([*_options(told.parent), "-x", *files], plugins=[Watch(told, normal, others)]))


def record_reach(test_file: str, rooms: list[str], told: Path) -> int:
    """Runs a file of tests and writes what they reached: `lines[file][line]` are names of tests and fixtures."""
    import coverage  # only needed here

    root = Path.cwd()
    watched = coverage.Coverage(data_file=None, include=[f"{root}/{room}/*" for room in rooms], config_file=False)
    reach = Reach(watched.switch_context)
    watched.start()
    code = int(pytest.main([*_options(told.parent), test_file], plugins=[reach]))
    watched.stop()
    data = watched.get_data()
    lines = {}
    for file in data.measured_files():
        contexts = {line: [name for name in names if name] for line, names in data.contexts_by_lineno(file).items()}
        reached = {str(line): names for line, names in contexts.items() if names}
        if reached:
            lines[Path(file).relative_to(root).as_posix()] = reached
    told.write_text(json.dumps({"tests": reach.tests, "lines": lines}))
    return code


def _options(folder: Path) -> list[str]:
    return ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--basetemp", str(folder / "temporary")]
