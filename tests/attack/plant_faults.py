"""Plants one-token faults in a copy of the repository, one after the other, and tells how many the tests catch.

    python tests/attack/plant_faults.py --number 100 --seed 0

The copy is of the last commit, in a temporary folder. For each fault the tests that reach its line run until one fails.
Each fault is a row of a file of results. Started again, the script goes on where it stopped. It needs `coverage`, which
the extra `dev` has. A fault that no test catches is judged by hand: it may change no value, or only the time that
something takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "known"))

from fault_places import Fault, chosen, faults_in, planted
from forked_pytest import HUNG, import_heavy_packages, run_forked, run_until_failure
from reached_tests import ROOMS, ReachedTests, order, sources

ROOT = Path(__file__).resolve().parents[2]

CAUGHT = ("caught", "hung")
"""Verdicts on faults that the tests notice."""


@dataclass(frozen=True)
class Options:
    number: int
    seed: int
    rooms: list[str]
    root: Path
    results: Path
    again: Path | None
    near_seconds: float
    far_seconds: float


def options(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--number", type=int, default=100, help="how many faults")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same faults of the same revision")
    parser.add_argument("--rooms", nargs="*", default=[], help="only faults of these folders, and only their tests")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository whose last commit is copied")
    parser.add_argument("--results", type=Path, help="the file of results; by default one for each revision and seed")
    parser.add_argument("--again", type=Path, help="plant only the faults that this file of results calls not caught")
    parser.add_argument("--near-seconds", type=float, default=240.0, help="of tests in the fault's own folder")
    parser.add_argument("--far-seconds", type=float, default=60.0, help="of tests elsewhere")
    given = parser.parse_args(arguments)
    if given.number < 1:
        parser.error(f"--number must be at least 1, got {given.number}")
    for room in given.rooms:
        if not (given.root / room).exists():
            parser.error(f"--rooms has {room!r}, which is no file or folder of {given.root}")
    if given.again and not given.again.is_file():
        parser.error(f"--again must be a file of results, got {given.again}")
    if given.results is None:
        name = "-".join(
            ["faults", _revision(given.root), str(given.seed), *given.rooms, *(["again"] if given.again else [])]
        )
        given.results = given.root / ".coverage_contexts" / (name.replace("/", "-") + ".jsonl")
    return Options(**vars(given))


def _revision(root: Path) -> str:
    line = ["git", "-C", str(root), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def copied(root: Path, folder: Path) -> Path:
    """A clone of the last commit, without what is not committed."""
    subprocess.run(["git", "clone", "-q", str(root), str(folder)], check=True)
    return folder.resolve()


def faults(texts: dict[str, str], wanted: Options) -> list[Fault]:
    if wanted.again:
        return missed_before(texts, wanted.again)
    inside = {path: text for path, text in texts.items() if _within(path, wanted.rooms)}
    return chosen(inside, wanted.number, wanted.seed)


def _within(path: str, rooms: list[str]) -> bool:
    return not rooms or any(path == room.rstrip("/") or path.startswith(room.rstrip("/") + "/") for room in rooms)


def missed_before(texts: dict[str, str], results: Path) -> list[Fault]:
    """The faults that went unnoticed, at the places where their lines stand today. Lines that are gone are told."""
    found = []
    for row in rows(results):
        if row["verdict"] in CAUGHT:
            continue
        here = [fault for fault in faults_in(texts.get(row["file"], ""), row["file"]) if _same(texts, fault, row)]
        if here:
            found.append(min(here, key=lambda fault: abs(fault.line - row["line"])))
        else:
            print(f"gone: {row['file']}:{row['line']}  {row['code']}")
    return found


def _same(texts: dict[str, str], fault: Fault, row: dict[str, Any]) -> bool:
    mine = described(fault, texts[fault.path])
    return all(mine[key] == row[key] for key in ("code", "column", "before", "after"))


def described(fault: Fault, source: str) -> dict[str, Any]:
    code = source.splitlines()[fault.line - 1]
    place = {"file": fault.path, "line": fault.line, "column": fault.column}
    return place | {"before": fault.before, "after": fault.after, "code": code.strip()}


def rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def begin(results: Path) -> None:
    """Makes the file of results, or takes away its last line where that was cut off: its fault is planted again."""
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = results.read_text().splitlines(keepends=True) if results.exists() else []
    results.write_text("".join(line for line in lines if line.endswith("\n")))


def tried(copy: Path, fault: Fault, reached: ReachedTests, wanted: Options, told: Path) -> dict[str, Any]:
    """Plants the fault, runs the tests, takes the fault away, and tells how it ended."""
    file, began = copy / fault.path, time.monotonic()
    source = file.read_text()
    tests = order(
        fault.path, map(reached.tests.__getitem__, reached.of(fault)), wanted.near_seconds, wanted.far_seconds
    )
    row = described(fault, source) | {"verdict": "not reached", "test": "", "tests": len(tests)}
    if tests:
        file.write_text(planted(source, fault))
        try:
            normal = {test.node: test.seconds for test in tests}
            row |= _verdict(copy, told, normal, reached.failing | reached.tests.keys() - normal.keys())
        finally:
            file.write_text(source)
    return row | {"seconds": round(time.monotonic() - began, 1)}


def _verdict(copy: Path, told: Path, normal: dict[str, float], others: set[str]) -> dict[str, Any]:
    code = run_forked(run_until_failure, copy, told, normal, others)
    last = json.loads(told.read_text())
    if code == 0:
        return {"verdict": "not caught"}
    if code in (3, 5):  # pytest itself failed, or found no test
        return {"verdict": "no answer"}
    return {"verdict": "hung" if last["ended"] == "hung" and code in HUNG else "caught", "test": last["test"]}


def table(done: list[dict[str, Any]]) -> str:
    count = Counter(row["verdict"] for row in done)
    lines = [f"{len(done)} faults: " + ", ".join(f"{number} {verdict}" for verdict, number in count.most_common())]
    for row in done:
        if row["verdict"] not in CAUGHT:
            change = f"{row['before']!r} -> {row['after']!r}"
            lines += [
                f"{row['verdict']}: {row['file']}:{row['line']}  {change} at column {row['column']}",
                f"    {row['code']}",
            ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    wanted = options(arguments)
    os.nice(5)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COVERAGE_CORE": "ctrace"}
    import_heavy_packages()
    begin(wanted.results)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        copy = copied(wanted.root, folder / "repository")
        reached = ReachedTests(copy, wanted.root / ".coverage_contexts")
        for file in reached.measure(wanted.rooms or ROOMS):
            print(f"measuring what {file} reaches", flush=True)
        texts = sources(copy)
        planned = faults(texts, wanted)
        done = {json.dumps(described(fault, texts[fault.path])): fault for fault in planned}
        for row in rows(wanted.results):
            done.pop(json.dumps({key: row[key] for key in ("file", "line", "column", "before", "after", "code")}), None)
        for fault in done.values():
            row = tried(copy, fault, reached, wanted, folder / "told.json")
            with wanted.results.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(
                f"{row['verdict']}: {row['file']}:{row['line']}  {row['before']!r} -> {row['after']!r}  {row['test']}",
                flush=True,
            )
    print(table(rows(wanted.results)))
    print(f"rows: {wanted.results}")


if __name__ == "__main__":
    main(sys.argv[1:])
