"""`backdrift restore` with models whose posteriors are known, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters import CENTRES, run_on_clusters
from normal_rows import exact_copy, train_on_normal_rows
from PIL import Image
from runs import trained

from backdrift.cli import main
from backdrift.commands import restore
from backdrift.models import GaussianMixture
from backdrift.runs.progress import Progress
from backdrift.runs.run import Run
from backdrift.sde import VP
from backdrift.solvers.tables.grid import time_grid

C = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
SCALE, SHIFT = np.array([100.0, 0.1, 2.0]), np.array([1e4, -3.0, 0.0])


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_normal_rows(
        tmp_path_factory.mktemp("table"), SHIFT, SCALE[:, None] * C * SCALE, 900, ["a", "b", "c"]
    )


@pytest.fixture
def run(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return exact_copy(trained_once, tmp_path / "copy", SHIFT, SCALE[:, None] * C * SCALE, monkeypatch)


def results(run: Run, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    folder = run.path / name
    return dict(np.load(folder / "restoration.npz")), json.loads((folder / "restore.json").read_text())


def of_posterior(y: np.ndarray, rows: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means `[n, 3]`, covariance, and log p(y) `[n]`, in the data's own units."""
    c = SCALE[:, None] * C * SCALE
    total = rows @ c @ rows.T + noise**2 * np.eye(len(rows))
    gain = np.linalg.solve(total, rows @ c).T
    residual = y - SHIFT @ rows.T
    log = -0.5 * (residual * np.linalg.solve(total, residual.T).T).sum(1)
    log -= 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
    return SHIFT + residual @ gain.T, c - gain @ rows @ c, log


