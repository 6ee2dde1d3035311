"""The exact flow that the solvers' benchmark measures against, and its densities."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from backdrift.models import GaussianMixture
from backdrift.solvers import Adams, DPMSolverPP2M, TableSolver, UniPC
from backdrift.solvers.tables.multistep import Clock
from backdrift.solvers.tables.table_solver import Final


@pytest.fixture(scope="module")
def problems() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "problems.py"
    spec = importlib.util.spec_from_file_location("benchmarks_problems", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exact_flow_of_a_gaussian(problems: ModuleType) -> None:
    """Each principal axis shrinks by sqrt(v/(v + sigma^2)) about the mean."""
    variances = torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)
    mean = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    model = GaussianMixture(mean[None], variances[None], None, problems.SDE)
    x = problems.start(model, 8, seed=1)
    end, error = problems.exact_flow(model, x)
    exact = mean + (variances / (variances + problems.SIGMA_MAX**2)).sqrt() * (x - mean)
    assert float((end - exact).norm(dim=1).max()) < 1e-6
    assert bool(((end - exact).norm(dim=1) < error + 1e-9).all())


@pytest.mark.parametrize("name", ["modes", "decades"])
def test_exact_flow_of_a_mixture_against_dop853(problems: ModuleType, name: str) -> None:
    """Another method, another time variable: dx/dlog(sigma) = x - D by Dormand and Prince's eighth-order pair."""
    model = problems.PROBLEMS[name](0)
    x = problems.start(model, 3, seed=2)

    def flow(log_sigma: float, y: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(y).reshape(x.shape)
        return (z - model.denoise(z, math.exp(2 * log_sigma))).flatten().numpy()

    span = (math.log(problems.SIGMA_MAX), math.log(1e-4))
    path = solve_ivp(flow, span, x.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12).y
    y = torch.from_numpy(path[:, -1].copy()).reshape(x.shape)
    end = (y + model.denoise(y, 1e-8)) / 2
    ours, error = problems.exact_flow(model, x)
    assert float((ours - end).norm(dim=1).max()) < 1e-5
    assert float(error.max()) < 1e-4


def test_fitted_mixture_is_the_one_in_all_dimensions(problems: ModuleType) -> None:
    """In axes that begin with the components' span nothing is lost: compare with full covariances."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 200)
    images = rng.normal(size=(200, 20)) * np.linspace(1.5, 0.2, 20) + rng.normal(size=(3, 20))[labels]
    model = problems.fitted(images, labels, rank=2)
    assert model.k == 3 + 3 * 2
    means, covariances = [], []
    for label in range(3):
        group = images[labels == label]
        values, vectors = np.linalg.eigh(np.cov(group.T, bias=True))
        values[:-2] = model.variance
        means.append(group.mean(0) - images.mean(0))
        covariances.append((vectors * values) @ vectors.T)
    weights = torch.tensor([float((labels == label).mean()) for label in range(3)], dtype=torch.float64)
    full = GaussianMixture(torch.tensor(np.stack(means)), torch.tensor(np.stack(covariances)), weights, problems.SDE)
    # The same span, found here by the same factorisation; its complement is any orthonormal one.
    directions = [np.linalg.svd(images[labels == k] - images[labels == k].mean(0))[2][:2] for k in range(3)]
    span, _ = np.linalg.qr(np.concatenate([np.stack(means), *directions]).T, mode="complete")
    rotation = torch.from_numpy(span)
    assert model.data_std == pytest.approx(full.data_std, rel=1e-9)
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for sigma in (0.1, 1.0, 30.0):
        wide = full.denoise(x, sigma**2) @ rotation
        torch.testing.assert_close(model.denoise(x @ rotation, sigma**2), wide, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(("name", "instances"), [("modes", 6), ("decades", 2)])
def test_the_default_is_not_behind_other_families_at_their_best(
    problems: ModuleType, name: str, instances: int
) -> None:
    """The settings that other libraries win with in `accuracy.py`, in our code, the best of them chosen in hindsight at
    every budget: the median distance to the exact flow is nowhere more than 10% above theirs, and half of it from 35.
    """
    among = []
    for seed in range(500, 500 + instances):
        model = problems.PROBLEMS[name](seed)
        x = problems.start(model, 48, seed + 1)
        # A twice coarser flow ends about 15 times as far away, see `exact_flow`: the error is below 2% of any distance.
        exact, apart = problems.exact_flow(model, x, 160)
        assert float(apart.median()) / 15 < 0.02 * float((Adams(steps=50).solve(model, x) - exact).norm(dim=1).median())
        among.append((model, x, exact))

    def rivals(data_std: float) -> list[TableSolver]:
        near, far = (data_std * 0.01) ** 2, (data_std * 0.03) ** 2
        finals: tuple[Final, ...] = ("stop", "denoise")
        clocks: tuple[tuple[Clock, str], ...] = (("log_snr", "log_snr"), ("sigma", "karras"))
        kinds: list[TableSolver] = [
            UniPC(order=order, grid=grid, eps=eps, final=final)
            for order in (2, 3)
            for grid in ("log_snr", "karras")
            for eps in (near, far)
            for final in finals
        ]
        kinds += [
            Adams(order=order, predict="noise", clock=clock, start="ramp", grid=grid, eps=near, final="stop")
            for order in (3, 4)
            for clock, grid in clocks
        ]
        return [*kinds, *(DPMSolverPP2M(grid=grid, eps=far) for grid in ("log_snr", "karras"))]

    def median(solvers: list[TableSolver]) -> float:
        ends = [solver.solve(model, x) - exact for solver, (model, x, exact) in zip(solvers, among, strict=True)]
        return float(torch.cat(ends).norm(dim=1).median())

    settings = list(zip(*(rivals(model.data_std) for model, _, _ in among), strict=True))
    for nfe in (5, 6, 8, 10, 15, 20, 35, 50):
        steps = [setting[0].with_budget(nfe, problems.SDE).steps for setting in settings]
        among_settings = zip(settings, steps, strict=True)
        best = min(median([dataclasses.replace(s, steps=n) for s in setting]) for setting, n in among_settings)
        ours = median([Adams(steps=nfe)] * instances)
        assert ours < (1.1 if nfe < 35 else 0.5) * best, f"{nfe} evaluations: {ours:.3g}, the best rival {best:.3g}"
