"""The Ito process itself: dx = f(x, t) dt + g(x, t) dw, forwards and in reverse."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from backdrift.sde.checks import require_non_negative

Time = Tensor | float
"""A time: a number, a 0-d tensor, or one value per sample, `[batch]`."""

NoiseType = Literal["diagonal", "scalar", "general"]
"""How the diffusion g acts on the Brownian motions, in torchsde's words; see `SDE`."""


class PriorDensity(Protocol):
    """The density that replaces p_T: samplers start from it, and likelihoods end at it."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
        """Draws of the given shape `[batch, ...]`; `kwargs` (dtype, device) go to `torch.randn`."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """A draw made of standard normal numbers, shaped like `noise` `[batch, ...]`."""

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats, `[batch]` for `x` `[batch, ...]`."""


def as_time(t: Time, x: Tensor) -> Tensor:
    """`t` on the device and in the dtype of `x`, shaped to broadcast against it.

    Args:
        t: a number, a 0-d tensor, or one time per sample, `[batch]`.
        x: the state, `[batch, ...]`.

    Returns:
        A 0-d tensor, or one of shape `[batch, 1, ...]`.

    Raises:
        ValueError: if `t` is neither a scalar nor one value per sample of `x`.
    """
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.ndim == 0:
        return t
    if t.ndim == 1 and x.ndim >= 1 and t.shape[0] == x.shape[0]:
        return t.reshape(-1, *(1,) * (x.ndim - 1))
    raise ValueError(
        f"t: expected a scalar or one time per sample ([{x.shape[0] if x.ndim else 0}] for x of "
        f"shape {list(x.shape)}), got shape {list(t.shape)}"
    )


