"""Divergences: exact, by probes, and exact on a subspace; and the error that single draws state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.sde import VP
from backdrift.solvers import log_likelihood
from backdrift.solvers.density.divergence import deflated, divergence, orthonormal, products
from backdrift.solvers.density.noisy_sum import NoisySum


def test_divergence_exact_and_by_probes() -> None:
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double()

    def field(z: Tensor) -> Tensor:
        return torch.sin(z @ matrix)

    expected = torch.stack([torch.func.jacrev(field)(row).trace() for row in z])
    for chunk in (None, 1, 2, 7):
        for how in (field, torch.no_grad()(field)):  # in reverse mode, and in forward mode
            value, found = divergence(how, z, chunk)
            torch.testing.assert_close(value, field(z))
            torch.testing.assert_close(found, expected)
            assert not value.requires_grad and not found.requires_grad
    units = torch.eye(5).double().unsqueeze(1)
    for chunk in (None, 2):
        torch.testing.assert_close(products(field, z, units, chunk)[1].sum(0), expected)


def test_deflated_is_exact_for_low_rank_and_a_multiple_of_the_identity() -> None:
    """J = c + U V^T with U V^T of rank 3, symmetric or not: the estimate is exact once the basis has been found."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    z = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    matrix = 0.7 * torch.eye(20).double() + left.mT @ right

    def draw(k: int) -> Tensor:
        return torch.randn(k, 2, 20, generator=generator, dtype=torch.float64)

    basis = orthonormal(draw(3))
    for _ in range(12):  # subspace iteration gains the more per step, the better the mean elsewhere is known
        value, draws, beside, basis = deflated(lambda y: y @ matrix.mT, z, basis, draw(2), draw(0))
    torch.testing.assert_close(value, z @ matrix.mT)
    torch.testing.assert_close(draws, matrix.trace().expand(2, 2), rtol=1e-6, atol=0)
    assert beside.shape == (0, 2)


def test_deflated_is_unbiased_and_its_draws_independent() -> None:
    """For any basis: the mean and the correlation of 4000 pairs of draws are within 4 standard errors."""
    generator = torch.Generator().manual_seed(1)
    n = 4000
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    basis = orthonormal(torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)).expand(2, n, 6)
    probes = torch.randn(2, n, 6, generator=generator, dtype=torch.float64)
    z = torch.zeros(n, 6).double()
    for chunk in (None, 1):
        _, draws, beside, _ = deflated(lambda y: y @ matrix.mT, z, basis, probes, probes[:1], chunk)
        off = draws - matrix.trace()
        assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(2 * n)
        assert abs(float((off[0] * off[1]).mean() / off.square().mean())) < 4 / math.sqrt(n)
        torch.testing.assert_close(beside[0], torch.einsum("bi,ij,bj->b", probes[0], matrix, probes[0]))


