"""The methods that sbi's diagnostics call: the same numbers as the posterior's own, in sbi's shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backdrift import SimulationPosterior
from backdrift.posteriors.sbi_interface import SBIPosterior


@pytest.fixture(scope="module")
def posterior() -> SimulationPosterior:
    """theta ~ uniform on (-1, 1)^2 and x = theta + noise, 3 copies of it."""
    g = np.random.default_rng(0)
    theta = g.uniform(-1, 1, (300, 2))
    x = np.repeat(theta[:, None], 3, 1) + 0.5 * g.standard_normal((300, 3, 2))
    return SimulationPosterior(members=1, hidden=8, depth=1, steps=20, ode_steps=6, random_state=0).fit(
        theta, x, prior=([-1, -1], [1, 1])
    )


@pytest.fixture(scope="module")
def adapted(posterior: SimulationPosterior) -> SBIPosterior:
    return posterior.for_sbi()


X = torch.tensor([[[0.1, 0.2], [0.0, 0.3], [0.4, 0.1]], [[-0.9, 0.2], [-0.5, 0.3], [-0.6, 0.6]]])


def test_draws_are_those_of_the_posterior_in_the_shape_that_is_asked_for(
    posterior: SimulationPosterior, adapted: SBIPosterior
) -> None:
    torch.manual_seed(3)
    draws = adapted.sample((4, 5), x=X[0], show_progress_bars=False)
    torch.manual_seed(3)
    again = adapted.sample(torch.Size((20,)), x=X[:1])
    torch.manual_seed(3)
    own = posterior.sample(X[0], 20, random_state=int(torch.randint(2**31 - 1, ())))
    assert draws.shape == (4, 5, 2)
    assert torch.equal(draws.reshape(20, 2), again) and np.array_equal(again.numpy(), own)
    assert adapted.sample(x=X[0]).shape == (2,)
    assert not torch.equal(again, adapted.sample((20,), x=X[0]))  # the next draws are others


def test_batched_draws_stand_beside_their_observation(adapted: SBIPosterior) -> None:
    torch.manual_seed(0)
    draws = adapted.sample_batched((50, 2), x=X)
    assert draws.shape == (50, 2, 2, 2)
    # The posterior means of the first parameter differ by more than 0.4, with standard errors of 0.03.
    mean = draws.mean((0, 1))
    assert mean[0, 0] - mean[1, 0] > 0.25


def test_log_densities_are_those_of_the_posterior(posterior: SimulationPosterior, adapted: SBIPosterior) -> None:
    theta = torch.tensor([[[0.1, 0.2], [-0.3, 0.4]], [[0.5, 0.5], [1.5, 0.0]]])
    each = [posterior.log_prob(theta[:, k], X[k]) for k in range(2)]
    found = adapted.log_prob_batched(theta, X)
    assert np.allclose(found[0].numpy(), [each[0][0], each[1][0]])
    assert np.allclose(found[1, 0], each[0][1]) and found[1, 1] == -np.inf
    assert np.allclose(adapted.log_prob(theta[:, 0], x=X[0]).numpy(), each[0])
    assert adapted.log_prob(theta[0, 0], x=X[0]).shape == (1,)
    assert torch.equal(posterior.for_sbi(X[0]).log_prob(theta[:, 0]), adapted.log_prob(theta[:, 0], x=X[0]))


def test_what_sbi_has_and_is_not_here_is_refused(posterior: SimulationPosterior, adapted: SBIPosterior) -> None:
    with pytest.raises(ValueError, match="x: expected an observation"):
        adapted.sample((3,))
    with pytest.raises(ValueError, match="track_gradients: expected False"):
        adapted.log_prob([[0.0, 0.0]], X[0], track_gradients=True)
    with pytest.raises(ValueError, match="x: expected one observation of shape"):
        posterior.for_sbi(X)
    with pytest.raises(ValueError, match="theta: expected shape"):
        adapted.log_prob_batched(torch.zeros(3, 2), X)


@pytest.mark.slow
def test_diagnostics_of_sbi_take_it(adapted: SBIPosterior) -> None:
    diagnostics = pytest.importorskip("sbi.diagnostics")
    g = torch.Generator().manual_seed(1)
    theta = 2 * torch.rand(100, 2, generator=g) - 1
    x = theta[:, None] + 0.5 * torch.randn(100, 3, 2, generator=g)
    ranks, _ = diagnostics.run_sbc(theta, x, adapted, num_posterior_samples=100)
    assert ranks.shape == (100, 2)
    coverage, levels = diagnostics.run_tarp(theta, x, adapted, num_posterior_samples=100)
    assert float((coverage - levels).abs().max()) < 0.25
