"""`backdrift restore noise=poisson`: counts, whose exact posterior is found by quadrature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from normal_rows import exact_copy, train_on_normal_rows

from backdrift.cli import main
from backdrift.runs.run import Run

MEAN, STD, CORRELATION = np.array([40.0, -2.0]), np.array([8.0, 0.5]), 0.7
COVARIANCE = STD[:, None] * np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]) * STD


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_normal_rows(tmp_path_factory.mktemp("rates"), MEAN, COVARIANCE, 600, ["rate", "other"])


@pytest.fixture
def run(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return exact_copy(trained_once, tmp_path / "copy", MEAN, COVARIANCE, monkeypatch)


def of_posterior(counts: np.ndarray, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and deviations of both columns given counts of the first, `[n, 2]`, and log p(counts) `[n]`.

    The rate is integrated out on a grid. The other column is normal given the rate.
    """
    rate = np.linspace(1e-3, MEAN[0] + 10 * STD[0], 20001)
    log = scipy.stats.poisson.logpmf(counts[:, None], rate / gain) + scipy.stats.norm.logpdf(rate, MEAN[0], STD[0])
    weights = np.exp(log)
    evidence = np.trapezoid(weights, rate, axis=1)
    weights /= weights.sum(1, keepdims=True)
    mean = weights @ rate
    variance = weights @ rate**2 - mean**2
    slope = CORRELATION * STD[1] / STD[0]
    other = MEAN[1] + slope * (mean - MEAN[0])
    left = STD[1] ** 2 * (1 - CORRELATION**2)
    deviations = np.sqrt(np.stack([variance, slope**2 * variance + left], 1))
    return np.stack([mean, other], 1), deviations, np.log(evidence)


def line(run: Run, gain: float) -> list[str]:
    words = ["measurement=columns", "measurement.columns=[rate]", "noise=poisson", f"gain={gain}"]
    return ["restore", f"run={run.path}", *words]


def test_particles_sample_the_exact_posterior_of_counts(run: Run) -> None:
    """Counts of about 16, for which a normal law would be wrong. Means within 4.5 standard errors of the effective
    samples and the chain's discretisation, measured by doubling its steps, for which 0.1 deviations are allowed; the
    evidence likewise."""
    chain = ["guide=particles", "guide.particles=48", "guide.steps=24", "guide.measure_discretisation=true"]
    assert main([*line(run, 2.5), "n=3", *chain]) == 0
    found = np.load(run.path / "restore-known_columns-particles-seed0" / "restoration.npz")
    counts = found["observation"][:, 0] / 2.5
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    mean, std, log = of_posterior(counts.round(), 2.5)
    effective = found["effective_sample_size"][:, None]
    assert (np.abs(found["mean"] - mean) / std < 4.5 / effective**0.5 + 0.1).all()
    assert (np.abs(found["std"] / std - 1) < 4.5 / (2 * effective) ** 0.5 + 0.1).all()
    allowed = 4.5 * found["standard_error"] + 2 * np.abs(found["discretisation"]) + 0.02
    assert (np.abs(found["log_evidence"] - log) < allowed).all() and allowed.max() < 0.3


def test_a_guide_is_right_where_counts_are_large(run: Run) -> None:
    """Counts of about 1,600. The guide takes the variance of y at D, which at large noise is the mean of the prior: the
    gain K = P/(P + R) is then wrong by what another R makes of it, and the mean by |dK| |y - m|. That is allowed."""
    assert main([*line(run, 0.025), "n=20", "samples=49", "guide=tmpd"]) == 0
    folder = run.path / "restore-known_columns-tmpd-seed0"
    found, said = np.load(folder / "restoration.npz"), json.loads((folder / "restore.json").read_text())
    y = found["observation"][:, 0]
    mean, std, _ = of_posterior((y / 0.025).round(), 0.025)
    wide = STD[0] ** 2
    wrong = np.abs(wide / (wide + 0.025 * MEAN[0]) - wide / (wide + 0.025 * mean[:, 0])) * np.abs(y - MEAN[0])
    drawn = found["samples"].mean(1)
    assert (np.abs(drawn[:, 0] - mean[:, 0]) < 4.8 * std[:, 0] / 49**0.5 + wrong).all()
    each = found["samples"].std(1, ddof=1)[:, 0] / std[:, 0]
    assert abs(float(each.mean()) - 1) < 4.5 / (2 * 20 * 49) ** 0.5 + 0.03
    assert said["chi_squared"]["degrees"] == 20 and said["chi_squared"]["p_value"] > 0.001
    assert said["chi_squared"]["expected"] == pytest.approx(20)
    assert "is expected of the counts" in said["verdict"]


def test_given_counts_are_read(run: Run) -> None:
    """The counts that one command drew are an observation for another, and give the same samples."""
    words = [*line(run, 0.5), "n=3", "samples=5", "guide=tmpd", "solver.steps=3"]
    assert main(words) == 0
    assert main([*words, f"observation={run.path}/restore-known_columns-tmpd-seed0/restoration.npz"]) == 0
    first, again = (
        np.load(run.path / f"restore-known_columns-tmpd-seed0{end}" / "restoration.npz")["samples"]
        for end in ("", "-2")
    )
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gain=-1", "guide=tmpd"), "gain: expected a positive number"),
        (("noise=2", "guide=tmpd"), "gain=0.5: expected null beside noise=2; it is for noise=poisson"),
        (
            ("measurement.columns=[other]", "guide=tmpd"),
            "noise=poisson: expected data whose measurements without noise",
        ),
        (("guide=mmps",), "guide: expected tmpd, dps or particles for counts, got MMPS"),
        (("guide=ddrm",), "guide: expected tmpd, dps or particles for counts, got DDRM"),
        (("guide=tmpd", "observation=y.csv"), "observation: expected counts of 0 or more times the gain 0.5, got 0.7"),
        (("guide=particles", "guide.kernel=full"), "guide.kernel: expected isotropic for counts, got full"),
    ],
)
def test_what_is_refused(run: Run, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("y.csv").write_text("40\n0.7\n")
    assert main([*line(run, 0.5), *words]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(run.path.glob("restore-*"))