def test_a_posterior_of_a_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Means and deviations within 4.5 standard errors of 200 samples, coverage and chi-squared as they should be."""
    line = ["restore", f"run={run.path}", "measurement=columns", "measurement.columns=[a]", "noise=20", "n=60"]
    assert main([*line, "samples=199"]) == 0
    assert "The residuals agree with the noise" in capsys.readouterr().out
    found, said = results(run, "restore-known_columns-mmps-seed0")
    mean, covariance, _ = of_posterior(found["observation"], np.eye(3)[:1], 20.0)
    std = np.sqrt(np.diag(covariance))
    assert np.abs((found["mean"] - mean) / std).max() < 4.8 / 199**0.5
    assert np.abs(found["std"].mean(0) / std - 1).max() < 4.5 / (2 * 60 * 199) ** 0.5 + 0.01
    assert said["chi_squared"]["degrees"] == 60 and said["chi_squared"]["p_value"] > 0.01
    for one in said["coverage_of_hidden_components"]:
        assert abs(one["share"] - one["nominal"]) < 4 * one["standard_error"]
    assert said["verdict"] == (run.path / "restore-known_columns-mmps-seed0" / "restore.md").read_text().split("\n")[2]
    with (run.path / "restore-known_columns-mmps-seed0" / "summary.csv").open() as opened:
        rows = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    assert len(rows) == 180 and rows[1]["column"] == "b"
    assert float(rows[1]["truth"]) == pytest.approx(found["truth"][0, 1])


@pytest.mark.parametrize("chain", [("full",), ("low_rank", "guide.rank=2")], ids=["full", "low_rank"])
def test_particles_give_the_evidence_in_the_units_of_the_data(
    run: Run, chain: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Progress] = []

    class Recorded(Progress):
        def __enter__(self) -> Progress:
            shown.append(super().__enter__())
            return shown[-1]

    monkeypatch.setattr(restore, "Progress", Recorded)
    line = ["restore", f"run={run.path}", "measurement=random_projection", "measurement.number=2", "noise=5", "n=3"]
    kernel, *more = chain
    settings = ["guide=particles", f"guide.kernel={kernel}", *more, "guide.particles=64", "guide.steps=24"]
    assert main([*line, *settings]) == 0
    assert [(one.done, one.total, one.unit) for one in shown] == [(3, 3, "posterior")]
    found, _ = results(run, "restore-random-particles-seed0")
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2, 3, generator=generator) / 3**0.5).double().numpy()
    mean, covariance, log = of_posterior(found["observation"], rows, 5.0)
    np.testing.assert_allclose(found["log_evidence"], log, atol=0.06)  # of 24 steps
    assert np.abs((found["mean"] - mean) / np.sqrt(np.diag(covariance))).max() < 4.5 / 512**0.5 + 0.05


def test_given_measurements_are_read_and_give_the_same(run: Run) -> None:
    """What one command wrote as `observation` is an observation for another; there is no truth beside it."""
    line = ["restore", f"run={run.path}", "measurement=columns", "measurement.columns=[2]", "noise=0.5", "n=4"]
    assert main(line) == 0
    first, _ = results(run, "restore-known_columns-mmps-seed0")
    assert main([*line, f"observation={run.path}/restore-known_columns-mmps-seed0/restoration.npz"]) == 0
    again, said = results(run, "restore-known_columns-mmps-seed0-2")
    np.testing.assert_array_equal(first["samples"], again["samples"])
    assert "truth" not in again and said["coverage"] == [] and "The truth is not known" in said["verdict"]
    np.savetxt("y.csv", first["observation"], delimiter=",")
    assert main([*line, "observation=y.csv"]) == 0
    third, _ = results(run, "restore-known_columns-mmps-seed0-3")
    np.testing.assert_allclose(first["samples"], third["samples"], rtol=1e-6)


def test_columns_are_measured_in_the_order_that_is_asked_for(run: Run) -> None:
    """Noise and measurements of c and a against the closed form, also as rows with NaN for what is hidden."""
    y = np.array([[1.5, 10150.0], [-2.0, 9900.0]])
    rows, noise = np.eye(3)[[2, 0]], np.array([0.5, 60.0])
    np.savetxt("y.csv", y, delimiter=",")
    np.savetxt("rows.csv", np.c_[y[:, 1], np.full(2, np.nan), y[:, 0]], delimiter=",")
    c = SCALE[:, None] * C * SCALE
    gain = np.linalg.solve(rows @ c @ rows.T + np.diag(noise**2), rows @ c).T
    mean, covariance = SHIFT + (y - SHIFT @ rows.T) @ gain.T, c - gain @ rows @ c
    line = ["restore", f"run={run.path}", "measurement=columns", "guide.iterations=null", "samples=400"]
    for file, end in (("y", ""), ("rows", "-2")):
        words = ["measurement.columns=[c,a]", "noise=[0.5,60]", f"observation={file}.csv"]
        assert main([*line, *words]) == 0
        found, _ = results(run, f"restore-known_columns-mmps-seed0{end}")
        np.testing.assert_array_equal(found["observation"], y)
        assert np.abs((found["mean"] - mean) / np.sqrt(covariance.diagonal() / 400)).max() < 4.5
        assert np.abs(found["std"] / np.sqrt(covariance.diagonal()) - 1).max() < 4.5 / 800**0.5 + 0.02


def test_ddrm_keeps_what_is_seen_well_and_draws_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Independent columns, of which a is seen with a thousandth of its deviation as noise. The posterior of the others
    is their prior, whose deviation the 200 steps of DDIM that eta = 0 leaves of the chain change by a factor in closed
    form. That of a is N(y, noise^2), which DDRM does not draw from: it stays within ten deviations of y.
    """
    units = run.card.units
    mean, std = torch.from_numpy(SHIFT), torch.from_numpy(SCALE)
    model_mean, variance = ((mean - units.shift) / units.scale).float(), ((std / units.scale) ** 2).float()
    exact = GaussianMixture(model_mean.unsqueeze(0), variance.unsqueeze(0), sde=VP())
    monkeypatch.setattr(Run, "gaussian_model", lambda *_, **__: exact)
    line = ["restore", f"run={run.path}", "measurement=columns", "measurement.columns=[a]", "noise=0.1", "n=20"]
    assert main([*line, "guide=ddrm", "guide.eta=0", "guide.steps=200", "samples=99"]) == 0
    found, _ = results(run, "restore-known_columns-ddrm-seed0")
    draws = found["samples"]
    assert np.abs(draws[..., 0] - found["observation"]).max() < 10 * 0.1
    others = draws[..., 1:].reshape(-1, 2)
    assert np.abs((others.mean(0) - SHIFT[1:]) / SCALE[1:]).max() < 4.5 / 1980**0.5
    times = time_grid("karras", exact.sde, 200, exact.sde.eps, exact.data_std)
    levels, c = (exact.sde.sigma(times) / exact.sde.alpha(times)).unsqueeze(1), variance[1:].double()
    gains = c / (c + levels.square())
    steps = gains[:-1] + levels[1:] / levels[:-1] * (1 - gains[:-1])
    factor = ((c + levels[0].square()).sqrt() * steps.prod(0) * gains[-1] / c.sqrt()).numpy()
    assert np.abs(others.std(0) / SCALE[1:] / factor - 1).max() < 4.5 / (2 * 1980) ** 0.5
    assert np.abs(factor - 1).max() < 0.03


