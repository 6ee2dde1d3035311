"""Samplers that go from x_t to x_s through the posterior of x_s given x_t and the denoised x_0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from backdrift.sde.checks import require_choice, require_number
from backdrift.solvers.tables.grid import Points, fresh_share
from backdrift.solvers.tables.table import Row, one_evaluation_rows
from backdrift.solvers.tables.table_solver import TableSolver

Variance = Literal["beta_tilde", "beta"]


@dataclass(frozen=True, kw_only=True)
class DDIM(TableSolver):
    """x_s = alpha_s D + sqrt(sigma_s^2 - q^2) eps + q z, with eps = (x_t - alpha_t D)/sigma_t and

        q = eta sigma_s sqrt(1 - SNR_t/SNR_s).

    Song, Meng & Ermon (2021), eq. 12 and 16. eta = 0 is the exact step of the probability flow for a
    constant noise (order 1); eta = 1 is `Ancestral`.

    Args:
        eta: how much noise, from 0 (deterministic) to 1 (the posterior's own variance).

    Raises:
        ValueError: if `eta` is not in [0, 1].
    """

    eta: float = 0.0
    claimed_order = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("eta", self.eta, least=0, most=1)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        share = self.eta**2 * fresh_share(t, s)
        carry = s.sigma * (1 - share).sqrt() / t.sigma
        return one_evaluation_rows(t.t, s.t, carry, s.alpha - t.alpha * carry, s.sigma * share.sqrt())


@dataclass(frozen=True, kw_only=True)
class Ancestral(TableSolver):
    """DDPM's sampler on any grid: the posterior q(x_s | x_t, x_0) at x_0 = D, with one of two variances:

    - "beta_tilde": the posterior's own, sigma_s^2 h, right for data at a point;
    - "beta": the transition's, scaled as in DDPM, sigma_t^2 h, right for normal data of unit variance,

    h = 1 - SNR_t/SNR_s. Ho et al. (2020), eq. 7 and section 3.2; algorithm 2. Weak order 1.

    Args:
        variance: which of the two variances, "beta_tilde" or "beta".

    Raises:
        ValueError: if `variance` is neither.
    """

    variance: Variance = "beta_tilde"
    claimed_order = 1
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("variance", self.variance, get_args(Variance))

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        h = fresh_share(t, s)
        carry = t.alpha / s.alpha * (s.sigma / t.sigma).square()
        std: Tensor = (s.sigma if self.variance == "beta_tilde" else t.sigma) * h.sqrt()
        return one_evaluation_rows(t.t, s.t, carry, s.alpha * h, std)
