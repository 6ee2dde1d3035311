"""Monotone maps of columns: their inverse and slope, and what is chosen for columns whose density is known."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import ledoit_wolf

from backdrift.data import Data, DataCard
from backdrift.data.column_map import BEND, ColumnMap
from backdrift.data.outliers import find_outliers
from backdrift.data.transform import Transform
from backdrift.data.transform_fit import fit_transform

MAPS = [
    ColumnMap("outliers", 3.0, 2.0),
    ColumnMap("heavy", -1.0, 0.5, left=0.6, right=30.0),
    ColumnMap("heavy", 0.0, 1.0, left=3.0, right=3.0),
    ColumnMap("skewed", 1.0, 2.0, skew=2.0, growth=0.7),
    ColumnMap("skewed", -5.0, 7.5, skew=-15.0, growth=1.5),
    ColumnMap("skewed", 0.0, 1.0, skew=0.0, growth=0.02),
]


@pytest.mark.parametrize("chosen", MAPS, ids=lambda chosen: f"{chosen.kind} {chosen.skew:g} {chosen.right:g}")
def test_inverse_and_slope_are_exact(chosen: ColumnMap) -> None:
    """h has 53 bits: v is known to a part in 1e16 of h times the logarithmic slope of the inverse."""
    h = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    v = chosen.inverse(h)
    assert bool(v.isfinite().all()) and bool((v[1:] > v[:-1]).all())
    back, log_slope = chosen.forward(v)
    torch.testing.assert_close(back, h, rtol=1e-9, atol=1e-9 * max(1.0, abs(chosen.skew)))
    # The derivative of the inverse by central differences, of error (step^2/6) times its third derivative.
    step = 1e-5
    slope = (chosen.inverse(h + step) - chosen.inverse(h - step)) / (2 * step)
    smooth = (h.abs() - BEND).abs() > 1e-4  # the second derivative jumps where the tails for outliers begin
    torch.testing.assert_close(log_slope[smooth], -slope.log()[smooth], rtol=0, atol=1e-5)


@pytest.mark.parametrize("chosen", MAPS[:4], ids=lambda chosen: f"{chosen.kind} {chosen.skew:g} {chosen.right:g}")
@pytest.mark.parametrize("v", [1e20, -1e155, 1e300])
def test_values_far_away_have_finite_scores(chosen: ColumnMap, v: float) -> None:
    h, log_slope = chosen.forward(torch.tensor([v], dtype=torch.float64))
    assert bool(h.isfinite()) and bool(log_slope.isfinite()) and float(h) * v > 0
    assert math.log(abs(float(chosen.inverse(h)))) == pytest.approx(math.log(abs(v)), abs=1e-9)


def test_the_scores_of_student_are_wallace_s() -> None:
    """Wallace (1959): the normal score of t is near sqrt(k log(1 + t^2/k)) (8k + 1)/(8k + 3), here within 0.15."""
    t = torch.linspace(-15, 15, 301, dtype=torch.float64)
    for k in (1.0, 2.0, 3.0, 10.0):
        exact = stats.norm.ppf(stats.t(k).cdf(-t.abs().numpy()))
        wallace = -ColumnMap("heavy", 0, 1, left=k, right=k).forward(t)[0].abs() * (8 * k + 1) / (8 * k + 3)
        assert float((wallace - torch.from_numpy(exact)).abs().max()) < 0.15


def test_a_large_skew_is_a_logarithm() -> None:
    """scale = centre growth: the map of v > 0 is log(v/centre)/growth."""
    v = torch.logspace(-3, 4, 50, dtype=torch.float64)
    h, log_slope = ColumnMap("skewed", 2.0, 2.0 * 0.7, skew=15.0, growth=0.7).forward(v)
    torch.testing.assert_close(h, (v / 2).log() / 0.7, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_slope, -(0.7 * v).log(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "cubic"}, {"scale": 0.0}, {"left": -1.0}, {"centre": math.inf}, {"skew": 800.0}, {"colour": 1.0}],
    ids=str,
)
def test_a_map_that_is_wrong_is_refused(wrong: dict) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        ColumnMap.from_dict(MAPS[1].to_dict() | wrong)


COLUMNS = {
    "normal": stats.norm(loc=3),
    "student 2": stats.t(2),
    "student 3": stats.t(3, loc=9),
    "cauchy": stats.t(1),
    "log-normal": stats.lognorm(1),
    "log-normal 2": stats.lognorm(2),
    "log-normal of losses": stats.lognorm(0.5),
    "outlier": stats.norm(loc=3),
}


def rows(name: str, n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose columns have the density `COLUMNS[name]` and are correlated by 1/2, and their log-densities."""
    correlation, density = 0.5 * np.eye(d) + 0.5, COLUMNS[name]
    z = np.random.default_rng(seed).multivariate_normal(np.zeros(d), correlation, n)
    x = density.ppf(stats.norm.cdf(z))
    log_p = stats.multivariate_normal(np.zeros(d), correlation).logpdf(z) + (
        density.logpdf(x) - stats.norm.logpdf(z)
    ).sum(1)
    return (-x, log_p) if name == "log-normal of losses" else (x, log_p)


