"""Critically damped Langevin diffusion: data with velocities, through which the noise enters."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from backdrift.sde.arguments import checked
from backdrift.sde.linear import LinearSDE, Schedule
from backdrift.sde.process import Time
from backdrift.sde.value_types import NonNegative, Positive, Range


class CriticallyDamped(LinearSDE):
    """Critically damped Langevin diffusion (Dockhorn, Vahdat & Kreis 2022),

        dx = v/M beta dt,    dv = -x beta dt - Gamma v/M beta dt + sqrt(2 Gamma beta) dw,

    with Gamma^2 = 4 M. This is the friction at which x forgets its start fastest without oscillating. The process is
    a `LinearSDE` on the state (x, v) `[batch, 2, ...]`, and tends to x ~ N(0, I), v ~ N(0, M I).

    Noise reaches x only through v. A solver therefore needs the score of v alone, and paths of x are smooth.
    Velocities start from N(0, velocity M I). This start is integrated over: `marginal` takes the state (x_0, 0), and
    its covariance includes the variance of the starting velocity (hybrid score matching, appendix C there).

    Args:
        friction: Gamma. The mass is M = Gamma^2/4.
        velocity: gamma, the initial variance of v in units of M.
        schedule: beta and its integral, or a number for a constant beta.
        T: end time.
        eps: time at which solvers stop, T/1000 by default.

    Raises:
        ValueError: if friction, velocity or T is not positive.
    """

    has_velocity = True
    time_power = 2  # the noise in the position grows like t^3, which asks for short steps near the data

    @checked
    def __init__(
        self,
        friction: Positive = 1.0,
        velocity: Annotated[float, Range(above=0, most=1e6)] = 0.04,
        schedule: Schedule | Positive = 4.0,
        T: Positive = 1.0,
        eps: NonNegative | None = None,
    ) -> None:
        self.friction, self.mass, self.velocity = float(friction), friction**2 / 4, float(velocity)
        super().__init__(
            A=[[0.0, 1 / self.mass], [-1.0, -self.friction / self.mass]],
            L=[[0.0], [math.sqrt(2 * self.friction)]],
            schedule=schedule,
            T=T,
            eps=eps,
            initial=[[0.0, 0.0], [0.0, self.velocity * self.mass]],
        )

    def state_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(2, *shape): the data and their velocities."""
        return (2, *shape)

    def position_marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma of the position, x_t given x_0 ~ N(alpha x_0, sigma^2 I), in float64 and shaped like `t`."""
        phi, _ = self.moments(0.0, t)
        return phi[..., 0, 0], self.covariance_at(t)[..., 0, 0].sqrt()

    def lift(self, x: Tensor) -> Tensor:
        """The state (x, 0) `[batch, 2, ...]` of data x `[batch, ...]`, which `marginal` takes as x_0."""
        return torch.stack([x, torch.zeros_like(x)], 1)

    def position(self, state: Tensor) -> Tensor:
        """The data's part x `[batch, ...]` of a state (x, v) `[batch, 2, ...]`."""
        return state[:, 0]
