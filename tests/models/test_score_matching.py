import numpy as np
import pytest
import torch

from backdrift.models import Energy, GaussianMixture
from backdrift.models import score_matching as sm
from backdrift.sde import VP

F64 = torch.float64


def lbfgs(parameters, max_iter):
    """L-BFGS that stops at a gradient of 1e-11 and no earlier."""
    return torch.optim.LBFGS(
        parameters, max_iter=max_iter, tolerance_grad=1e-11, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )


class Quadratic(torch.nn.Module):
    """E = (x - m) P (x - m)/2."""

    def __init__(self, dim):
        super().__init__()
        self.m = torch.nn.Parameter(torch.zeros(dim, dtype=F64))
        self.p = torch.nn.Parameter(torch.eye(dim, dtype=F64))

    def forward(self, x):
        y = x - self.m
        return 0.5 * torch.einsum("bi,ij,bj->b", y, 0.5 * (self.p + self.p.T), y)


def hermite(n):
    """Nodes and weights of E f(z), z ~ N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(z), torch.from_numpy(w / w.sum())


def trapezoid(n, reach=9.0):
    """The same by the trapezoidal rule, which converges geometrically where mixtures defeat polynomials."""
    z = torch.linspace(-reach, reach, n, dtype=F64)
    w = (-0.5 * z.square()).exp()
    return z, w / w.sum()


def wiggle():
    """A score that is neither linear nor a gradient."""
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(2, 2, generator=generator, dtype=F64, requires_grad=True)
    return w, lambda x: -0.7 * x + torch.tanh(x @ w.T)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 2.0]], dtype=F64)
    return torch.randn(400, 3, generator=generator, dtype=F64) @ root.T + torch.tensor([1.0, -2.0, 0.5], dtype=F64)


def test_implicit_minimiser_of_a_gaussian_energy_is_the_sample_covariance(data):
    # Hyvärinen (2005), section 3.1: the minimiser in closed form is that of maximum likelihood.
    network = Quadratic(3)
    energy = Energy(network)
    optimiser = lbfgs(network.parameters(), 300)

    def closure():
        optimiser.zero_grad()
        loss = sm.implicit(energy.score, data).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    precision = 0.5 * (network.p + network.p.T).detach()
    torch.testing.assert_close(torch.linalg.inv(precision), torch.cov(data.T, correction=0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(network.m.detach(), data.mean(0), atol=1e-6, rtol=1e-6)


def test_sliced_minimiser_is_the_same_where_the_probes_are_exact(data):
    # Rademacher probes see a diagonal Hessian exactly: the variances alone, without noise.
    log_precision = torch.zeros(3, dtype=F64, requires_grad=True)
    centred = data - data.mean(0)
    optimiser = lbfgs([log_precision], 100)

    def closure():
        optimiser.zero_grad()
        loss = sm.sliced(lambda x: -log_precision.exp() * x, centred).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close((-log_precision).exp().detach(), centred.square().mean(0), atol=1e-8, rtol=1e-8)


def test_implicit_is_the_fisher_divergence_less_a_constant():
    z, w = hermite(60)
    x = torch.cartesian_prod(z, z)
    weights = torch.outer(w, w).flatten()
    _, score = wiggle()
    x = x * torch.tensor([0.8, 1.3], dtype=F64)
    true = -x / torch.tensor([0.64, 1.69], dtype=F64)
    implicit = weights @ sm.implicit(score, x)
    explicit = weights @ sm.explicit(score, x, true)
    torch.testing.assert_close(implicit, explicit - 0.5 * weights @ true.square().sum(1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("variance_reduction", [True, False])
def test_sliced_is_implicit_on_average(distribution, variance_reduction):
    generator = torch.Generator().manual_seed(5)
    _, score = wiggle()
    x = torch.tensor([[0.3, -0.8]], dtype=F64).expand(20000, 2)
    with torch.no_grad():
        exact = sm.implicit(score, x[:1])
        values = sm.sliced(score, x, 1, distribution, variance_reduction, generator)
    error = values.std() / len(values) ** 0.5
    assert error > 0
    assert abs(values.mean() - exact) < 4 * error


def test_variance_reduction_reduces_variance():
    _, score = wiggle()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(4), dtype=F64).repeat_interleave(2000, 0)

    def spread(probes, kept):  # over the probes, averaged over the data
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            return sm.sliced(score, x, probes, "rademacher", kept, generator).reshape(30, -1).var(1).mean()

    assert spread(1, True) < 0.6 * spread(1, False)
    for kept in (True, False):
        assert spread(4, kept) == pytest.approx(float(spread(1, kept)) / 4, rel=0.05)


def _same_gradient(parameter, loss, explicit):
    a, b = torch.autograd.grad(loss, parameter)[0], torch.autograd.grad(explicit, parameter)[0]
    torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)
    assert a.abs().max() > 1e-3


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_denoising_gradient_is_that_of_the_fisher_divergence_at_the_noised_density(t):
    # Vincent (2011): exact expectations, over three data points and quadrature nodes of the noise.
    process = VP()
    points = torch.tensor([[0.4, -1.0], [1.2, 0.3], [-0.9, 0.2]], dtype=F64)
    noised = GaussianMixture(points, 0.0, sde=process)
    z, w = trapezoid(141)
    noise = torch.cartesian_prod(z, z).repeat(3, 1)
    weights = torch.outer(w, w).flatten().repeat(3) / 3
    x0 = points.repeat_interleave(141**2, 0)
    alpha, sigma = process.alpha(t), process.sigma(t)
    parameter, score = wiggle()
    x = alpha * x0 + sigma * noise
    loss = weights @ sm.denoising(score, x0, noise, sigma, alpha)
    explicit = weights @ sm.explicit(score, x, noised.score(x, t))
    _same_gradient(parameter, loss, explicit)
    constant = 0.5 * weights @ ((noise / sigma).square() - noised.score(x, t).square()).sum(1)
    torch.testing.assert_close(loss, explicit + constant, atol=1e-7, rtol=1e-9)


@pytest.mark.parametrize("t", [0.02, 0.5])
def test_target_score_matching_gradient_is_the_same(t):
    # One axis of the data is a mixture of two Gaussians, quadrature over it and over the noise.
    process = VP()
    density = GaussianMixture(
        torch.tensor([[0.8], [-0.6]], dtype=F64), torch.tensor([[0.3], [0.1]], dtype=F64), sde=process
    )
    z, w = trapezoid(181)
    nodes = torch.cat([m + v.sqrt() * z for m, v in zip(density.means, density.variances, strict=True)])
    x0 = nodes.repeat_interleave(181).unsqueeze(1)
    noise = z.repeat(362).unsqueeze(1)
    weights = torch.outer(torch.cat((w, w)) / 2, w).flatten()
    clean = _score_of_data(density, x0)
    alpha, sigma = process.alpha(t), process.sigma(t)
    parameter = torch.tensor(0.7, dtype=F64, requires_grad=True)
    score = lambda x: torch.tanh(parameter * x) - x  # noqa: E731
    x = alpha * x0 + sigma * noise
    loss = weights @ sm.target(score, x0, clean, noise, sigma, alpha)
    _same_gradient(parameter, loss, weights @ sm.explicit(score, x, density.score(x, t)))


def _score_of_data(density, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(density.log_prob(x).sum(), x)[0]


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_what_denoising_and_target_score_matching_leave_at_the_truth(sigma):
    # Data N(0, v), alpha = 1: least losses (1/sigma^2 - 1/(v + sigma^2))/2 and (1/v - 1/(v + sigma^2))/2.
    v = 1.7
    z, w = hermite(20)
    x0, noise = (v**0.5 * z).repeat_interleave(20).unsqueeze(1), z.repeat(20).unsqueeze(1)
    weights = torch.outer(w, w).flatten()
    score = lambda x: -x / (v + sigma**2)  # noqa: E731
    left = weights @ sm.denoising(score, x0, noise, sigma)
    assert float(left) == pytest.approx(0.5 * (1 / sigma**2 - 1 / (v + sigma**2)), rel=1e-10)
    left = weights @ sm.target(score, x0, -x0 / v, noise, sigma)
    assert float(left) == pytest.approx(0.5 * (1 / v - 1 / (v + sigma**2)), rel=1e-7)


def test_images_and_bad_arguments():
    x = torch.randn(4, 2, 3, dtype=F64)
    # s = -x^3/3 for each pixel: trace -sum x^2
    torch.testing.assert_close(sm.implicit(lambda x: -(x**3) / 3, x), -x.square().sum((1, 2)) + (x**6).sum((1, 2)) / 18)
    torch.testing.assert_close(sm.sliced(lambda x: -(x**3) / 3, x), sm.implicit(lambda x: -(x**3) / 3, x))
    with pytest.raises(ValueError, match="probes"):
        sm.sliced(torch.neg, x, probes=0)
    with pytest.raises(ValueError, match="distribution"):
        sm.sliced(torch.neg, x, distribution="uniform")  # type: ignore[arg-type]
