"""What the benchmark of posteriors compares with: its priors, its costs, and the choice of settings."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from backdrift.sde import VE


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    names = ("problems", "samplers", "costs", "scores")
    return {name: importlib.import_module(f"posterior_{name}") for name in names}


def test_the_fast_prior_is_the_mixture(modules: dict[str, ModuleType]) -> None:
    """With and without axes of its own for each component, and for another process."""
    made = modules["problems"]
    grid = made.grid(3, 8, 1).prior
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(3, 6, 2, generator=g, dtype=torch.float64))[0]
    means, variances = (
        torch.randn(3, 6, generator=g).double(),
        torch.tensor([[1.0, 0.5], [2.0, 0.3], [0.9, 0.8]]).double(),
    )
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    wide = made.Prior(made.PrincipalComponents(means, axes, variances, 0.1, weights), made.VP())
    for prior in (grid, wide, wide.under(VE())):
        mixture, x = prior.mixture(), torch.randn(5, prior.means.shape[1], generator=g, dtype=torch.float64)
        for t in (0.05, 0.7):
            time = torch.tensor(t, dtype=torch.float64)
            torch.testing.assert_close(prior.denoise(x, time), mixture.denoise(x, time), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(prior.data_moments, mixture.data_moments)
        assert abs(prior.data_std - mixture.data_std) < 1e-12


def test_pruning_a_posterior_keeps_its_mean(modules: dict[str, ModuleType]) -> None:
    made = modules["problems"].grid(3, 8, 1)
    whole = made.prior.mixture().given(made.measurement)
    assert len(made.posterior.means) < len(whole.means)
    torch.testing.assert_close(made.posterior.data_moments, whole.data_moments, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "setting", "evaluations", "products"),
    [
        ("DPS", "scale 1", 20, 20),
        ("TMPD", "", 20, 40),
        ("JFPS", "", 20, 0),
        ("MMPS", "exact", 20, 20),  # one component is seen
        ("DDRM", "eta 1", 20, 0),
    ],
)
def test_costs_are_those_that_the_guides_state(
    modules: dict[str, ModuleType], method: str, setting: str, evaluations: int, products: int
) -> None:
    """20 steps, and for the guides a last evaluation where the ancestral sampler has one."""
    (sampler,) = (s for s in modules["samplers"].ours() if (s.name, s.setting) == (method, setting))
    found = modules["costs"].cost("grid8", sampler)
    assert found.evaluations * 20 in (pytest.approx(evaluations), pytest.approx(evaluations + 1))
    assert found.products / found.evaluations == pytest.approx(products / evaluations, abs=2e-3)


def test_a_cell_takes_the_best_of_the_settings_with_most_observations(modules: dict[str, ModuleType]) -> None:
    scores = modules["scores"]
    rows = {"a": [1.0, 4.0], "b": [2.0, 2.5, 3.0, 3.5], "c": [9.0, 9.0, 1.0, 1.0], "d": [9.0, 9.0], "e": [8.0, 8.0]}
    rows["a again"] = [1.0, 4.0001]  # the same as "a" to rounding, which takes no place among the best three
    found = [
        scores.Score("grid8", "DPS", setting, 50, scores.FIRST + i, ratio, 0.0)
        for setting, ratios in rows.items()
        for i, ratio in enumerate(ratios)
    ]
    assert scores.finalists(found, "grid8", 50) == {"DPS": ["a", "b", "e"]}
    cell = scores.cells(found, "grid8")["DPS", 50]
    assert (cell.setting, cell.median) == ("b", 2.75)


def test_a_difference_is_of_the_observations_that_both_have(modules: dict[str, ModuleType]) -> None:
    """Pairs that differ by one number have a difference without error, however much the observations vary."""
    scores = modules["scores"]
    ours = scores.Cell("", {1: 2.0, 2: 30.0, 3: 5.0, 9: 1000.0})
    theirs = scores.Cell("", {1: 1.5, 2: 29.5, 3: 4.5, 8: 0.0})
    assert scores.difference(ours, theirs) == (pytest.approx(0.5), pytest.approx(0.0, abs=1e-5))
