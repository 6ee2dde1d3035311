"""What the prior in the place of p_T adds to the error of a log-density."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from backdrift.sde import CriticallyDamped
from backdrift.solvers.model import ModelLike, score_of

if TYPE_CHECKING:
    from backdrift.solvers.density.likelihood import TerminalDensity


def prior_error(model: ModelLike, x: Tensor, prior: TerminalDensity) -> Tensor:
    r"""The standard deviation of h(x) = log p_T(x) - log prior(x) in nats, `[batch]`.

    The model's score at T gives the gradient of h. With V the covariance of the noise at T, the result is

    .. math:: \sqrt{\nabla h(x)^T V \nabla h(x)}, \qquad \nabla h = s(x, T) - \nabla \log \mathrm{prior}(x)

    By Poincaré's inequality for a normal density (Chernoff 1981), the mean of its square is at least the variance of
    h. It is the variance where h is linear, as for a prior with another mean than p_T. It is twice the variance where
    h is quadratic, as for a prior with another covariance. The mean of h is of second order, and is left out.

    That is the deviation over states as the noise at T makes them. A sample that its model holds for unlikely, such as
    one of another class than the model is given, ends far out, where h is larger. By the first-order term of h from the
    centre c of the prior it is then

    .. math:: |\nabla h(x) \cdot (x - c)|

    The larger of the two numbers is given.

    It costs one evaluation of the model.

    Args:
        model: has `sde`, and `denoise(x, t)` or `score(x, t)`.
        x: states at T, `[batch, ...]`.
        prior: what stands for p_T.

    Returns:
        The standard deviation, or the first-order term where it is larger; nan where the process has no prior of its
        own, and so no known noise at T.
    """
    sde = model.sde
    if sde.prior is None:
        return torch.full_like(x.flatten(1)[:, 0], math.nan)
    slope = score_of(model)(x, torch.as_tensor(sde.start, dtype=x.dtype, device=x.device)).detach()
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        slope = slope - torch.autograd.grad(prior.log_prob(point).sum(), point)[0]
        if sde.has_velocity:
            slope = _completed(cast(CriticallyDamped, sde), slope)
        noise = torch.zeros_like(x).requires_grad_()
        centre = sde.prior.from_noise(noise)
        whitened = torch.autograd.grad((slope * centre).sum(), noise)[0]
    along = (slope * (x - centre.detach())).flatten(1).sum(1).abs()
    return torch.maximum(whitened.flatten(1).norm(dim=1), along)


def _completed(sde: CriticallyDamped, slope: Tensor) -> Tensor:
    """The gradient of h over the whole state `[batch, 2, ...]`, from its part along the velocity.

    Models of this process learn the score of the velocity alone. The state at T is phi x_0 plus noise of covariance C,
    so that h depends on the state u through phi^T C^{-1} u alone, and its gradient lies along C^{-1} phi.
    """
    phi, _ = sde.moments(0.0, sde.T)
    direction = torch.linalg.solve(sde.prior.covariance, phi[:, 0]).to(slope)
    return slope[:, 1:] * (direction / direction[1]).reshape(2, *(1,) * (slope.ndim - 2))