class LowRank:
    """N(0, U U^T + v) in 784 dimensions, with U of rank 12 and widths from 3 to 0.3.

    D = alpha C (alpha^2 C + sigma^2)^-1 x multiplies each direction of U, and all others, by a number, at a cost of 784
    x 12.
    """

    size, rank, variance = 784, 12, 0.02

    def __init__(self) -> None:
        self.sde = VP()
        generator = torch.Generator().manual_seed(0)
        axes = torch.linalg.qr(torch.randn(self.size, self.rank, generator=generator, dtype=torch.float64))[0]
        self.axes, self.inner = (
            axes,
            torch.logspace(math.log10(9), math.log10(0.09), self.rank).double() + self.variance,
        )
        self.data_std = math.sqrt(float((self.inner - self.variance).sum()) / self.size + self.variance)

    def _moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        return self.sde.alpha(t), self.sde.sigma(t).square()

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, noise = self._moments(t)
        inner, outer = (alpha * c / (alpha**2 * c + noise) for c in (self.inner, self.variance))
        return outer * x + ((inner - outer) * (x @ self.axes)) @ self.axes.mT

    def log_prob(self, x: Tensor, t: float | None = None) -> Tensor:
        """log p_t of the state; at T by default, as for a prior."""
        alpha, noise = self._moments(torch.tensor(self.sde.T if t is None else t))
        inner, outer = (alpha**2 * c + noise for c in (self.inner, torch.tensor(self.variance).double()))
        along = x @ self.axes
        rest = x.square().sum(1) - along.square().sum(1)
        square = (along.square() / inner).sum(1) + rest / outer
        logs = inner.log().sum() + (self.size - self.rank) * outer.log()
        return -0.5 * (square + logs + self.size * math.log(2 * math.pi))

    def sample(self, n: int) -> Tensor:
        """States at eps."""
        alpha, noise = self._moments(torch.tensor(self.sde.eps))
        e = torch.randn(n, self.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        outer = (alpha**2 * self.variance + noise).sqrt()
        return outer * e + (((alpha**2 * self.inner + noise).sqrt() - outer) * (e @ self.axes)) @ self.axes.mT


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "hutch++"])
@pytest.mark.parametrize("method", ["rk4", "score_corrected"])
def test_low_rank_images_within_the_stated_error(method: Any, kind: Any) -> None:
    """Every estimator against the closed form in 784 dimensions, on 24 samples.

    The sum of the squared errors, each divided by its standard error, is chi squared with 24 degrees of freedom, which
    is above 45 once in 200 times.
    """
    model = LowRank()
    x = model.sample(24)
    steps = {"rk4": 16, "score_corrected": 48}[method]
    found = log_likelihood(model, x, method=method, steps=steps, probes=8, probe_kind=kind, prior=model)
    off = (found.log_prob - model.log_prob(x, model.sde.eps)).abs()
    beyond = (off - found.solver_error).clamp(min=0) / found.standard_error
    assert float(beyond.square().sum()) < 45
    assert float(found.solver_error.max()) < 1.0  # of 784 components: 0.002 bits/dim


def test_low_rank_exact_divergence_is_the_closed_form() -> None:
    model = LowRank()
    x = model.sample(1)
    found = log_likelihood(model, x, method="score_corrected", steps=48, probes="exact", chunk=98, prior=model)
    off = (found.log_prob - model.log_prob(x, model.sde.eps)).abs()
    assert bool((off <= found.solver_error).all()), (off, found.solver_error)


@pytest.mark.parametrize(("products", "least", "most"), [(4, 1.05, 1.35), (16, 0.4, 0.6), (24, 0.0, 1e-3)])
def test_deflation_takes_the_variance_of_a_low_rank_jacobian(products: int, least: float, most: float) -> None:
    """At as many products the standard error is 1.16, 0.51 and 1e-4 times that of Rademacher probes.

    The subspace then has 2, 8 and 12 of the 12 directions.
    """
    model = LowRank()
    x = model.sample(4)
    errors = []
    for kind in ("hutch++", "rademacher"):
        settings: dict[str, Any] = {"method": "score_corrected", "probes": products, "probe_kind": kind}
        found = log_likelihood(model, x, **settings, prior=model, estimate_error=False)
        errors.append(float(found.standard_error.square().mean().sqrt()))
    assert least <= errors[0] / errors[1] <= most


def test_single_draws_state_their_noise_and_not_their_trend() -> None:
    """One draw of variance 1 around a cubic, at each of 40 places: the variance of the sum is 40.

    Its estimate is averaged over 2000 trials. The degrees of freedom are those of the spread of the estimates.
    """
    n, places = 2000, torch.linspace(-2, 2, 40)
    generator = torch.Generator().manual_seed(0)
    tally = NoisySum(torch.zeros(n, 1).double())
    truth = 0.0
    for k, place in enumerate(places.tolist()):
        mean = 5 * place**3 - 7 * place
        truth += mean
        tally.add(1.0, mean + torch.randn(1, n, generator=generator).double(), k)
    variance, degrees = tally.error()
    assert float(variance.mean()) == pytest.approx(40, rel=0.05)
    assert float(tally.total.mean()) == pytest.approx(truth, abs=4 * math.sqrt(40 / n))
    # Welch's degrees: the relative variance of the estimate is 2/degrees.
    spread = float(variance.var() / variance.mean().square())
    assert float(degrees.median()) == pytest.approx(2 / spread, rel=0.3)
