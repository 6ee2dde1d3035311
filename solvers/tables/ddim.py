"""DDIM and ancestral sampling: samplers that use the posterior of x_s given x_t and the denoised x_0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from backdrift.sde.value_types import Range
from backdrift.solvers.tables.grid import Points, fresh_share
from backdrift.solvers.tables.table import Row, one_evaluation_rows
from backdrift.solvers.tables.table_solver import TableSolver

Variance = Literal["beta_tilde", "beta"]


@dataclass(frozen=True, kw_only=True)
class DDIM(TableSolver):
    """Denoising diffusion implicit models (DDIM): a first-order solver that is deterministic by default.

    It is the usual baseline. With eps = (x_t - alpha_t D)/sigma_t the step from t to s is

        x_s = alpha_s D + sqrt(sigma_s^2 - q^2) eps + q z,    q = eta sigma_s sqrt(1 - SNR_t/SNR_s).

    Song, Meng & Ermon (2021), eq. 12 and 16. With eta = 0 the step solves the probability flow exactly if the
    predicted noise eps is constant over the step. With eta = 1 it is `Ancestral`. A step costs one evaluation, and the
    order is 1 (the weak order if eta > 0).

    Args:
        eta: how much noise is added, from 0 (deterministic) to 1 (the variance of the posterior).

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `eta` is not in [0, 1].
    """

    eta: Annotated[float, Range(least=0, most=1)] = 0.0
    claimed_order = 1
    needs_ratio = False

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
    """Ancestral sampling, the sampler of DDPM, on any grid.

    A step draws x_s from the posterior q(x_s | x_t, x_0) at x_0 = D. The variance of x_s is one of two, with
    h = 1 - SNR_t/SNR_s:

    - "beta_tilde" is the variance of the posterior, sigma_s^2 h. It is the right one if all data lie at one point.
    - "beta" is the variance of the forward transition, scaled as in DDPM, sigma_t^2 h. It is the right one for normal
      data of unit variance.

    Ho et al. (2020), eq. 7, section 3.2 and algorithm 2. A step costs one evaluation, and the weak order is 1.

    Args:
        variance: which of the two variances, "beta_tilde" or "beta".

    The other arguments are those of every solver on a fixed grid, see `TableSolver`.

    Raises:
        ValueError: if `variance` is neither of the two.
    """

    variance: Variance = "beta_tilde"
    claimed_order = 1
    stochastic = True

    def rows(self, points: Points) -> Iterable[Row]:
        t, s = points.steps()
        h = fresh_share(t, s)
        carry = t.alpha / s.alpha * (s.sigma / t.sigma).square()
        std: Tensor = (s.sigma if self.variance == "beta_tilde" else t.sigma) * h.sqrt()
        return one_evaluation_rows(t.t, s.t, carry, s.alpha * h, std)
