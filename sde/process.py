"""The Ito process dx = f(x, t) dt + g(x, t) dw, forwards and in reverse."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from backdrift.sde.checks import require_non_negative
from backdrift.sde.prior import DataMoments, PriorDensity
from backdrift.sde.tensor_checks import Time, require_state, require_times

NoiseType = Literal["diagonal", "scalar", "general"]
"""How the diffusion g acts on the Brownian motions, in torchsde's words; see `SDE`."""


def as_time(t: Time, x: Tensor, T: float | None = None) -> Tensor:
    """`t` on the device and in the dtype of `x`, shaped to broadcast against it.

    Args:
        t: a number, a 0-d tensor, or one time per sample, `[batch]`.
        x: the state, `[batch, ...]`.
        T: the end time. Where it is given, `t` must lie in [0, T], see `require_times`.

    Returns:
        A 0-d tensor, or one of shape `[batch, 1, ...]`.

    Raises:
        ValueError: if `t` is neither a scalar nor one value per sample of `x`, or outside [0, T]; or if x has no axis.
        TypeError: if `t` does not hold numbers, or x is not a floating-point tensor.
    """
    require_state(x)
    if T is not None:
        require_times(t, T)
    if isinstance(t, Tensor):
        t = t.to(x.device, x.dtype, non_blocking=True)
    elif isinstance(t, (int, float)):
        t = torch.full((), t, dtype=x.dtype, device=x.device)  # no copy, which would be waited for
    else:
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.ndim == 0:
        return t
    if t.ndim == 1 and t.shape[0] == x.shape[0]:
        return t.reshape(-1, *(1,) * (x.ndim - 1))
    raise ValueError(
        f"t: expected a scalar or one time per sample ([{x.shape[0]}] for x of shape {list(x.shape)}), "
        f"got shape {list(t.shape)}"
    )


def wide(t: Time) -> Tensor:
    """`t` as a tensor in float64, or in its own dtype on a device that has no float64 (Apple's mps).

    Derivatives, roots and matrix exponentials are taken in this dtype.
    """
    if not isinstance(t, Tensor):
        return torch.tensor(float(t), dtype=torch.float64, device="cpu")
    return t if t.device.type == "mps" else t.double()


class SDE(ABC):
    """An Ito process dx = f(x, t) dt + g(x, t) dw for t in [0, T], with data at 0 and noise at T.

    A subclass gives `T`, `drift` and `diffusion`. `noise_type` says what g multiplies, in torchsde's words:

    - `"diagonal"`: g broadcasts against x, and each component has a Brownian motion of its own;
    - `"scalar"`: g broadcasts against x, and one Brownian motion drives the whole sample;
    - `"general"`: g is `[batch, d, m]` for the d components of a sample, flattened, and m Brownian motions.

    `state_dependent` says whether g depends on x. Only then has the reverse process the extra drift of
    `noise_divergence`. The default True is always right. Nothing here can detect a False that is wrong.

    A process answers questions about itself, so that no solver, likelihood or command asks for its class.
    Those are the attributes below, `eps`, `start`, `prior`, `prior_for` and `position_marginal`.

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(T={float(self.T):g})"

    @functools.cached_property
    def eps(self) -> float:
        """The time at which solvers stop, near the data at 0. It is 0 unless the process says otherwise."""
        return 0.0

    @functools.cached_property
    def start(self) -> float:
        """The time at which solvers start. It is T unless the process says otherwise."""
        return float(self.T)

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
        """The shape of a state for data of shape `shape`, both without the batch."""
        return tuple(shape)

    def lift(self, x: Tensor) -> Tensor:
        """The state at t = 0 for data x `[batch, ...]`. It is x itself unless the process adds velocities."""
        return x

    def position(self, state: Tensor) -> Tensor:
        """The data's part of a state. It is the state itself unless the process adds velocities."""
        return state

    def position_marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma of the data's part of a state, x_t given x_0 ~ N(alpha x_0, sigma^2 I), each shaped like `t`.

        Raises:
            NotImplementedError: if the process has no such marginal in closed form.
        """
        raise NotImplementedError(
            f"position_marginal: {type(self).__name__} has no marginal N(alpha x_0, sigma^2 I) in closed form"
        )

    def prior_for(self, moments: DataMoments | None) -> PriorDensity | None:
        """The density that replaces p_T where the moments of the data are known.

        Args:
            moments: of the data, or None where they are not known.

        Returns:
            `prior` without moments. With them, a normal density with the mean and the variances that the data have at
            T; or `prior` where the process does not know those.
        """
        return self.prior

    def covariance(self, x: Tensor, t: Time) -> Tensor:
        """g g^T at every sample of `x` `[batch, ...]`, as a matrix `[batch, d, d]` of its d components, flattened."""
        g = self.diffusion(x, t)
        if self.noise_type == "general":
            return g @ g.mT
        g = g.expand_as(x).flatten(1)
        return g.unsqueeze(-1) * g.unsqueeze(-2) if self.noise_type == "scalar" else g.square().diag_embed()

    def noise_divergence(self, x: Tensor, t: Time) -> Tensor:
        """The vector (div g g^T)_i = sum_j d(g g^T)_ij / dx_j, `[batch, ...]` like `x`.

        It is zero where g does not depend on x. Elsewhere it is read off the Jacobian of g g^T, which has d^3
        entries a sample, or d^2 where the noise is diagonal. Give a closed form in the subclass where d is large.
        Anderson (1982); Song et al. (2021), eq. 16 and 17.

        The flux of the Fokker-Planck equation is f p - div(g g^T p)/2. McAllester (2023) writes f p - g^2/2 grad p,
        which leaves out this vector and is right where g does not depend on x.
        """
        if not self.state_dependent:
            return torch.zeros_like(x)
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])

        def divergence(point: Tensor, time: Tensor) -> Tensor:
            # g is called with a batch of one, the shape that the user wrote it for.
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
        """This process run from T down to 0; see `ReverseSDE`."""
        return ReverseSDE(self, score, stochasticity)


class ReverseSDE(SDE):
    r"""The reverse of a process. It is an SDE again, to be run with dt < 0 from T down to 0:

        dx = [f - (1 + lambda^2)/2 (div(g g^T) + g g^T score)] dt + lambda g dw

    with stochasticity lambda. lambda = 0 is the probability-flow ODE and lambda = 1 is Anderson's reverse SDE. Every
    lambda >= 0 has the marginals p_t of the forward process (Anderson 1982; Song et al. 2021, eq. 16 and 17; Zhang &
    Chen 2023).

    McAllester (2023, last slide) writes the drift (1 + lambda)/2 score and the noise lambda for Brownian motion. By
    the Fokker-Planck equation, noise of variance lambda^2 per unit time needs the drift (1 + lambda^2)/2 score. The
    slide is therefore right for lambda = 0 and lambda = 1 only; its noise should be sqrt(lambda). A test shows this
    on a Gaussian, whose moments under both are known exactly.

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
