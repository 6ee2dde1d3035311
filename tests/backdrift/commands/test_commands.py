"""`sample`, `likelihood` and the report of `train`, on a run of a few steps."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from origins import origin_of
from result_tables import rows_of
from runs import trained

from backdrift.cli import main
from backdrift.evaluation import report, solver_comparison, workload
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scoring import score
from backdrift.runs.listing import summarise
from backdrift.runs.run import Run
from backdrift.solvers import DDIM

SMALL = ("model.widths=[4]", "model.blocks=1", "train.steps=2", "train.batch=8", "train.warmup=0", "data.test=60")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield trained(*SMALL)


def test_sample_writes_what_the_library_draws_and_never_over_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sample", f"run={run.path}", "solver=ddim", "solver.steps=4", "n=9", "seed=5"]
    assert main(line) == 0
    folder = run.path / "samples-ddim-seed5"
    first = (folder / "samples.npz").read_bytes()
    assert str(folder / "samples.npz") in capsys.readouterr().out
    drawn = draw(run.model(), DDIM(steps=4), (1, 8, 8), 9, seed=5)
    stored = np.load(folder / "samples.npz")["x"]
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, run.data().to_data(drawn).numpy())
    assert (folder / "samples.png").exists()

    assert main(line) == 0
    assert np.array_equal(np.load(run.path / "samples-ddim-seed5-2" / "samples.npz")["x"], stored)
    assert (folder / "samples.npz").read_bytes() == first


def test_likelihood_writes_a_row_a_sample(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["likelihood", f"run={run.path}", "n=12", "likelihood.steps=4", "likelihood.probes=2"]) == 0
    said = capsys.readouterr().out
    folder = run.path / "likelihood-test"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "likelihood.csv",
        "histogram.png",
        "extremes.png",
    }
    scores = score(run.model(), run.data().units, run.data().test[:12], seed=0, method="rk4", steps=4, probes=2)
    rows = rows_of(folder / "likelihood.csv")
    for key, values in (("log_prob_nats", scores.log_prob), ("bits_per_dim", scores.values)):
        np.testing.assert_allclose([float(row[key]) for row in rows], values.numpy(), rtol=1e-6)
    labels = run.data().test_labels
    assert labels is not None and [int(row["label"]) for row in rows] == labels[:12].tolist()
    assert f"{scores.mean()} bits/dim, an upper bound (17 levels" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sample n=0", "n: expected an integer from 1 to 100000000, got 0"),
        ("sample seed=-1", "seed: expected a non-negative integer, got -1"),
        ("sample solver.steps=0", "solver.steps: expected an integer"),
        ("sample n=2 solver.grid=karas", "solver.grid: expected one of uniform"),
        ("likelihood +likelihood.nosuch=3", "unexpected keyword argument 'nosuch'"),
        ("tune batch=0", "batch: expected an integer from 2 to 1000000, got 0"),
        ("tune solver.nfe=0", "solver.nfe: expected an integer from 1 to 10000, got 0"),
        (
            "tune solver.start={_target_:backdrift.sde.VP}",
            "solver.start=VP(beta_min=0.1, beta_max=20.0, T=1.0): expected the keys of",
        ),
        ("sample weights=best", "weights: expected one of ema, model, got 'best'"),
        ("likelihood split=validation", "split: expected one of train, test, got 'validation'"),
        ("likelihood n=0", "n: expected a positive integer or null, got 0"),
        ("likelihood likelihood.probes=0", "likelihood.probes: expected a positive integer, 'exact' or null, got 0"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    run: Run, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.path.iterdir())
    command, *rest = line.split()
    assert main([command, f"run={run.path}", *rest]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(run.path.iterdir()) == before


def test_the_report_shows_its_pictures_and_every_solver(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "WORK", 0)  # the fewest samples
    run.config.likelihood.steps = 4
    report.write(run)
    text = (run.path / "report.md").read_text(encoding="utf-8")
    shown = [part.split(")")[0] for part in text.split("](")[1:]]
    assert set(shown) >= {"samples.png", "trajectory.png", "extremes.png"}
    assert all((run.path / name).stat().st_size > 1000 for name in shown)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(shown) and 'src="' + shown[0] not in page
    sections = {part.split("\n")[0]: part.split("\n\n")[1] for part in text.split("\n## ")[1:]}
    assert sections["Quality"].startswith("On these features")
    assert "normal distribution" in sections["Likelihood"] and "evaluations are" in sections["Solvers"]
    assert "nan" not in text
    for solver in solver_comparison.SOLVERS:
        assert text.count(f"| {type(solver).__name__} |") == 2
    first = run.data().test[: workload.FEWEST]
    scores = score(run.model(), run.data().units, first, seed=0, method="rk4", steps=4, probes=1)
    assert str(scores.mean()) in text
    assert not list(run.path.glob(".*"))
    for file in [*run.path.glob("*.png"), run.path / "report.md", run.path / "report.json"]:
        said = origin_of(file)
        assert said["run"] == str(run.path) and said["weights"] == "step-00000002, ema" and int(said["seed"]) == 0
    numbers = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    assert numbers["likelihood"]["value"] == scores.mean().value and numbers["likelihood"]["unit"] == "bits/dim"
    assert len(numbers["solvers"]) == len(solver_comparison.SOLVERS) * len(solver_comparison.BUDGETS)
    assert all(str(Estimate(**row["sliced_wasserstein"])) in text for row in numbers["solvers"])
    assert summarise(run.path).likelihood == f"{str(scores.mean()).split(' ')[0]} bits/dim"
