"""What a process says about itself, so that nobody has to ask for its class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from backdrift.models import GaussianMixture
from backdrift.sde import SDE, VE, VP, CriticallyDamped, GaussianSDE, LinearSDE, ReverseSDE, Time


class OrdinaryBrownian(SDE):
    """A user's process that gives no more than it must."""

    T = 2.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return torch.ones_like(x)


def draws(*shape: int, mean: float, std: float) -> Tensor:
    return mean + std * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sde", [VP(beta_max=5.0), VE(sigma_max=9.0)], ids=repr)
def test_prior_gap_is_the_divergence_of_the_moments(sde: GaussianSDE) -> None:
    """Normal data are normal at T too; their divergence from the prior is torch's."""
    x = draws(500, 3, mean=2.0, std=1.2)
    kept, added = sde.transition(x, sde.eps, sde.T)
    # `prior_gap` adds the whole variance of the prior to that of the data, also the part that x has at eps already.
    there = Normal(kept.mean(0), (kept.var(0, correction=0) + sde.prior.std**2).sqrt())
    expected = kl_divergence(there, Normal(torch.zeros(3).double(), sde.prior.std)).sum()
    assert sde.prior_gap(x, sde.eps) == pytest.approx(float(expected), rel=1e-9)
    assert float(added) == pytest.approx(sde.prior.std, rel=1e-3)


def test_prior_gap_of_a_normal_density_is_its_closed_form() -> None:
    sde: GaussianSDE = VP(beta_max=5.0)
    model = GaussianMixture(torch.full((1, 3), 2.0).double(), 1.5, sde=sde)
    x = model.sample(4000, torch.Generator().manual_seed(0))
    x = sde.perturb(x, sde.eps, draws(4000, 3, mean=0.0, std=1.0))
    kept, noise = float(sde.alpha(sde.T)), float(sde.sigma(sde.T)) ** 2
    excess = kept**2 * 1.5 / noise
    expected = 1.5 * (4 * kept**2 / noise + excess - math.log1p(excess))
    assert sde.prior_gap(x, sde.eps) == pytest.approx(expected, rel=0.05)


def test_prior_gap_of_critical_damping_is_that_of_the_states() -> None:
    """Positions leave (phi m) and (phi phi^T v) in the state at T, beside the prior's covariance."""
    sde = CriticallyDamped(schedule=1.0)
    x = draws(500, 3, mean=2.0, std=1.2)
    phi, _ = sde.moments(sde.eps, sde.T)
    column, prior = phi[:, 0], sde.prior.covariance
    expected = 0.0
    for mean, variance in zip(x.mean(0), x.var(0, correction=0), strict=True):
        there = MultivariateNormal(mean * column, prior + variance * torch.outer(column, column))
        expected += float(kl_divergence(there, MultivariateNormal(torch.zeros(2).double(), prior)))
    assert sde.prior_gap(x, sde.eps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("t", [0.3, torch.tensor(0.3).double(), torch.tensor([0.1, 0.6]).double()], ids=str)
def test_position_marginal_is_the_data_s_part_of_the_marginal(t: Time) -> None:
    x0 = draws(2, 5, mean=1.0, std=1.0)
    for sde in (VP(), CriticallyDamped()):
        alpha, sigma = sde.position_marginal(t)
        mean, root = sde.marginal(sde.lift(x0), t)
        assert alpha.shape == sigma.shape == torch.as_tensor(t).shape
        torch.testing.assert_close(alpha.reshape(-1, 1) * x0, sde.position(mean), rtol=1e-12, atol=0)
        std = root[..., 0, 0] if sde.has_velocity else root  # F is lower triangular: F_xx is the position's deviation
        torch.testing.assert_close(sigma, std.reshape(sigma.shape), rtol=1e-12, atol=0)


def test_a_process_that_says_nothing_has_the_safe_answers() -> None:
    sde = OrdinaryBrownian()
    assert (sde.eps, sde.prior, sde.time_power) == (0.0, None, 1)
    assert not sde.has_denoiser and not sde.has_velocity
    assert math.isnan(sde.prior_gap(torch.ones(2, 2), 0.0))
    with pytest.raises(NotImplementedError, match=r"^position_marginal: OrdinaryBrownian has no marginal"):
        sde.position_marginal(0.5)


def test_a_user_may_set_the_answers_on_the_class_or_on_the_process() -> None:
    class Ends(OrdinaryBrownian):
        eps = 0.1

        def __init__(self) -> None:
            self.prior = VP().prior

    assert Ends().eps == 0.1 and Ends().prior == VP().prior


def test_the_kinds_of_process_answer_for_themselves() -> None:
    linear = LinearSDE(A=[[0.0, 1.0], [-1.0, -2.0]], L=[[0.0], [1.0]])
    assert [sde.has_denoiser for sde in (VP(), linear, CriticallyDamped())] == [True, False, False]
    assert [sde.has_velocity for sde in (VP(), linear, CriticallyDamped())] == [False, False, True]
    assert [sde.time_power for sde in (VP(), linear, CriticallyDamped())] == [1, 1, 2]


def test_a_reverse_process_has_the_noise_of_the_forward_one() -> None:
    for forward in (VP(), CriticallyDamped(), OrdinaryBrownian()):
        reverse = ReverseSDE(forward, lambda x, t: -x)
        assert (reverse.noise_type, reverse.state_dependent) == (forward.noise_type, forward.state_dependent)
