import math

import pytest
import torch
from torch import nn

from backdrift.models import ConservativeDenoiser, DenoisingLoss, Energy, GaussianMixture, LogDensity
from backdrift.sde import VP, GaussianSDE


class Potential(nn.Module):
    """A smooth scalar network psi(z, c_noise)."""

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def forward(self, z, c_noise):
        return self.layers(torch.cat((z, c_noise.reshape(-1, 1).to(z)), 1))


def small_energy(dim=3):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(dim, 16), nn.SiLU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 1)).double()
    return Energy(network)


def test_score_is_minus_the_slope_of_the_energy():
    energy = small_energy()
    x = torch.randn(5, 3, dtype=torch.float64)
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    slope = torch.stack([(energy(x + e) - energy(x - e)) / 2e-5 for e in step], 1)
    torch.testing.assert_close(energy.score(x), -slope, atol=1e-8, rtol=1e-6)


def test_score_is_conservative():
    energy = small_energy()
    x = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: energy.score(x[None])[0], x)
    torch.testing.assert_close(jacobian, jacobian.T, atol=1e-14, rtol=0)
    assert jacobian.abs().max() > 1e-3


def test_score_leaves_no_graph_behind_without_gradients():
    energy = small_energy()
    with torch.no_grad():
        assert not energy.score(torch.randn(2, 3, dtype=torch.float64)).requires_grad
    assert energy.score(torch.randn(2, 3, dtype=torch.float64)).requires_grad


def test_temperatures_divide_and_multiply():
    x = torch.randn(4, 3, dtype=torch.float64)
    given = LogDensity(lambda x: x.sum(-1), torch.ones_like)
    for density in (small_energy(), LogDensity(lambda x: -x.pow(4).sum(-1)), given):
        twice = density.tempered(2.0).tempered(3.0)
        assert twice.temperature == 6
        torch.testing.assert_close(twice.log_prob(x), density.log_prob(x) / 6)
        torch.testing.assert_close(twice.score(x), density.score(x) / 6)
        assert density.temperature == 1


def test_lecture_gibbs_density_of_gradient_descent():
    # McAllester (2022): noise variance eta sigma^2 in dx = -L' dt + noise gives p = exp(-2 L/(eta sigma^2))/Z.
    eta, sigma = 0.1, 2.0
    loss = lambda x: (x.pow(4) / 4 - x.square() / 2).sum(-1)  # noqa: E731
    gibbs = LogDensity(lambda x: -loss(x), temperature=eta * sigma**2 / 2)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    # No flow where it is stationary: p (-L') - (eta sigma^2/2) p' = 0, that is score = -2 L'/(eta sigma^2).
    torch.testing.assert_close(gibbs.score(x), -2 * (x**3 - x) / (eta * sigma**2))
    torch.testing.assert_close(gibbs.log_prob(x), -2 * loss(x) / (eta * sigma**2))


def test_a_function_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match="one number for each sample"):
        LogDensity(lambda x: x).score(torch.randn(4, 3))
    with pytest.raises(ValueError, match="temperature"):
        LogDensity(lambda x: x.sum(-1), temperature=0.0)
    with pytest.raises(ValueError, match="temperature"):
        small_energy().tempered(-1.0)


@pytest.mark.parametrize("t", [0.01, 0.4, 1.0])
def test_conservative_denoiser_is_the_gradient_of_its_log_density(t):
    torch.manual_seed(1)
    model = ConservativeDenoiser(Potential(3), VP(), data_std=0.7).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    times = torch.full((6,), t, dtype=torch.float64)
    (slope,) = torch.autograd.grad(model.log_prob(x, times).sum(), x)
    torch.testing.assert_close(slope, model.score(x, times), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(model.log_prob(x, t), model.log_prob(x, times))


def test_conservative_denoiser_learns_a_mixture_by_the_ordinary_loss():
    torch.manual_seed(2)
    process: GaussianSDE = VP()
    truth = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.05, sde=process)
    model = ConservativeDenoiser(Potential(2, 64), process, data_std=0.8)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = DenoisingLoss()

    def divergence():  # of the noise prediction, E |sigma (s - s*)|^2
        x0, total = truth.sample(2000), 0.0
        for t in (0.05, 0.2, 0.5):
            x = process.perturb(x0, t)
            total += float((process.sigma(t) * (model.score(x, t) - truth.score(x, t))).square().sum(1).mean())
        return total / 3

    with torch.no_grad():
        before = divergence()
    for _ in range(400):
        optimiser.zero_grad()
        loss(model, truth.sample(256)).mean().backward()
        optimiser.step()
    with torch.no_grad():
        after = divergence()
    # The untrained network is the Gaussian denoiser; what is left of its error is what was learnt.
    assert after < 0.05 * before, (before, after)
    # Log-densities at one time differ by a constant: compare differences between two points.
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.3, 0.2]])
    with torch.no_grad():
        learnt = float(model.log_prob(a, 0.1) - model.log_prob(b, 0.1))
    exact = float(truth.log_prob(a, 0.1) - truth.log_prob(b, 0.1))
    assert math.isclose(learnt, exact, rel_tol=0.15), (learnt, exact)