def test_a_class_is_the_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Column a is seen. Given the class both columns are independent, and the exact posterior of each is normal."""
    monkeypatch.chdir(tmp_path)
    made = run_on_clusters(monkeypatch, 300, 0.6)
    line = ["restore", f"run={made.path}", "measurement=columns", "measurement.columns=[a]", "noise=0.4", "n=30"]
    data = made.data()
    assert data.test_labels is not None
    gain, posterior = 0.36 / (0.36 + 0.16), np.array([(0.36 * 0.16 / 0.52) ** 0.5, 0.6])
    for label, classes in (("dog", np.ones(30, dtype=int)), ("data", data.test_labels[:30].numpy())):
        assert main([*line, f"label={label}", "samples=99"]) == 0
        found, said = results(made, f"restore-known_columns-mmps-label{label}-seed0")
        centre = CENTRES.numpy()[classes].astype(float)
        mean = centre.copy()
        mean[:, 0] += gain * (found["observation"][:, 0] - centre[:, 0])
        assert np.abs((found["mean"] - mean) / posterior).max() < 4.8 / 99**0.5
        assert np.abs(found["std"].mean(0) / posterior - 1).max() < 4.5 / (2 * 30 * 99) ** 0.5 + 0.01
        assert said["provenance"]["condition"] == ("class dog" if label == "dog" else "each sample's own class")
    assert main([*line, "label=dog", "guidance=0", "samples=9"]) == 0
    assert main([*line, "samples=9"]) == 0
    none, plain = (results(made, f"restore-known_columns-mmps{name}-seed0")[0] for name in ("-labeldog-guidance0", ""))
    np.testing.assert_allclose(none["samples"], plain["samples"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measurement=columns", "measurement.columns=[a]"), "noise is missing"),
        (("noise=0", "measurement=columns", "measurement.columns=[a]"), "noise: expected a positive number"),
        (("noise=1",), "measurement: shape: expected pictures"),
        (("noise=1", "measurement=columns"), "measurement.columns is missing"),
        (("noise=1", "measurement=columns", "measurement.columns=[z]"), "measurement.columns: expected some of"),
        (("noise=1", "measurement=pixels", "guide=particles", "solver=heun"), "solver: expected none beside"),
        (("noise=1", "measurement=pixels", "guide=particles", "+guide.seed=3"), "guide.seed: "),
        (("noise=[1,2]", "measurement=pixels", "guide=ddrm"), "noise: expected one number for this guide"),
        (("noise=1", "measurement=pixels", "label=1"), "label=1: the run's network has no classes"),
        (("noise=1", "measurement=pixels", "label=all"), "label=all: expected one class"),
        (("noise=1", "measurement=pixels", "guidance=2"), "guidance=2: expected label=<class> beside it"),
        (("noise=1", "measurement=pixels", "guide.iterations=0"), "guide.iterations: expected a positive integer"),
        (("noise=1", "measurement=pixels", "observation=none.npy"), "observation=none.npy: there is no such file"),
        (("noise=1", "measurement=pixels", "observation=table.npz"), "observation=table.npz: expected numbers"),
        (
            ("noise=1", "measurement=columns", "measurement.columns=[a]", "observation=whole.csv"),
            "observation: expected the 1 components that are seen, or NaN for the 2 others, got numbers for all 3",
        ),
        (
            ("noise=1", "measurement=columns", "measurement.columns=[b]", "observation=missing.csv"),
            "observation: expected finite numbers of what `measurement` sees, below 3e38, got NaN or inf",
        ),
        (
            ("noise=1", "measurement=columns", "measurement.columns=[a]", "observation=huge.csv"),
            "observation: expected finite numbers of what `measurement` sees, below 3e38, got 1e+300",
        ),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("whole.csv").write_text("1,2,3\n")
    Path("missing.csv").write_text("nan,nan,nan\n")
    Path("huge.csv").write_text("1e300\n")
    assert main(["restore", f"run={run.path}", *words]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(run.path.glob("restore-*"))


def test_an_interruption_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is interrupted. The same command then draws what it would have drawn at once."""
    line = ["restore", f"run={run.path}", "measurement=pixels", "noise=1", "n=4", "samples=5"]
    monkeypatch.setattr("backdrift.evaluation.batchwise.BATCH", 6)
    assert main(line) == 0
    whole, _ = results(run, "restore-random-mmps-seed0")
    from backdrift.evaluation import sampling

    plain, calls = sampling.sample, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(sampling, "sample", interrupted)
    assert main(line) == 130
    assert [len(np.load(file)["x"]) for file in run.path.glob("unfinished/restore-*/samples.npz")] == [12]
    assert main(line) == 0
    assert calls == [0, 6, 12, 12, 18]
    again, _ = results(run, "restore-random-mmps-seed0-2")
    np.testing.assert_array_equal(whole["samples"], again["samples"])
    assert not (run.path / "unfinished").exists()


def test_pictures_are_drawn(empty_folder: Path) -> None:
    """An untrained network on digits: truth, what is seen, mean, deviation and samples stand in a picture."""
    made = trained("train.steps=1", "model.widths=[8,8]")
    for words in (("measurement=inpaint",), ("measurement=radon", "measurement.angles=4"), ("measurement=blur",)):
        line = ["restore", f"run={made.path}", "noise=0.5", "n=2", "samples=3", "solver.steps=2", *words]
        assert main(line) == 0
    with Image.open(made.path / "restore-half-mmps-seed0" / "restoration.png") as picture:
        assert picture.info["seed"] == "0" and "restore" in picture.info["command"]
    assert {file.parent.name for file in made.path.glob("restore-*/restoration.png")} == {
        "restore-half-mmps-seed0",
        "restore-radon-mmps-seed0",
        "restore-gaussian-mmps-seed0",
    }
