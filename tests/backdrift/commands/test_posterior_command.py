"""`backdrift posterior`: draws, densities and a diagnosis from files, beside a posterior in closed form."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from backdrift.cli import main
from backdrift.posteriors.simulation_files import read_observations, read_simulations

SMALL = ["members=1", "hidden=8", "depth=1", "steps=2", "draws=200", "data.test=0.05"]
N = 400


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """theta ~ N(0, I) in 2 dimensions, and x = (a + b, a - b, a) + noise of 0.5, as a table and as arrays."""
    folder, g = tmp_path_factory.mktemp("simulations"), np.random.default_rng(0)
    theta = g.standard_normal((N, 2))
    x = theta @ SLOPE.T + 0.5 * g.standard_normal((N, 3))
    heading = {"delimiter": ",", "comments": ""}
    np.savetxt(folder / "sim.csv", np.c_[x[:, :1], theta, x[:, 1:]], header="u,a,b,v,w", **heading)
    np.savetxt(folder / "seen.csv", [[0.1, 0.5, 0.4]], header="v,u,w", **heading)
    np.savetxt(folder / "more.csv", [[0.1, 0.5, 0.4, 1.0]], header="v,u,w,z", **heading)
    np.savez(folder / "sim.npz", theta=theta, x=x)
    np.savez(folder / "bad.npz", theta=theta, y=x)
    np.savez(folder / "unequal.npz", theta=theta, x=x[1:])
    np.savez(folder / "pickled.npz", theta=np.array([None] * N, dtype=object), x=x)
    (folder / "text.npz").write_text("hello")
    np.savez(folder / "empty.npz", theta=theta[:0], x=x[:0])
    np.savez(folder / "constant.npz", theta=np.full((N, 1), 3.0), x=x)
    np.savez(folder / "few.npz", theta=theta[:30], x=x[:30])
    np.save(folder / "pickled.npy", np.array([None] * 3, dtype=object), allow_pickle=True)
    np.save(folder / "words.npy", np.array(["u", "v", "w"]))
    (folder / "holed.csv").write_text("u,v,w\n1,,3\n")
    np.save(folder / "seen.npy", np.array([0.5, 0.1, 0.4]))
    np.save(folder / "two.npy", x[:2])
    np.save(folder / "wide.npy", np.zeros(4))
    return folder


SLOPE = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])


def run(capsys: pytest.CaptureFixture[str], runs: Path, *overrides: str) -> tuple[int, str, str]:
    status = main(["posterior", f"runs={runs}", *SMALL, *overrides])
    said = capsys.readouterr()
    return status, said.out, said.err


def table(out: str) -> tuple[list[str], np.ndarray]:
    found = re.search(r"\S+draws\.csv", out)
    assert found is not None
    lines = [line for line in Path(found[0]).read_text().splitlines() if not line.startswith("#")]
    heading, *rows = csv.reader(lines)
    return heading, np.array(rows, dtype=float)


def test_a_table_and_an_archive_give_the_same_and_the_exact_posterior(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two steps the network changes nothing, and the regression's posterior has errors of a few standard errors."""
    of_table = run(
        capsys, tmp_path, f"data.path={files}/sim.csv", "data.parameters=[a,b]", f"observation.path={files}/seen.csv"
    )
    of_arrays = run(capsys, tmp_path, f"data.path={files}/sim.npz", f"observation.path={files}/seen.npy")
    assert of_table[0] == of_arrays[0] == 0, of_table[2] + of_arrays[2]
    (heading, rows), (other, same) = table(of_table[1]), table(of_arrays[1])
    assert heading == ["a", "b", "log_prob", "log_prob_error"]
    assert other == ["theta0", "theta1", "log_prob", "log_prob_error"]
    assert np.allclose(rows, same, atol=1e-6)  # the table was written with 18 digits

    covariance = np.linalg.inv(np.eye(2) + SLOPE.T @ SLOPE / 0.25)
    mean, std = covariance @ SLOPE.T @ [0.5, 0.1, 0.4] / 0.25, np.sqrt(np.diag(covariance))
    assert np.abs((rows[:, :2].mean(0) - mean) / std).max() < 4 * np.sqrt(4 / (0.95 * N) + 1 / 200)
    gap = (rows[:, :2] - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    exact = -0.5 * (gap**2).sum(1) - np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(covariance)[1]
    # log p at a draw errs by about the sum of 2 squares times the relative error of a variance, 4 sqrt(2/n).
    assert np.mean(np.abs(rows[:, 2] - exact)) < 4 * np.sqrt(2 / (0.95 * N)) * 2
    folder = Path(re.search(r"\S+draws\.csv", of_table[1])[0]).parent  # type: ignore[index]
    report = (folder / "report.md").read_text()
    assert "| a |" in report and "were drawn from: a without bounds, b without bounds." in report
    assert (folder / "posterior.png").stat().st_size > 20_000
    assert '<img alt="posterior" src="data:image/png;base64,' in (folder / "report.html").read_text()


def test_what_is_assumed_is_said(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns without names are in the order of the simulations. One draw has no standard deviation."""
    (tmp_path / "seen.csv").write_text("0.5,0.1,0.4\n")
    given = [f"data.path={files}/sim.csv", "data.parameters=[a,b]", f"observation.path={tmp_path}/seen.csv", "draws=1"]
    status, out, error = run(capsys, tmp_path / "runs", *given)
    assert status == 0 and error == ""
    assert "observation: the columns have no names and are taken for u, v, w, in this order" in out
    assert "not known of one draw" in next((tmp_path / "runs").glob("*/report.md")).read_text()


def test_several_observations(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"data.path={files}/sim.npz", f"observation.path={files}/two.npy", "draws=30", "data.parameters=[a,b]"]
    status, _, error = run(capsys, tmp_path, *given)
    assert status == 1 and "observation.rows: expected repeated or each for a file of 2 observations" in error
    assert list(tmp_path.iterdir()) == []
    heading, rows = table(run(capsys, tmp_path, *given, "observation.rows=each")[1])
    assert heading[-1] == "observation" and rows[:, -1].tolist() == [0] * 30 + [1] * 30
    assert table(run(capsys, tmp_path, *given, "observation.rows=repeated")[1])[0] == ["a", "b"]


def test_bounds_and_a_far_observation(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "far.npy", np.full(3, 60.0))
    runs, given = tmp_path / "runs", [f"data.path={files}/sim.npz", f"observation.path={tmp_path}/far.npy"]
    status, out, error = run(capsys, runs, *given, "prior.lower=[-10,null]", "prior.upper=10")
    assert status == 0, error
    assert "warning: x_o: far from every simulation" in out
    rows = table(out)[1]
    assert rows[:, 0].min() > -10 and rows[:, :2].max() < 10
    report = next(runs.glob("*/report.md")).read_text()
    assert "Warning: x_o: far from every simulation" in report


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.path=none.npz"], "data.path=none.npz: there is no such file"),
        (["data.path={}/bad.npz"], "expected the arrays theta and x, got theta, y"),
        (["data.path={}/unequal.npz"], "unequal.npz: expected as many rows of x as of theta, got 399 and 400"),
        (["data.path={}/sim.csv"], "data.parameters: expected the columns that are parameters, out of u, a, b, v, w"),
        (["data.path={}/sim.csv", "data.parameters=[c]"], "data.parameters: expected columns out of u, a, b, v, w"),
        (["data.parameters=[a]"], "data.parameters: expected 2 names, one for each parameter, got 1"),
        (
            ["data.path={}/sim.csv", "data.parameters=[a,b]", "observation.path={}/more.csv"],
            "expected the columns u, v, w, got v, u, w, z",
        ),
        (
            ["observation.path={}/wide.npy"],
            "expected one observation of shape [3], as in the simulations, or rows of them, got shape [4]",
        ),
        (["data.test=0.01"], "data.test: expected a share that holds back at least 20 of the 400 simulations"),
        (["prior.lower=[1]"], "prior.lower: expected one number for each of the 2 parameters, got 1"),
        (["prior.lower=0"], "theta: expected parameters within the support of the prior"),
        (["prior.lower=abc"], "prior.lower: expected"),
        (["draws=0"], "draws: expected an integer"),
        (["data.path={}/pickled.npz"], "pickled.npz: not a whole .npz archive of numbers (it holds no array"),
        (["data.path={}/text.npz"], "text.npz: not a whole .npz archive of numbers (it holds no array of numbers)"),
        (["data.path={}/empty.npz"], "empty.npz: theta: expected rows of numbers, got shape [0, 2]"),
        (["data.path={}/constant.npz"], "expected parameters that vary, got 3 in all 400 rows of theta0"),
        (["data.path={}"], "expected an archive (.npz) or a table (.csv, .tsv, .txt, .csv.gz"),
        (["data.path={}/seen.npy"], "expected an archive (.npz) or a table"),
        (["data.parameters=[a,a]"], "data.parameters: expected different names, got a twice"),
        (["data.header=true"], "data.header: expected null for"),
        (["data.test=0.99"], "which holds back 396 and leaves 4"),
        (["data.path={}/few.npz"], "few.npz: expected at least 40 simulations, got 30"),
        (["observation.path={}/pickled.npy"], "observation.path={}/pickled.npy: not a whole .npy file of numbers ("),
        (["observation.path={}/holed.csv", "data.path={}/sim.csv", "data.parameters=[a,b]"], ": observation.path="),
        (["observation.path={}/words.npy"], "observation.path={}/words.npy: expected numbers, got"),
        (["seed=4294967296"], "seed: expected an integer from 0 to 4294967295"),
        (["observation.rows=many"], "observation.rows: expected one of single, repeated, each"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    overrides: list[str], said: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"data.path": f"{files}/sim.npz", "observation.path": f"{files}/seen.npy"}
    given |= dict(one.format(files).split("=", 1) for one in overrides)
    status, _, error = run(capsys, tmp_path, *(f"{key}={value}" for key, value in given.items()))
    assert status == 1 and said.format(files) in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == []


def test_empty_cells_of_a_table_are_simulations_that_failed(tmp_path: Path) -> None:
    """They were refused with the advice to fill them. As an archive the same simulations were taken."""
    (tmp_path / "sim.csv").write_text("a,u,v\n1,2,\n2,nan,3\n,,\n3,4,5\n")
    found = read_simulations(tmp_path / "sim.csv", ["a"])
    assert np.array_equal(found.theta, [[1.0], [2.0], [3.0]])
    assert np.array_equal(found.x, [[2.0, np.nan], [np.nan, 3.0], [4.0, 5.0]], equal_nan=True)
    assert found.notes == ("rows all of whose values are missing: 1, the first is row 4; they are left out",)
    (tmp_path / "holed.csv").write_text("a,u\n1,2\n,3\n2,4\n")
    with pytest.raises(ValueError, match="expected a number of each parameter, got none of a in row 3; remove this"):
        read_simulations(tmp_path / "holed.csv", ["a"])
    (tmp_path / "seen.csv").write_text("u,v\n1,\n")
    with pytest.raises(
        ValueError, match=r"observation.path=.*: expected finite numbers, got NaN or infinite ones in 1"
    ):
        read_observations(tmp_path / "seen.csv", found)


@pytest.mark.parametrize(("seen", "k"), [(0.5, 1), ([0.5], 1), ([[0.5]], 1), ([0.5, 0.4], 2), ([[0.5], [0.4]], 2)])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_observation_of_one_number_may_have_an_axis(
    seen: list[float], k: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    np.savez(tmp_path / "sim.npz", theta=np.arange(4.0), x=np.arange(4.0).reshape(4, *shape))
    np.save(tmp_path / "seen.npy", np.array(seen))
    found = read_observations(tmp_path / "seen.npy", read_simulations(tmp_path / "sim.npz"))
    assert found.x.shape == (k, *shape) and found.x.flat[0] == 0.5
