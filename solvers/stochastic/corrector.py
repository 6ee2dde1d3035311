"""Correctors, which take Langevin steps at a fixed time, and the solver that adds one to any predictor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
from torch import Tensor

from backdrift.sde import SDE
from backdrift.sde.arguments import check_fields
from backdrift.sde.value_types import Positive, Range
from backdrift.solvers.model import Denoises, ModelLike, data_std_of, denoiser_of, recomputed, score_of
from backdrift.solvers.noise import ACCEPT, Noise
from backdrift.solvers.solver import OnStep, Solver, require_gaussian, require_noise
from backdrift.solvers.tables.euler import EulerMaruyama
from backdrift.solvers.tables.table_solver import TableSolver


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One number per sample, shaped to broadcast against `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, `[batch]`."""
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class Corrector(ABC):
    """The base class of correctors: a corrector moves a state towards p_t without changing t.

    Args:
        steps: number of corrector steps after each predictor step.

    Raises:
        ValueError: if `steps` is below 1.
    """

    steps: Annotated[int, Range(least=1, most=10_000)] = 1
    differentiable = True

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def correct(self, model: Denoises, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        """Take `steps` corrector steps from the state x at time t, and return the new state.

        Args:
            model: the model.
            x: the state, `[batch, ...]`.
            t: the time, a 0-d tensor.
            noise: returns standard normal noise shaped like x.
            accept: returns one standard normal number for each sample. A corrector uses it to accept or reject a step.
        """


@dataclass(frozen=True, kw_only=True)
class LangevinCorrector(Corrector):
    """Langevin steps whose size follows from a signal-to-noise ratio, as in Song et al. (2021), for each sample alone.

    The step is x' = x + delta score + sqrt(2 delta) z, with

        delta = 2 (alpha snr)^2 / max(|score|^2/dim, 1/R^2),    delta <= sigma^2/2,    R^2 = sigma^2 + alpha^2 d^2.

    Song et al. (2021), algorithms 4 and 5. It differs from the paper in four ways:

    - The paper averages the norms over the batch, so a sample depends on its neighbours. Here each sample has its own.
    - The norm of a single score can be close to 0, most of all in few dimensions. Therefore |score|^2/dim counts as at
      least 1/R^2, its expectation for data of standard deviation d.
    - delta is at most sigma^2/2, which keeps the step stable: p_t is not narrower than sigma in any direction.
    - |z|^2 is replaced by its expectation, since a step size that depends on z biases the step.

    A step costs one evaluation.

    Args:
        snr: ratio of the drift's length to the noise's, r in the paper.
        data_std: standard deviation d of the data; the model's own by default.
        steps: number of corrector steps after each predictor step.

    Raises:
        ValueError: if `snr` is not positive, or `steps` is below 1.
    """

    snr: Positive = 0.16
    data_std: Positive | None = None

    def correct(self, model: Denoises, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        score, alpha, variance = recomputed(score_of(model), model, x), model.sde.alpha(t), model.sde.sigma(t).square()
        total = variance + (alpha * data_std_of(model, self.data_std)).square()
        for _ in range(self.steps):
            s = score(x, t)
            delta = 2 * (alpha * self.snr).square() / (dot(s, s) / x[0].numel()).maximum(1 / total)
            delta = per_sample(delta.minimum(0.5 * variance), x)
            x = x + delta * s + (2 * delta).sqrt() * noise()
        return x


@dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeckCorrector(Corrector):
    """Langevin steps that are exact for normal data of standard deviation d, and stable for every step size h.

    The step is

        x' = alpha D + rho (x - alpha D) + q z,    q^2 = R^2 (1 - kappa^2),
        kappa = rho + (1 - rho) alpha^2 d^2/R^2,    R^2 = sigma^2 + alpha^2 d^2,    rho = exp(-h).

    This is x + (1 - rho) sigma^2 score + q z, the Ornstein-Uhlenbeck step of the density N(0, R^2). The plain Langevin
    step is unstable for large h and biased on a normal density. This step is neither. It costs one evaluation.

    Args:
        h: step size in units of sigma^2.
        data_std: standard deviation d of the data; the model's own by default.
        steps: number of corrector steps after each predictor step.

    Raises:
        ValueError: if `h` is not positive, or `steps` is below 1.
    """

    h: Positive = 0.1
    data_std: Positive | None = None

    def correct(self, model: Denoises, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        denoise = recomputed(denoiser_of(model), model, x)
        rho = math.exp(-self.h)
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        signal = (alpha * data_std_of(model, self.data_std)).square()
        total = signal + sigma.square()
        # 1 - kappa^2 = (1 - kappa)(1 + kappa), and 1 - kappa = (1 - rho) sigma^2/R^2
        lost = (1 - rho) * sigma.square() / total
        q = (total * lost * (2 - lost)).sqrt()
        for _ in range(self.steps):
            mean = alpha * denoise(x, t)
            x = mean + rho * (x - mean) + q * noise()
        return x


@dataclass(frozen=True, kw_only=True)
class MetropolisCorrector(Corrector):
    """Langevin steps that are accepted or rejected, so that p_t stays unchanged (MALA, Roberts & Tweedie 1996).

    The proposal is

        x' = x + delta score + sqrt(2 delta) z,    delta = h sigma^2.

    The acceptance probability needs the ratio of the densities. It is computed from the score alone, by Simpson's rule
    along the line from x to x':

        log p(x') - log p(x) = (x' - x) . [s(x) + 4 s((x + x')/2) + s(x')]/6 + O(|x' - x|^5).

    A step costs two evaluations, and the first one at each time costs one more. The step size depends only on t,
    because one that depends on x would change the acceptance probability.

    Args:
        h: step size in units of sigma^2.
        steps: number of corrector steps after each predictor step.

    Raises:
        ValueError: if `h` is not positive, or `steps` is below 1.
    """

    h: Positive = 0.1
    differentiable = False  # a step is either accepted or rejected, which has no gradient

    def correct(self, model: Denoises, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        score = score_of(model)
        s = score(x, t)
        delta = self.h * model.sde.sigma(t).square()
        for _ in range(self.steps):
            z = noise()
            new = x + delta * s + (2 * delta).sqrt() * z
            s_new = score(new, t)
            log_ratio = dot(new - x, s + 4 * score((x + new) / 2, t) + s_new) / 6
            back = (x - new - delta * s_new) / (2 * delta).sqrt()  # the z of the proposal from x' back to x
            log_ratio = log_ratio + 0.5 * (dot(z, z) - dot(back, back))
            taken = per_sample(torch.special.log_ndtr(accept().flatten()) < log_ratio, x)
            x, s = torch.where(taken, new, x), torch.where(taken, s_new, s)
        return x


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Solver):
    """A solver on a fixed grid with a corrector after each of its steps, except the last one to the data.

    Song et al. (2021), algorithm 1.

    Args:
        predictor: the solver on a fixed grid.
        corrector: the corrector that moves the state at each time.
    """

    predictor: TableSolver = field(default_factory=EulerMaruyama)
    corrector: Corrector = field(default_factory=LangevinCorrector)
    stochastic = True

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def differentiable(self) -> bool:
        return self.predictor.differentiable and self.corrector.differentiable

    def require_process(self, sde: SDE) -> None:
        require_gaussian(self, sde)

    def solve(self, model: ModelLike, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        self.require_process(model.sde)
        noise, model = require_noise(self, noise), cast(Denoises, model)
        accept = noise.sibling((x.shape[0], 1), ACCEPT)
        remaining = sum(row.ends for row in self.predictor.table(model.sde).rows)
        on_data = self.predictor.final != "stop"

        def correct(x: Tensor, t: Tensor) -> Tensor:
            nonlocal remaining
            remaining -= 1
            if remaining > 0 or not on_data:
                x = self.corrector.correct(model, x, t, noise, accept)
            return x if on_step is None else on_step(x, t)

        return self.predictor.solve(model, x, noise, correct)
