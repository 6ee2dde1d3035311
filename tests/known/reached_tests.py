"""Which tests reach a line: measured for each file of tests, and kept until it or a file that it reaches changes."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fault_places import Fault, Span
from forked_pytest import record_reach, run_forked

ROOMS = ["sde", "models", "solvers", "backdrift"]
"""The folders of the package."""


@dataclass(frozen=True)
class Test:
    """A test that passes without a fault, and the seconds it takes."""

    __test__ = False

    node: str
    seconds: float

    @property
    def file(self) -> str:
        return self.node.partition("::")[0]


def files_of_tests(root: Path, places: Iterable[str]) -> list[str]:
    """The files of tests in the folders that mirror these places.

    Tests of the package as a whole, such as those of the wheel and the notebooks, take long and say little of one line.
    """
    files: set[Path] = set()
    for place in places:
        folder = root / "tests" / place
        while not folder.is_dir():
            folder = folder.parent
        files.update(folder.rglob("test_*.py"))
    return sorted(file.relative_to(root).as_posix() for file in files)


def sources(root: Path) -> dict[str, str]:
    """The text of each file of the package."""
    files = (file for room in ROOMS for file in sorted((root / room).rglob("*.py")))
    real = {
        file.resolve().relative_to(root.resolve()).as_posix(): file
        for file in files
        if root.resolve() in file.resolve().parents
    }
    return {path: file.read_text() for path, file in sorted(real.items())}


class ReachedTests:
    """What each file of tests reaches in a copy of the repository, kept in the folder `kept`."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root, self.kept = root, kept
        self.tests: dict[str, Test] = {}
        self.failing: set[str] = set()
        self.reached: dict[str, dict[int, set[str]]] = {}

    def measure(self, places: Iterable[str]) -> Iterator[str]:
        """Goes through the files of tests that mirror these places, and names each before it is measured."""
        self.kept.mkdir(parents=True, exist_ok=True)
        for file in files_of_tests(self.root, places):
            path = self.kept / (file.replace("/", "-") + ".json")
            if not self._valid(path, file):
                yield file
                run_forked(record_reach, self.root, file, ROOMS, path.with_suffix(".part"))
                answer = json.loads(path.with_suffix(".part").read_text())
                answer["contents"] = self._contents([file, *answer["lines"]])
                path.with_suffix(".part").write_text(json.dumps(answer))
                path.with_suffix(".part").replace(path)
            self._add(json.loads(path.read_text()))

    def of(self, fault: Fault) -> list[str]:
        """The tests that reach the fault's statement; if there are none those of its function, its class, its file.

        Of a file without functions that tests reach, such as a list of constants, they are all tests.
        """
        lines = self.reached.get(fault.path, {})
        for scope in fault.scopes:
            if found := self._within(lines, scope):
                return sorted(found)
        return [] if len(fault.scopes) > 2 else sorted(self.tests)

    def _within(self, lines: dict[int, set[str]], scope: Span) -> set[str]:
        first, last = scope
        return {node for line in range(first, last + 1) for node in lines.get(line, ())}

    def _add(self, answer: dict[str, Any]) -> None:
        passed = {node: test for node, test in answer["tests"].items() if test["passed"]}
        self.failing |= answer["tests"].keys() - passed.keys()
        self.tests |= {node: Test(node, test["seconds"]) for node, test in passed.items()}
        users: dict[str, list[str]] = {}
        for node, test in passed.items():
            users.setdefault(node, []).append(node)
            for fixture in test["fixtures"]:
                users.setdefault(f"fixture {fixture}", []).append(node)
        for path, lines in answer["lines"].items():
            of_file = self.reached.setdefault(path, {})
            for line, names in lines.items():
                of_file.setdefault(int(line), set()).update(node for name in names for node in users.get(name, ()))

    def _contents(self, files: Iterable[str]) -> dict[str, str]:
        shared = [path.relative_to(self.root).as_posix() for path in (self.root / "tests/known").glob("*.py")]
        existing = ((file, self.root / file) for file in (*files, *shared))
        return {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in existing if path.exists()}

    def _valid(self, path: Path, file: str) -> bool:
        if not path.exists():
            return False
        before: dict[str, str] = json.loads(path.read_text())["contents"]
        return file in before and self._contents(before) == before


def order(path: str, tests: Iterable[Test], near_seconds: float, far_seconds: float) -> list[Test]:
    """The tests to run for a fault in `path`: the nearest files first, and in one file the fastest first.

    Near are the tests of the same folder, of which as many are taken as fit into `near_seconds`, the fastest first. Of
    the others as many as fit into `far_seconds`.
    """
    near: list[Test] = []
    far: list[Test] = []
    for test in tests:
        (near if _distance(path, test.file) <= 1 else far).append(test)
    taken = [*_affordable(near, near_seconds), *_affordable(far, far_seconds)]
    total: dict[str, float] = {}
    for test in taken:
        total[test.file] = total.get(test.file, 0.0) + test.seconds
    return sorted(taken, key=lambda test: (_distance(path, test.file), total[test.file], test.file, test.seconds))


def _affordable(tests: list[Test], seconds: float) -> list[Test]:
    taken = []
    for test in sorted(tests, key=lambda test: (test.seconds, test.node)):
        seconds -= test.seconds
        if seconds < 0:
            break
        taken.append(test)
    return taken


def _distance(path: str, test_file: str) -> int:
    """0 for the file's own tests, 1 for those of its folder, 2 for those of its room, 3 for others."""
    place, test = PurePosixPath(path), PurePosixPath(test_file).relative_to("tests")
    if test.parent == place.parent:
        return 0 if test.stem == f"test_{place.stem}" else 1
    return 2 if test.parts[0] == place.parts[0] else 3
