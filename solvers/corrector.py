"""Langevin steps at a fixed time, around any predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sde.process import require_positive
from solvers.euler import EulerMaruyama
from solvers.noise import ACCEPT, Noise
from solvers.solver import OnStep, Solver, TableSolver, denoiser_of, require_steps, score_of

Score = Callable[[Tensor, Tensor], Tensor]


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One number per sample, shaped to broadcast against `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, `[batch]`."""
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class Corrector(ABC):
    """Moves a state towards p_t without changing t.

    Args:
        steps: how many moves after each predictor step.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        require_steps(self.steps)

    @abstractmethod
    def correct(self, model: Any, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        """`steps` moves at time t; `accept` draws one number a sample for those that may refuse."""


@dataclass(frozen=True, kw_only=True)
class Langevin(Corrector):
    """x' = x + delta score + sqrt(2 delta) z with delta = 2 alpha^2 (snr sqrt(d)/|score|)^2.

    Song et al. (2021), algorithms 4 and 5, with the signal-to-noise rule taken for each sample
    alone: norms averaged over a batch would make a sample depend on its neighbours. |z| is replaced
    by its typical value sqrt(d), since a step size that depends on z biases the step.

    Args:
        snr: Song's r, the ratio of the drift's length to the noise's.
    """

    snr: float = 0.16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(snr=self.snr)

    def step_size(self, score: Tensor, alpha: Tensor) -> Tensor:
        """delta for each sample, shaped to broadcast."""
        size = score[0].numel()
        return per_sample(2 * (alpha * self.snr) ** 2 * size / dot(score, score).clamp(min=1e-12), score)

    def correct(self, model: Any, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        score, alpha = score_of(model), model.sde.alpha(t)
        for _ in range(self.steps):
            s = score(x, t)
            delta = self.step_size(s, alpha)
            x = x + delta * s + (2 * delta).sqrt() * noise()
        return x


@dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeckStep(Corrector):
    """The Langevin SDE with its stiff linear part exact: for a constant denoiser D

        x' = alpha D + exp(-h) (x - alpha D) + sigma sqrt(1 - exp(-2h)) z,

    h the time in units of sigma^2. Stable for every h; at h -> inf it draws N(alpha D, sigma^2).

    Args:
        h: step size, no unit.
    """

    h: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(h=self.h)

    def correct(self, model: Any, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        denoise = denoiser_of(model)
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        h = torch.as_tensor(self.h, dtype=x.dtype)
        kept, kick = torch.exp(-h).item(), torch.sqrt(-torch.expm1(-2 * h)).item()
        for _ in range(self.steps):
            mean = alpha * denoise(x, t)
            x = mean + kept * (x - mean) + sigma * kick * noise()
        return x


@dataclass(frozen=True, kw_only=True)
class MetropolisLangevin(Langevin):
    """A Langevin step that may be refused, so that p_t stays exactly as it is (MALA, Roberts & Tweedie 1996).

    The density's ratio comes from the score alone, by Simpson's rule along the line from x to x':

        log p(x') - log p(x) = (x' - x) . [s(x) + 4 s((x + x')/2) + s(x')]/6 + O(|x' - x|^5).

    Two evaluations a step, and one more at the first. The step size is fixed by the first score of
    each time, since a size that changes with x would need its own correction.
    """

    def correct(self, model: Any, x: Tensor, t: Tensor, noise: Noise, accept: Noise) -> Tensor:
        score = score_of(model)
        s = score(x, t)
        delta = self.step_size(s, model.sde.alpha(t))
        for _ in range(self.steps):
            z = noise()
            new = x + delta * s + (2 * delta).sqrt() * z
            s_new = score(new, t)
            log_ratio = dot(new - x, s + 4 * score((x + new) / 2, t) + s_new) / 6
            back = (x - new - delta * s_new) / (2 * delta).sqrt()  # the z that would lead back
            log_ratio = log_ratio + 0.5 * (dot(z, z) - dot(back, back))
            taken = per_sample(torch.special.log_ndtr(accept().flatten()) < log_ratio, x)
            x, s = torch.where(taken, new, x), torch.where(taken, s_new, s)
        return x


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Solver):
    """Any table, with a corrector after each of its steps but the last one to the data.

    Song et al. (2021), algorithm 1.

    Args:
        predictor: a solver on a fixed grid.
        corrector: what moves the state at each time.
    """

    predictor: TableSolver = field(default_factory=EulerMaruyama)
    corrector: Corrector = field(default_factory=Langevin)
    stochastic = True

    def solve(self, model: Any, x: Tensor, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
        if noise is None:
            raise ValueError("noise: this solver is stochastic; give a source of noise")
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
