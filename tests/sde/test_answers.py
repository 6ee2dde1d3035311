"""What a process says about itself, so that nobody has to ask for its class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backdrift.sde import SDE, VP, CriticallyDamped, DataMoments, LinearSDE, ReverseSDE, Time

VP_PRIOR = VP().prior


class OrdinaryBrownian(SDE):
    """A user's process that gives no more than it must."""

    T = 2.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return torch.ones_like(x)


def draws(*shape: int, mean: float, std: float) -> Tensor:
    return mean + std * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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
    assert sde.prior_for(DataMoments(torch.zeros(2), torch.ones(2))) is None
    with pytest.raises(NotImplementedError, match=r"^position_marginal: OrdinaryBrownian has no marginal"):
        sde.position_marginal(0.5)


def test_a_user_may_set_the_answers_on_the_class_or_on_the_process() -> None:
    class Ends(OrdinaryBrownian):
        eps = 0.1

        def __init__(self) -> None:
            self.prior = VP_PRIOR

    assert Ends().eps == 0.1 and Ends().prior is VP_PRIOR


def test_the_kinds_of_process_answer_for_themselves() -> None:
    linear = LinearSDE(A=[[0.0, 1.0], [-1.0, -2.0]], L=[[0.0], [1.0]])
    assert [sde.has_denoiser for sde in (VP(), linear, CriticallyDamped())] == [True, False, False]
    assert [sde.has_velocity for sde in (VP(), linear, CriticallyDamped())] == [False, False, True]
    assert [sde.time_power for sde in (VP(), linear, CriticallyDamped())] == [1, 1, 2]


def test_a_reverse_process_has_the_noise_of_the_forward_one() -> None:
    for forward in (VP(), CriticallyDamped(), OrdinaryBrownian()):
        reverse = ReverseSDE(forward, lambda x, t: -x)
        assert (reverse.noise_type, reverse.state_dependent) == (forward.noise_type, forward.state_dependent)
