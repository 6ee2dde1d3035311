"""Run folders from strangers: each is refused in one line, soon and in little memory, or opened and right."""

import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from attacks import HARMLESS, REFUSED, REFUSED_BY_RESUME, Attack
from runs import trained

from backdrift.cli import main
from backdrift.runs.run import Run

pytestmark = pytest.mark.slow

SECONDS = 20.0
"""In which an answer has to come; it takes about one."""

MEGABYTES = 500
"""By which the process may grow."""

counts: Counter[str] = Counter()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        small = ("data.n=200", "data.test=50", "model.hidden=16", "model.depth=1", "report=false")
        made = trained("data=moons", "train.steps=3", "train.batch=8", "train.checkpoint_every=2", *small)
        made.path = made.path.absolute()
        return made


@pytest.fixture(scope="module")
def expected(run: Run) -> np.ndarray:
    return sampled(run.path)


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    yield
    print(f"\nstrangers' folders: {sum(counts.values())} calls: {dict(counts)}")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """No answer may be waited for."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(3 * SECONDS))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def stranger(run: Run, tmp_path: Path, attack: Attack) -> tuple[Path, Path]:
    """The folder, and one outside of it with a file that nobody may touch."""
    folder, outside = tmp_path / "stranger", tmp_path / "outside"
    shutil.copytree(run.path, folder)
    outside.mkdir()
    (outside / "victim").write_text("mine")
    attack(folder, outside)
    return folder, outside


def command(name: str, folder: Path) -> list[str]:
    more = {
        "sample": ["n=3", "solver=ddim", "solver.steps=3"],
        "likelihood": ["n=3", "likelihood.steps=3"],
        "resume": ["train.steps=4"],
    }
    return [name, f"run={folder}", *more.get(name, [])]


def sampled(folder: Path) -> np.ndarray:
    assert main(command("sample", folder)) == 0
    archive = max(folder.glob("samples-*/samples.npz"), key=lambda file: file.stat().st_mtime_ns)
    return np.load(archive)["x"]


def refused(name: str, folder: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 1, in time, in little memory, and nothing was run or written outside."""
    capsys.readouterr()
    before, began = {path.name for path in outside.iterdir()}, time.monotonic()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(command(name, folder)) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(error) == 1 and error[0].startswith("backdrift: error: "), error
    assert len(error[0]) < 1000
    assert time.monotonic() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) / 1000 < MEGABYTES
    assert {path.name for path in outside.iterdir()} == before and (outside / "victim").read_text() == "mine"
    counts["refused"] += 1


@pytest.mark.parametrize("name", ["sample", "likelihood", "resume"])
@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED.keys())
def test_refused(run: Run, attack: Attack, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, outside = stranger(run, tmp_path, attack)
    refused(name, folder, outside, capsys)


@pytest.mark.parametrize("attack", REFUSED_BY_RESUME.values(), ids=REFUSED_BY_RESUME.keys())
def test_refused_by_resume(run: Run, attack: Attack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, outside = stranger(run, tmp_path, attack)
    refused("resume", folder, outside, capsys)


@pytest.mark.parametrize("attack", HARMLESS.values(), ids=HARMLESS.keys())
def test_opened_and_right(
    run: Run, attack: Attack, tmp_path: Path, expected: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, outside = stranger(run, tmp_path, attack)
    np.testing.assert_array_equal(sampled(folder), expected)
    assert main(command("resume", folder)) == 0
    assert {path.name for path in outside.iterdir()} == {"victim"}
    counts["opened and right"] += 2


ALL = {**REFUSED, **REFUSED_BY_RESUME, **HARMLESS}


def test_there_are_enough() -> None:
    assert len(ALL) >= 60


@pytest.mark.parametrize("attack", ALL.values(), ids=ALL.keys())
def test_the_list_of_runs_outlives_each(
    run: Run, attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`backdrift runs` and `run=latest` look into each folder, and into the good one beside it."""
    (tmp_path / "runs").mkdir()
    _, outside = stranger(run, tmp_path / "runs", attack)
    shutil.copytree(run.path, tmp_path / "runs" / "good")
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert main(["runs"]) == 0
    assert "good" in capsys.readouterr().out
    assert time.monotonic() - began < SECONDS
    assert not (outside / "mark").exists()
    counts["listed"] += 1
