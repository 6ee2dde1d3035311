"""Commands whose samples several processes share: the files of one process, also after some of them were killed."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_processes import run_together
from result_tables import rows_of
from runs import trained

from backdrift.cli import main
from backdrift.evaluation import batchwise
from backdrift.evaluation.batchwise import pieces
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished

TRAINING = ("data=moons", "data.n=200", "data.test=70", "model.hidden=16", "model.depth=1", "train.steps=20")

COMMANDS = {
    "sample": ("n=70", "solver.steps=8"),
    "likelihood": ("n=50", "likelihood.steps=8"),
    "information": ("n=40", "levels=3", "strata=2"),
    "restore": ("n=6", "samples=7", "solver.steps=8", "measurement=columns", "measurement.columns=[0]", "noise=0.1"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        return Run.open(trained(*TRAINING, "report=false").path.absolute())


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchwise, "BATCH", 8)


def folders(run: Run) -> set[Path]:
    return {file.parent for file in run.path.glob("*/config.yaml")}


def result_of(run: Run, work: Callable[[], object]) -> Path:
    """The folder that is new after `work`."""
    before = folders(run)
    work()
    (new,) = folders(run) - before
    return new


def require_same(one: Path, other: Path) -> None:
    """The same names of files, and the same numbers in them to 1e-5."""
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    for file in one.glob("*.npz"):
        here, there = np.load(file), np.load(other / file.name)
        assert here.files == there.files
        for name in set(here.files) - {"provenance"}:
            np.testing.assert_allclose(here[name], there[name], rtol=1e-5, atol=1e-5)
    for file in one.glob("*.csv"):
        here, there = rows_of(file), rows_of(other / file.name)
        assert len(here) == len(there) and here[0].keys() == there[0].keys()
        for row, match in zip(here, there, strict=True):
            for name, text in row.items():
                assert text == match[name] or float(text) == pytest.approx(float(match[name]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_three_processes_write_the_files_of_one(run: Run, command: str) -> None:
    line = [command, f"run={run.path}", *COMMANDS[command]]

    def alone() -> None:
        assert main(line) == 0

    def together() -> None:
        assert run_together(3, lambda rank: main(line)) == [0, 0, 0]

    require_same(result_of(run, alone), result_of(run, together))
    assert not (run.path / "unfinished").exists()


def test_a_killed_process_loses_its_part_only(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """After a second call, with another number of processes, each sample was kept once: none lost, none twice."""
    line = ["sample", f"run={run.path}", "n=90", "solver.steps=8", "seed=3"]
    told, save = tmp_path / "told", Unfinished.save

    def dying(rank: int) -> int:
        def counted(kept: Unfinished, stage: str, first: int, batch: dict[str, torch.Tensor]) -> None:
            if rank == 1 and first > 40:
                os.kill(os.getpid(), signal.SIGKILL)
            save(kept, stage, first, batch)
            with told.open("a") as file:
                file.write(f"{first} {len(batch['x'])}\n")

        setattr(Unfinished, "save", counted)  # noqa: B010 - of this process alone
        return main(line)

    assert run_together(2, dying) == [1, -signal.SIGKILL]
    err = capfd.readouterr().err
    assert "another process of this command has ended before its part was done" in err and "Traceback" not in err
    seen = told.read_text().splitlines()
    # 90 samples are 12 pieces of 8 in turn. The first process does all of its 6, the second those from 8, 24 and 40.
    assert sorted(int(row.split()[0]) for row in seen) == [0, 8, 16, 24, 32, 40, 48, 64, 80]

    def rest(rank: int) -> int:
        return dying(rank + 2)  # no process of this number is killed

    again = result_of(run, lambda: run_together(3, rest))
    counts = Counter[int]()
    for row in told.read_text().splitlines():
        first, length = map(int, row.split())
        counts.update(range(first, first + length))
    assert counts == Counter(range(90))

    def alone() -> None:
        assert main(line) == 0

    require_same(again, result_of(run, alone))


def test_an_error_of_one_process_is_the_error_of_all(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """It is said once, by the first process, and the parts of the others are kept."""

    def failing(rank: int) -> int:
        if rank == 1:

            def save(*arguments: object) -> None:
                raise OSError("disk: it is full")

            setattr(Unfinished, "save", save)  # noqa: B010 - of this process alone
        return main(["sample", f"run={run.path}", "n=20", "solver.steps=4", "seed=9"])

    assert run_together(2, failing) == [1, 1]
    assert capfd.readouterr().err == "backdrift: error: disk: it is full\n"
    (folder,) = (run.path / "unfinished").iterdir()
    assert sorted(file.name for file in folder.glob("*.safetensors")) == [
        "samples-000000000000.safetensors",
        "samples-000000000016.safetensors",
    ]


def test_gaps_are_what_is_not_kept(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, None, None)  # type: ignore[arg-type]
    (tmp_path / "config.yaml").touch()
    assert kept.missing("a", 10) == [range(10)]
    for first, length in ((2, 3), (5, 1), (8, 2)):
        kept.save("a", first, {"x": torch.zeros(length, 2)})
    kept.save("b", 0, {"x": torch.zeros(10)})
    assert kept.missing("a", 10) == [range(2), range(6, 8)]
    assert kept.missing("b", 10) == []
    kept._file("a", 5).write_bytes(b"damaged")
    assert kept.missing("a", 10) == [range(2), range(5, 8)]
    kept.close()


def test_pieces_are_the_gaps_in_their_order() -> None:
    cut = pieces([range(2), range(5, 12)], 3)
    assert cut == [range(2), range(5, 8), range(8, 11), range(11, 12)]


def test_processes_on_a_cpu_share_it() -> None:
    assert ProcessGroup(1, 2).device("cpu") == torch.device("cpu")


def test_a_command_that_is_not_shared_is_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["report", "run=nowhere"]) == 1
    said = "report: expected one process, got 2; several share train, resume, sample, likelihood, information, restore"
    assert said in capfd.readouterr().err


@pytest.mark.slow
def test_torchrun_starts_the_command(run: Run) -> None:
    line = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "backdrift"]
    line += ["sample", f"run={run.path}", "n=20", "solver.steps=4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("20 samples by") == 1
    folder = Path(done.stdout.splitlines()[1]).parent
    assert len(np.load(folder / "samples.npz")["x"]) == 20


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "likelihood", "information"])
def test_twenty_kills_at_random_moments(run: Run, command: str, tmp_path: Path) -> None:
    """A process is killed in each of 20 calls after a random time. The next call ends with the files of one process."""
    line = [command, f"run={run.path}", *COMMANDS[command], "seed=5" if command != "likelihood" else "device=cpu"]
    moments = random.Random(0)

    def alone() -> None:
        assert main(line) == 0

    expected = result_of(run, alone)
    for _ in range(20):
        victim, delay = moments.randrange(2), moments.uniform(0.05, 1.5)

        def dying(rank: int, victim: int = victim, delay: float = delay) -> int:
            if rank == victim:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, delay)
            return main(line)

        before = folders(run)
        run_together(2, dying, watched=True)
        new = folders(run) - before
        if not new:  # it was killed before the end
            new = {result_of(run, lambda: run_together(2, lambda rank: main(line)))}
        (found,) = new
        if len(list(found.iterdir())) < len(list(expected.iterdir())):  # it was killed between two files of results
            for file in found.glob("*.npz"):
                assert np.load(file).files == np.load(expected / file.name).files
            found = result_of(run, lambda: run_together(2, lambda rank: main(line)))
        require_same(found, expected)
