"""Processes with a given stationary density: overdamped and underdamped Langevin, with a curl, with any noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backdrift.sde.arguments import checked
from backdrift.sde.checks import require_positive
from backdrift.sde.linear import factor
from backdrift.sde.process import SDE, Time
from backdrift.sde.tensor_checks import require_state
from backdrift.sde.value_types import Positive

Function = Callable[[Tensor], Tensor]
"""A function of x `[batch, ...]`."""

Constant = Tensor | float | Sequence[float] | Sequence[Sequence[float]]
"""A number, one number for each component `[d]`, or a matrix `[d, d]`."""


def matrix_divergence(matrix: Function, x: Tensor) -> Tensor:
    """(div M)_i = sum_j d M_ij(x) / dx_j, `[batch, d]`, by autograd, for M from x `[batch, d]` to `[batch, d, d]`."""

    def divergence(point: Tensor) -> Tensor:
        return torch.einsum("ijj->i", torch.func.jacfwd(lambda p: matrix(p.unsqueeze(0))[0])(point))

    return torch.func.vmap(divergence)(x)


class StationarySDE(SDE):
    """The process with a given stationary density p = e^{l/tau}/Z, where l is `log_density` and tau `temperature`:

        dx = [(D + Q) grad l + tau div(D + Q)] dt + sqrt(2 tau D) dw.

    D(x) is symmetric and positive semi-definite, Q(x) is skew-symmetric, and (div M)_i = sum_j dM_ij/dx_j. Every
    process with this stationary density has this form (Ma, Chen & Fox 2015, theorems 1 and 2). Their D is tau D here,
    so that the gradient flow of l is what is left as tau -> 0. In the stationary state the probability current is
    p (Q grad l + tau div Q), which circulates. Without a curl Q there is no current, and the process is its own
    reverse.

    - D = 1, Q = 0, tau = 1 is the Langevin SDE dx = grad log p dt + sqrt(2) dw. The chain of the random-walk slides,
      x + eps f + sqrt(eps) z with f = grad log p, has half the variance of its noise. That is tau = 1/2, and its
      stationary density is p^2.
    - D = diag(0, Gamma), Q = [[0, -1], [1, 0]] and l = log p(x) - v^2/(2M) on the state (x, v) are the underdamped
      Langevin SDE. `CriticallyDamped` is this process for a normal p.

    Args:
        log_density: l, a function from x `[batch, ...]` to `[batch]`, in nats, up to a constant.
        temperature: tau.
        diffusion: D. A number, one number for each component `[d]`, a matrix `[d, d]`, or a function from x
            `[batch, d]` to positive definite matrices `[batch, d, d]`.
        curl: Q. A skew-symmetric matrix `[d, d]`, or a function from x `[batch, d]` to matrices `[batch, d, d]`, of
            which the skew-symmetric part is used.
        score: grad l, a function like `log_density`; taken by autograd by default.
        T: how long the process runs.

    Raises:
        ValueError: if temperature or T is not positive, a constant D is not positive semi-definite, or a constant Q
            is not skew-symmetric.
    """

    @checked
    def __init__(
        self,
        log_density: Function,
        temperature: Positive = 1.0,
        diffusion: Constant | Function = 1.0,
        curl: Constant | Function | None = None,
        score: Function | None = None,
        T: Positive = 1.0,
    ) -> None:
        self.log_density, self.temperature, self.T = log_density, float(temperature), float(T)
        self.score = score or torch.func.grad(lambda x: log_density(x).sum())
        self.matrix: Function | None = None
        self.state_dependent = callable(diffusion)
        if callable(diffusion):
            self.matrix = diffusion
            self.noise_type = "general"
        else:
            self.constant = torch.as_tensor(diffusion, dtype=torch.float64, device="cpu")
            self.noise_type = "general" if self.constant.ndim == 2 else "diagonal"
            self.root = self._root(self.constant)
        self.curl: Tensor | Function | None = None
        if callable(curl):
            self.curl = lambda x: 0.5 * (curl(x) - curl(x).mT)
        elif curl is not None:
            self.curl = torch.as_tensor(curl, dtype=torch.float64, device="cpu")
            if self.curl.ndim != 2 or not torch.equal(self.curl, -self.curl.mT):
                raise ValueError(f"curl: expected a skew-symmetric matrix, got {self.curl.tolist()}")

    @classmethod
    def sgd(
        cls, loss: Function, learning_rate: float, gradient_std: float, score: Function | None = None, T: float = 1.0
    ) -> StationarySDE:
        """Stochastic gradient descent on a loss as a process, dx = -grad L dt + sqrt(eta) sigma dw.

        A step goes to x - eta (grad L + sigma eps), eps ~ N(0, 1), and lasts the time eta. The stationary density is
        e^{-2L/(eta sigma^2)}/Z (McAllester 2022). The slide calls it Gibbs "with eta as temperature". The temperature
        is eta sigma^2/2, which is proportional to eta and equals eta for sigma^2 = 2 only.

        The process is the limit of small eta. On the parabola L = a x^2/2 the steps themselves have variance
        eta sigma^2/(2a) / (1 - eta a/2), for eta a < 2.

        Args:
            loss: L, a function from x `[batch, ...]` to `[batch]`.
            learning_rate: eta.
            gradient_std: sigma, the standard deviation of the gradient's noise, which is the same everywhere.
            score: -grad L; taken by autograd by default.
            T: how long the process runs, eta times the number of steps.

        Raises:
            ValueError: if `learning_rate`, `gradient_std` or T is not positive.
        """
        require_positive(learning_rate=learning_rate, gradient_std=gradient_std)
        return cls(lambda x: -loss(x), 0.5 * learning_rate * gradient_std**2, score=score, T=T)

    def _root(self, d: Tensor) -> Tensor:
        """sqrt(D) for a constant D, after checking that D is positive semi-definite."""
        if d.ndim > 2 or (d.ndim == 2 and not torch.equal(d, d.mT)):
            raise ValueError(f"diffusion: expected a number, [d] or a symmetric [d, d], got {d.tolist()}")
        least = float((torch.linalg.eigvalsh(d) if d.ndim == 2 else d).min())
        if not least >= -1e-12 * float(d.abs().max()):
            raise ValueError(f"diffusion: expected no negative eigenvalue, got {least:.3g}")
        return factor(d) if d.ndim == 2 else d.sqrt()

    def log_prob(self, x: Tensor) -> Tensor:
        """l/tau, the log of the stationary density up to log Z, in nats, `[batch]`."""
        return self.log_density(x) / self.temperature

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """(D + Q) grad l + tau div(D + Q)."""
        require_state(x)
        score = self.score(x)
        if self.matrix is not None:
            drift = self._apply(self.matrix(x), score) + 0.5 * self.noise_divergence(x, t)
        else:
            constant = self.constant.to(x)
            drift = self._apply(constant, score) if constant.ndim == 2 else constant * score
        if isinstance(self.curl, Tensor):
            drift = drift + self._apply(self.curl.to(x), score)
        elif self.curl is not None:
            drift = drift + self._apply(self.curl(x), score) + self.temperature * matrix_divergence(self.curl, x)
        return drift

    def diffusion(self, x: Tensor, t: Time) -> Tensor:
        """sqrt(2 tau D): a tensor that broadcasts against x, or lower triangular matrices `[batch, d, d]`."""
        require_state(x)
        scale = math.sqrt(2 * self.temperature)
        if self.matrix is not None:
            return scale * torch.linalg.cholesky(self.matrix(x))
        root = scale * self.root.to(x)
        return root.expand(len(x), -1, -1) if root.ndim == 2 else root

    def noise_divergence(self, x: Tensor, t: Time) -> Tensor:
        """2 tau div D, from D itself and not from its square root."""
        return torch.zeros_like(x) if self.matrix is None else 2 * self.temperature * matrix_divergence(self.matrix, x)

    @staticmethod
    def _apply(matrix: Tensor, v: Tensor) -> Tensor:
        """The product M v for each sample, `[batch, d]`."""
        return (matrix @ v.unsqueeze(-1)).squeeze(-1)
