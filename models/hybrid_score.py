"""A network as the score of critically damped Langevin diffusion, and its loss, hybrid score matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backdrift.models.conditional_network import ConditionalNetwork
from backdrift.models.times import uniform_numbers
from backdrift.sde import CriticallyDamped, DataMoments, Time, as_time
from backdrift.sde.checks import require_positive
from backdrift.sde.matrix import apply, factor
from backdrift.sde.process import wide
from backdrift.sde.tensor_checks import extremes, require_shape


class Coefficients(NamedTuple):
    """What the preconditioning of `HybridScore` is made of, at times of shape `[...]`, in float64.

    Attributes:
        whiten: W, `[..., 2, 2]`.
        guess: w, `[..., 2]`.
        out: c, `[...]`.
        noise_scale: F_vv, `[...]`.
        c_noise: log(s)/4, `[...]`, where s is the noise over the signal of the position.
    """

    whiten: Tensor
    guess: Tensor
    out: Tensor
    noise_scale: Tensor
    c_noise: Tensor


class HybridScore(ConditionalNetwork):
    """The score of the velocity, -eps_v/F_vv, from a network that predicts the noise eps_v.

    The state is u_t = Phi (x_0, 0) + F eps, where F is lower triangular and eps = (eps_x, eps_v). It follows that
    grad_v log p_t(u) = -E[eps_v | u_t = u]/F_vv (Dockhorn, Vahdat & Kreis 2022, appendix C). The network adds to the
    prediction that is right for normal data of variance d^2:

        eps_v = w . u + c network(W u),    w = S^{-1} F e_v,    c^2 = 1 - e_v^T F^T S^{-1} F e_v,

    where S is the covariance of the state at t for such data, and W S W^T = 1. Input and target of the network then
    have unit variance, which is the argument of Karras et al. (2022). The mixed score of Dockhorn et al. is the case
    c = 1, with the variance of the velocity in place of S.

    Args:
        network: called as `network(z, c_noise)` or `network(z, c_noise, condition)`. z is `[batch, 2 channels, ...]`
            for data `[batch, channels, ...]`, and c_noise is `[batch]`. It returns a tensor like z, of which the second
            half is used.
        sde: the process.
        data_std: d, over all components of the data.

    Raises:
        ValueError: if the process has no velocities, or `data_std` is not positive.

    Attributes:
        data_moments: the mean and the variance of each component of the data, or None where they are not known.
        condition, condition_moments: see `ConditionalNetwork`.
    """

    data_moments: DataMoments | None = None

    def __init__(self, network: nn.Module, sde: CriticallyDamped, data_std: float = 1.0) -> None:
        super().__init__(network)
        require_positive(data_std=data_std)
        if not getattr(sde, "has_velocity", False):
            raise ValueError(f"sde: expected CriticallyDamped, got {type(sde).__name__}")
        self.sde, self.data_std = sde, float(data_std)

    def coefficients(self, t: Tensor) -> Coefficients:
        """The coefficients at the times `t`, which may have any shape.

        Raises:
            ValueError: if a time is outside (0, T]. At 0 the position has no noise, and they have no limit.
        """
        least = extremes(t)
        if least is not None and least[0] == 0:
            raise ValueError("t: expected a time above 0, where the position has noise, got 0")
        phi, _ = self.sde.moments(0.0, t)
        own = self.sde.covariance_at(t)
        root = factor(own, definite=True)
        signal = self.data_std * phi[..., :, 0]  # S = F F^T + signal signal^T
        total = factor(own + signal.unsqueeze(-1) * signal.unsqueeze(-2), definite=True)
        unit = torch.eye(2, dtype=total.dtype, device=total.device).expand_as(total)
        whiten = torch.linalg.solve_triangular(total, unit, upper=False)
        guess = (whiten.mT @ whiten @ root[..., :, 1:]).squeeze(-1)
        # With z = F^{-1} signal, c^2 = 1 - [(1 + z z^T)^{-1}]_vv = z_v^2/(1 + |z|^2), which loses no digits.
        z = torch.linalg.solve_triangular(root, signal.unsqueeze(-1), upper=False).squeeze(-1)
        out = z[..., 1].abs() * (1 + z.square().sum(-1)).rsqrt()
        c_noise = 0.125 * (own[..., 0, 0] / phi[..., 0, 0].square()).log()
        return Coefficients(whiten, guess, out, root[..., 1, 1], c_noise)

    def raw(self, u: Tensor, parts: Coefficients, condition: Tensor | None = None) -> Tensor:
        """The output of the network itself, `[batch, ...]` for the state u `[batch, 2, ...]`.

        Raises:
            ValueError: if u has another shape.
        """
        if u.ndim < 3 or u.shape[1] != 2:
            raise ValueError(f"u: expected a state [batch, 2, ...], got shape {list(u.shape)}")
        z = apply(parts.whiten, u).flatten(1, 2)
        c_noise = parts.c_noise.to(u).flatten().expand(len(u))
        value = self.called(z, c_noise, condition).to(z.dtype)
        require_shape("network", value, z)
        return value.unflatten(1, (2, -1))[:, 1].to(u.dtype)

    def guessed(self, u: Tensor, parts: Coefficients) -> Tensor:
        """w . u, the prediction that is right for normal data, `[batch, ...]`."""
        return apply(parts.guess.unsqueeze(-2), u)[:, 0]

    def noise(self, u: Tensor, parts: Coefficients, condition: Tensor | None = None) -> Tensor:
        """E[eps_v | u_t = u], `[batch, ...]`, from coefficients that are known already."""
        return self.guessed(u, parts) + as_time(parts.out, u[:, 0]) * self.raw(u, parts, condition)

    def forward(self, u: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """E[eps_v | u_t = u], `[batch, ...]` for u `[batch, 2, ...]`; t is a scalar or `[batch]`."""
        return self.noise(u, self.coefficients(wide(t)), condition)

    def score(self, u: Tensor, t: Time) -> Tensor:
        """(0, grad_v log p_t(u)), `[batch, 2, ...]`; t is a scalar or `[batch]`.

        The position's part is not learned and is set to 0. The reverse process, the flow and the likelihood ask for
        g g^T score alone, and this is right, because no noise enters the position.
        """
        parts = self.coefficients(wide(t))
        velocity = -self.noise(u, parts) / as_time(parts.noise_scale, u[:, 0])
        return torch.stack([torch.zeros_like(velocity), velocity], 1)


@dataclass(frozen=True)
class HybridLoss:
    """The loss |(eps_v - w . u)/c - network|^2 per component: hybrid score matching, Dockhorn et al. (2022).

    The state u is drawn given x_0 alone; the starting velocity is integrated over. In terms of the error of eps_v the
    weighting is 1/c^2, so that the network's target has unit variance at every t.
    """

    def __call__(
        self,
        model: HybridScore,
        x0: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each sample, `[batch]`.

        Args:
            model: the network with its preconditioning.
            x0: data, `[batch, ...]`.
            u: uniform numbers that choose t on [eps, T], `[batch]`; stratified by default.
            noise: eps, `[batch, 2, ...]`; drawn by default.
            condition: the tensor of a condition for each sample, in the units of the network, or None.
            generator: the source of `u` and `noise` where they are drawn here.

        Raises:
            ValueError: if the model is of another kind, or `u` or `noise` has another shape or range.
            TypeError: if x_0 is not a floating-point tensor.
        """
        if not isinstance(model, HybridScore):
            raise ValueError(f"model: expected HybridScore (preconditioning=hybrid), got {type(model).__name__}")
        sde = model.sde
        u = uniform_numbers(x0, u, generator)
        t = sde.eps + (sde.T - sde.eps) * u
        if noise is None:
            shape = (len(x0), 2, *x0.shape[1:])
            noise = torch.randn(shape, generator=generator, dtype=x0.dtype, device=x0.device)
        # `perturb` would ask whether the covariance is singular, and so wait for the device. For t >= eps it is not.
        root = factor(sde.covariance_at(t), definite=True)
        state = apply(sde.moments(0.0, t)[0], sde.lift(x0)) + apply(root, noise)
        parts = model.coefficients(t)
        target = (noise[:, 1] - model.guessed(state, parts)) / as_time(parts.out, x0)
        return (target - model.raw(state, parts, condition)).flatten(1).square().mean(1)