class SDE(ABC):
    """An Ito process dx = f(x, t) dt + g(x, t) dw for t in [0, T], data at 0 and noise at T.

    A subclass gives `T`, `drift` and `diffusion`. What g multiplies is said by `noise_type`, in
    torchsde's words:

    - `"diagonal"`: g broadcasts against x, one Brownian motion for each component;
    - `"scalar"`: g broadcasts against x, one Brownian motion for the whole sample;
    - `"general"`: g is `[batch, d, m]` for the d components of a sample, flattened, m Brownian motions.

    `state_dependent` says whether g depends on x; only then has the reverse process the extra
    drift of `noise_divergence`. Declaring False for a g that does depend on x is an error that
    nothing here can see; the default is the safe True.

    A process answers questions about itself, so that no solver, likelihood or command asks for its class.
    Those are the attributes below, `eps`, `prior`, `prior_gap` and `position_marginal`.

    Attributes:
        T: the end time, where the state is noise.
        noise_type: see above.
        state_dependent: see above.
        has_denoiser: whether Tweedie's formula turns the score into the denoiser E[x_0 | x_t], as it does where
            x_t = alpha x_0 + sigma eps.
        has_velocity: whether the state holds a velocity for each component of the data.
        time_power: p, for a time grid that suits the process: even in t^(1/p).
    """

    T: float
    noise_type: NoiseType = "diagonal"
    state_dependent: bool = True
    has_denoiser: bool = False
    has_velocity: bool = False
    time_power: int = 1

    @functools.cached_property
    def eps(self) -> float:
        """The time at which solvers stop, near the data at 0. It is 0 unless the process says otherwise."""
        return 0.0

    @functools.cached_property
    def prior(self) -> PriorDensity | None:
        """The density that replaces p_T, or None where the process has none."""
        return None

    @abstractmethod
    def drift(self, x: Tensor, t: Time) -> Tensor:
        """f(x, t), shaped like `x` `[batch, ...]`."""

    @abstractmethod
    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """g(x, t): a tensor that broadcasts against `x`, or `[batch, d, m]` for general noise."""

    def noise_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape `[batch, ...]` of the Brownian motions that drive x `[batch, ...]`."""
        if self.noise_type == "general":
            return len(x), self.diffusion(x, self.T).shape[-1]
        return tuple(x.shape) if self.noise_type == "diagonal" else (len(x), *(1,) * (x.ndim - 1))

    def apply_noise(self, x: Tensor, t: Time, z: Tensor) -> Tensor:
        """g(x, t) z, shaped like `x`, for z of shape `noise_shape(x)`."""
        g = self.diffusion(x, t)
        return (g @ z.unsqueeze(-1)).reshape(x.shape) if self.noise_type == "general" else g * z

    def state_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a state for data of shape `shape`, each without the batch."""
        return tuple(shape)

    def lift(self, x: Tensor) -> Tensor:
        """The state that stands for data x `[batch, ...]` at t = 0; x itself unless the process adds to it."""
        return x

    def position(self, state: Tensor) -> Tensor:
        """The data's part of a state."""
        return state

    def position_marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma of the data's part of a state, x_t given x_0 ~ N(alpha x_0, sigma^2 I), each shaped like `t`.

        Raises:
            NotImplementedError: if the process has no such marginal in closed form.
        """
        raise NotImplementedError(
            f"position_marginal: {type(self).__name__} has no marginal N(alpha x_0, sigma^2 I) in closed form"
        )

    def prior_gap(self, x: Tensor, eps: float) -> float:
        """The Kullback-Leibler divergence in nats of a normal density from the prior. That density has the mean and
        the variances that data have at T, if they are `x` at time eps.

        Args:
            x: data at time eps, `[batch, ...]`, without what the process adds to them (see `position`). A single
                sample has no known variance, which is then taken as 0.
            eps: the time of `x`.

        Returns:
            The divergence, or nan where the process does not know it.
        """
        return math.nan

    def covariance(self, x: Tensor, t: Time) -> Tensor:
        """g g^T at every sample of `x` `[batch, ...]`, as a matrix `[batch, d, d]` of its d components, flattened."""
        g = self.diffusion(x, t)
        if self.noise_type == "general":
            return g @ g.mT
        g = g.expand_as(x).flatten(1)
        return g.unsqueeze(-1) * g.unsqueeze(-2) if self.noise_type == "scalar" else g.square().diag_embed()

    def noise_divergence(self, x: Tensor, t: Time) -> Tensor:
        """The vector (div g g^T)_i = sum_j d(g g^T)_ij / dx_j, `[batch, ...]` like `x`.

        Zero where g does not depend on x. Otherwise from the Jacobian of g g^T, of size d^3 a
        sample (d^2 where the noise is diagonal): give a closed form in the subclass where d is
        large. Anderson (1982); Song et al. (2021), eq. 16 and 17.

        By it the flux f p - div(g g^T p)/2 of the Fokker-Planck equation differs from McAllester's
        (2023) f p - g^2/2 grad p, which is right where g does not depend on x.
        """
        if not self.state_dependent:
            return torch.zeros_like(x)
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])

        def divergence(point: Tensor, time: Tensor) -> Tensor:
            # A batch of one: g is asked at the shape the user wrote it for.
            def covariance(flat: Tensor) -> Tensor:
                x = flat.reshape(1, *point.shape)
                g = self.diffusion(x, time.reshape(1))
                if self.noise_type == "general":
                    return (g @ g.mT).reshape(flat.numel(), flat.numel())
                g = g.expand(x.shape).reshape(-1)
                return torch.outer(g, g) if self.noise_type == "scalar" else g.square()

            jacobian = torch.func.jacfwd(covariance)(point.reshape(-1))
            return torch.einsum("ii->i" if jacobian.ndim == 2 else "ijj->i", jacobian).reshape(point.shape)

        return torch.func.vmap(divergence)(x, times)

    def apply_diffusion(self, x: Tensor, t: Time, v: Tensor) -> Tensor:
        """g(x, t) g(x, t)^T v for a vector field v shaped like `x`."""
        g = self.diffusion(x, t)
        if self.noise_type == "general":
            return (g @ (g.mT @ v.flatten(1).unsqueeze(-1))).reshape(v.shape)
        if self.noise_type == "scalar":
            g = g.expand_as(x)
            inner = (g * v).flatten(1).sum(1)
            return g * inner.reshape(-1, *(1,) * (x.ndim - 1))
        return g.square() * v

    def reverse(self, score: Callable[[Tensor, Time], Tensor], stochasticity: float = 1.0) -> ReverseSDE:
        """This process run from T down to 0, see `ReverseSDE`."""
        return ReverseSDE(self, score, stochasticity)


class ReverseSDE(SDE):
    r"""The reverse of a process, an SDE again, to be run with dt < 0 from T down to 0:

        dx = [f - (1 + lambda^2)/2 (div(g g^T) + g g^T score)] dt + lambda g dw

    with stochasticity lambda: 0 is the probability-flow ODE, 1 Anderson's reverse SDE, and every
    lambda >= 0 has the marginals p_t of the forward process (Anderson 1982; Song et al. 2021,
    eq. 16 and 17; Zhang & Chen 2023).

    McAllester (2023, last slide) writes for Brownian motion drift (1 + lambda)/2 score with noise
    lambda. By the Fokker-Planck equation noise of variance lambda^2 per unit time needs the drift
    (1 + lambda^2)/2, so the slide holds at 0 and 1 only (its noise should be sqrt(lambda)). A test
    on a Gaussian, whose moments under both are known exactly, shows it.

    Args:
        forward: the process to be reversed.
        score: s(x, t) = grad log p_t(x), a function of x `[batch, ...]` and t.
        stochasticity: lambda >= 0.

    Raises:
        ValueError: if `stochasticity` is not a number of at least 0.
    """

    def __init__(self, forward: SDE, score: Callable[[Tensor, Time], Tensor], stochasticity: float = 1.0) -> None:
        require_non_negative(stochasticity=stochasticity)
        self.forward = forward
        self.score = score
        self.stochasticity = float(stochasticity)
        self.T = forward.T
        self.noise_type = forward.noise_type
        self.state_dependent = forward.state_dependent

    def drift(self, x: Tensor, t: Time) -> Tensor:
        push = self.forward.apply_diffusion(x, t, self.score(x, t))
        if self.forward.state_dependent:
            push = push + self.forward.noise_divergence(x, t)
        return self.forward.drift(x, t) - 0.5 * (1 + self.stochasticity**2) * push

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        return self.stochasticity * self.forward.diffusion(x, t)

    def noise_shape(self, x: Tensor) -> tuple[int, ...]:
        return self.forward.noise_shape(x)

    def apply_noise(self, x: Tensor, t: Time, z: Tensor) -> Tensor:
        return self.stochasticity * self.forward.apply_noise(x, t, z)