def fitted(x: np.ndarray) -> tuple[Transform, torch.Tensor]:
    train = torch.from_numpy(x)
    chosen = fit_transform(train, find_outliers(train))
    return chosen or Transform((None,) * x.shape[1]), train


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("n", "d"), [(300, 1), (300, 4), (3000, 2)])
def test_a_normal_density_after_the_map_is_the_truth(name: str, n: int, d: int) -> None:
    """The mean held-out log-density is within 0.1 nats of the truth, less what 5 numbers for each column and the
    covariance cost on average, (5 d + d (d + 1)/2)/(2 n). Without maps the gaps are 0.2 to 13 nats for each column."""
    x, _ = rows(name, n, d, seed=0)
    if name == "outlier":
        x = np.vstack([x, np.full((1, d), 1e6)])
    chosen, train = fitted(x)
    held, truth = rows(name, 5000, d, seed=1)
    test = torch.from_numpy(held)
    h, new = chosen.forward(train).numpy(), chosen.forward(test).numpy()
    centre, scale = h.mean(0), h.std(0)
    normal = stats.multivariate_normal(np.zeros(d), ledoit_wolf((h - centre) / scale, assume_centered=True)[0])
    log_p = normal.logpdf((new - centre) / scale) - np.log(scale).sum() + chosen.log_slope(test).numpy()
    gap = truth - log_p
    assert abs(gap.mean()) < min(0.1, (5 * d + d * (d + 1) / 2) / n) + 3 * gap.std() / math.sqrt(len(gap))
    np.testing.assert_allclose(chosen.inverse(torch.from_numpy(new)).numpy(), held, rtol=1e-6, atol=1e-9)
    assert (chosen.mapped == []) == (name == "normal")


def test_normal_columns_stay_as_they_are() -> None:
    """Each of 3 numbers is worth its penalty by chance in 1 to 2% of the cases: at most 5 of 40 columns."""
    mapped = [fitted(np.random.default_rng(seed).normal(size=(400, 1)))[0].mapped for seed in range(40)]
    assert sum(map(len, mapped)) <= 5


def test_columns_that_are_linear_in_each_other_stay_so() -> None:
    """Four log-normal columns that differ by a noise of 0.1. The logarithm is worth 0.19 nats once. It would give the
    noise of three columns a deviation of 0.1/x, of one number for all x: a loss of 3 var log x = 0.75 nats."""
    generator = np.random.default_rng(0)
    x = generator.lognormal(sigma=0.5, size=(1000, 1))
    assert fitted(x + 0.1 * generator.normal(size=(1000, 4)))[0].mapped == []
    assert fitted(x)[0].mapped == [0]


def test_discrete_columns_and_few_rows_have_no_maps() -> None:
    generator = np.random.default_rng(0)
    assert fitted(generator.poisson(1.0, size=(500, 1)).astype(float))[0].mapped == []
    assert fitted(generator.standard_cauchy(size=(15, 1)))[0].mapped == []


def outlying() -> torch.Tensor:
    """3000 normal rows, one of which is 1e6; the second column is log-normal."""
    values = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 1].exp_()
    values[7, 0] = 1e6
    return values


def test_units_carry_the_maps_there_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    values = outlying()
    data = Data(values, values[:100], columns=("a", "b"), name="table.csv", transform="auto")
    said = capsys.readouterr().out
    assert "table.csv, column 1 ('a'): 1 of 3000 training samples" in said and "farthest 1e+06" in said
    assert "a map of the column brings them near" in said and "column 2 ('b') (skewed)" in said
    x = data.to_model(data.train)
    assert float(x.abs().max()) < 7 and data.std == pytest.approx(1, abs=1e-3)
    others = torch.arange(3000) != 7
    torch.testing.assert_close(data.to_data(x)[others], values[others], rtol=3e-6, atol=3e-6)  # x has 24 bits
    assert float(data.to_data(x)[7, 0]) == pytest.approx(1e6, rel=1e-4)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x.double()).sum(1) + data.units.log_jacobian(values)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(torch.stack([values[:, 0], values[:, 1].log()], 1))
    truth = truth.sum(1) - values[:, 1].log()
    assert float((exact - truth)[others].mean()) == pytest.approx(0, abs=0.01)  # four numbers cost 4/6000 nats


def test_the_card_keeps_the_maps() -> None:
    values = outlying()
    card = Data(values, values[:100], transform="auto").card
    again = DataCard.from_dict(json.loads(json.dumps(card.to_dict())))
    assert again.units.transform == card.units.transform and card.difference(again) is None
    x = card.units.to_model(values)
    assert torch.equal(again.units.to_data(x), card.units.to_data(x))
    plain = Data(values, values[:100]).card
    assert card.difference(plain) == "the maps of its columns have changed"
    assert "has changed" in str(card.difference(Data(1.1 * values, values, transform="auto").card))
    old = plain.to_dict()
    del old["transform"]  # a run from before there were maps
    assert DataCard.from_dict(old).units.transform is None
    for wrong in ("x", [None], [None, "x"], [None, {"kind": "heavy"}], 3):
        with pytest.raises(ValueError, match=r"wrong kind|missing"):
            DataCard.from_dict(card.to_dict() | {"transform": wrong})


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="transform=box-cox: expected auto or none"):
        Data(torch.eye(2), torch.eye(2), transform="box-cox")
