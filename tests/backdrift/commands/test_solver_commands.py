"""`backdrift solvers` and `backdrift tune`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import denoiser, trained

from backdrift.cli import main
from backdrift.runs.configuration import Job, build
from backdrift.runs.run import Run
from backdrift.solvers import CATALOGUE, NonStationary, TableSolver


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield trained("data=moons", "model=mlp", "train.steps=20", "train.batch=64")


def test_tune_writes_a_solver_that_sample_takes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tune", f"run={run.path}", "solver.nfe=5", "iterations=8", "batch=16", "reference_steps=24"]
    assert main(line) == 0
    said = capsys.readouterr().out
    path = run.path / "conf" / "solver" / "tuned_5.yaml"
    assert "times closer" in said and str(path) in said
    text = path.read_text()
    assert "evaluations a sample" in text and "iterations" in text  # what it cost stands in the file

    written = OmegaConf.load(path)
    job = Job("sample", (f"run={run.path}", "solver=tuned_5"), str(run.path / "conf"))
    solver = build(job.config(), "solver")
    assert isinstance(solver, NonStationary) and list(solver.ratios) == list(written.ratios)
    assert solver.table(denoiser(run).sde).nfe == 5
    # The line it prints is one that can be pasted.
    pasted = said.strip().splitlines()[-1].split()[1:]
    assert main([*pasted, "n=4"]) == 0

    assert main(line) == 0
    assert path.read_text() == text and (path.parent / "tuned_5_2.yaml").exists()


def test_tune_refuses_what_it_cannot_do(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tune", f"run={run.path}", "solver.nfe=4", "+solver.start._target_=backdrift.solvers.EulerMaruyama"]
    assert main(line) == 1
    assert "solver: expected a deterministic one, got EulerMaruyama" in capsys.readouterr().err


def test_solvers_lists_every_solver_with_its_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: CATALOGUE[name] for name in ("euler", "dpm_solver_pp_2m", "euler_maruyama")}
    monkeypatch.setattr("backdrift.commands.solvers.CATALOGUE", few)
    assert main(["solvers"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == list(few)
    for row, claimed in zip(rows, (1, 2, 1), strict=True):
        assert float(row[2]) == claimed and float(row[3]) == pytest.approx(claimed, abs=0.15)


@pytest.mark.parametrize("name", CATALOGUE)
def test_config_of_a_solver_is_the_catalogue_s(name: str) -> None:
    """conf/solver/<name>.yaml builds what the catalogue certifies, but for the number of steps."""
    built = build(Job("sample", ("run=none", f"solver={name}")).config(), "solver")
    assert isinstance(built, TableSolver) and type(built) is type(CATALOGUE[name].solver)
    mine, listed = vars(built), vars(CATALOGUE[name].solver)
    assert {k: v for k, v in mine.items() if k != "steps"} == {k: v for k, v in listed.items() if k != "steps"}
    assert (Path(__file__).parents[3] / "conf" / "solver" / f"{name}.yaml").read_text().startswith("# ")
