"""Every file that a command writes says which command, run, weights, solver and seed it is from."""

import csv
from pathlib import Path

import pytest
import torch
from origins import origin_of
from runs import trained

from backdrift import __version__
from backdrift.cli import main
from backdrift.data import Files
from backdrift.data.arrays import read_npz
from backdrift.runs.run import Run

NAMES = ("a, or b", "# of c")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a table whose names are hard to keep: one has a comma, the other looks like a comment."""
    folder = tmp_path_factory.mktemp("work")
    values = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows([NAMES[::-1], *values.tolist()])
    small = ("model.hidden=8", "model.depth=1", "train.steps=2", "train.batch=8", "report=false")
    return trained("data=array", f"data.path={folder / 'table.csv'}", f"runs={folder / 'it is a run'}", *small)


@pytest.mark.parametrize(
    ("line", "files", "solver", "seed"),
    [
        (
            "sample n=5 seed=3 solver=heun solver.steps=2",
            "samples-heun-seed3: config.yaml samples.csv samples.npz samples.png",
            "Heun(steps=2",
            3,
        ),
        (
            "likelihood n=3 likelihood.steps=2 likelihood.seed=4",
            "likelihood-test: config.yaml extremes.png histogram.png likelihood.csv",
            "method rk4, steps 2",
            4,
        ),
        (
            "information n=3 levels=1 strata=1 seed=5",
            "information-test: config.yaml information.csv information.png",
            "I-MMSE, levels 1, strata 1",
            5,
        ),
        (
            "tune iterations=0 batch=2 solver.nfe=2 reference_steps=2 "
            "solver.start={_target_:backdrift.solvers.DDIM} seed=6",
            "conf/solver: tuned_2.yaml",
            "fitted from DDIM(",
            6,
        ),
    ],
)
def test_every_file_says_where_it_comes_from(run: Run, line: str, files: str, solver: str, seed: int) -> None:
    command, *overrides = line.split()
    assert main([command, f"run={run.path}", *overrides]) == 0
    folder, _, names = files.partition(": ")
    written = sorted((run.path / folder).iterdir())
    assert [path.name for path in written] == names.split()
    for file in written:
        said = origin_of(file)
        assert said["run"] == str(run.path) and said["weights"] == "step-00000002, ema", file
        assert said["solver"].startswith(solver) and int(said["seed"]) == seed, file
        # The folder has blanks in its name: the command is one that can be pasted into a shell.
        assert said["command"].startswith(f"backdrift {command} 'run={run.path}' {overrides[0]}"), file
        assert said["backdrift"] == __version__ and "rows" not in said, file


def test_samples_with_names_like_comments_are_read_as_they_were_written(run: Run) -> None:
    assert main(["sample", f"run={run.path}", "n=30", "solver=ddim", "solver.steps=2"]) == 0
    folder = run.path / "samples-ddim-seed0"
    archive, table = read_npz(folder / "samples.npz"), Files(str(folder / "samples.csv"), transform="none")
    assert archive.columns == table.columns == NAMES[::-1]
    both = torch.cat([table.train, table.test])
    assert torch.equal(both[both[:, 0].argsort()], archive.values[archive.values[:, 0].argsort()].double())


def test_a_suggestion_says_where_it_comes_from(tmp_path: Path) -> None:
    assert main(["suggest", "data=moons", "data.n=300", "seed=2", f"save={tmp_path}"]) == 0
    said = origin_of(tmp_path / "sde" / "suggested.yaml")
    assert said["command"].startswith("backdrift suggest data=moons data.n=300 seed=2") and said["seed"] == "2"
