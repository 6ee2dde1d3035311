"""Compiled likelihoods: the values of the plain ones, and the closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import MLP, Denoiser, GaussianMixture
from backdrift.sde import VP, CriticallyDamped
from backdrift.solvers import log_likelihood
from backdrift.solvers.density import compiled_flow

Graphs = list[torch.fx.GraphModule]


def network(dim: int) -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(MLP(dim, hidden=16, depth=1), VP(), 0.7).eval().requires_grad_(False).double()
    for value in made.network.parameters():
        value.normal_(std=0.3)  # the last layer starts at zero
    return made


def points(n: int, dim: int) -> Tensor:
    return 0.7 * torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("settings", [{"chunk": 2}, {"probes": 2}], ids=str)
def test_values_are_those_of_a_plain_likelihood(settings: dict[str, Any], graphs: Graphs) -> None:
    plain = log_likelihood(network(3), points(5, 3), steps=3, **settings)
    compiled = log_likelihood(network(3), points(5, 3), steps=3, compile=True, **settings)
    torch.testing.assert_close(compiled.log_prob, plain.log_prob, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compiled.solver_error, plain.solver_error, rtol=1e-4, atol=1e-9)
    assert graphs


def test_one_graph_serves_all_steps_and_calls(graphs: Graphs) -> None:
    for steps in (2, 3):
        log_likelihood(network(2), points(5, 2), steps=steps, compile=True)
    assert len(graphs) == 2, "one for the velocity, one for the divergence"


def test_a_normal_density_is_exact(graphs: Graphs) -> None:
    """Of N(0, v), whose denoiser is alpha v x/(sigma^2 + alpha^2 v), without the divergence in closed form."""
    v, sde = 0.25, VP()

    class Normal:
        def __init__(self) -> None:
            self.sde = sde

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            return alpha * v / (sigma.square() + alpha.square() * v) * x

    x, end = points(6, 2), 1e-3
    found = log_likelihood(Normal(), x, eps=end, steps=24, compile=True)
    variance = float(sde.sigma(end)) ** 2 + float(sde.alpha(end)) ** 2 * v
    exact = torch.distributions.Normal(0.0, variance**0.5).log_prob(x).sum(1)
    gap = (found.log_prob - exact).abs()
    assert bool((gap <= found.solver_error + found.prior_error + 1e-6).all()), gap
    assert graphs


def test_what_cannot_be_compiled_is_refused(graphs: Graphs) -> None:
    mixture = GaussianMixture(torch.zeros(1, 2), 1.0, sde=VP())
    with pytest.raises(ValueError, match=r"^compile: expected false with method 'adaptive'.*$"):
        log_likelihood(mixture, points(2, 2), method="adaptive", compile=True)

    class Damped:
        sde = CriticallyDamped()

        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    with pytest.raises(ValueError, match=r"^compile: expected a model of a Gaussian process.*$"):
        log_likelihood(Damped(), points(2, 4).reshape(2, 2, 2), compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("probes", ["exact", 2])
def test_machine_code_gives_the_same_values(probes: Any) -> None:
    compiled_flow._graphs.cache_clear()
    plain, compiled = (
        log_likelihood(network(3), points(5, 3), steps=6, probes=probes, compile=each) for each in (False, True)
    )
    torch.testing.assert_close(compiled.log_prob, plain.log_prob, rtol=1e-9, atol=1e-9)
