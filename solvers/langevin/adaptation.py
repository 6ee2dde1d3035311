"""What Markov chains learn in warm-up, each chain for itself: its step size and its whitening."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.solvers.langevin.sampler import Sampler, State
from backdrift.solvers.langevin.whitening import Moments, Whitening, windows


class DualAveraging:
    r"""Step sizes that are driven to where a noisy signal g(h), which falls as h rises, is zero on average.

    .. math:: \bar g_t = (1 - \tfrac{1}{t + t_0}) \bar g_{t-1} + \tfrac{g_t}{t + t_0}, \quad
        \log h_t = \mu + \tfrac{\sqrt t}{\gamma} \bar g_t, \quad
        \log \bar h_t = t^{-\kappa} \log h_t + (1 - t^{-\kappa}) \log \bar h_{t-1}

    Nesterov (2009); Hoffman & Gelman (2014), section 3.2, with their constants gamma = 0.05, t_0 = 10 and kappa = 0.75.

    Args:
        step: step sizes to begin with, `[chains, 1]`; their logarithm is mu.

    Attributes:
        step: h_t, the step sizes to try next, `[chains, 1]`.
        average: the averaged step sizes, to be used after the warm-up, `[chains, 1]`.
    """

    def __init__(self, step: Tensor) -> None:
        self.step = step
        self.average = step.clone()
        self._centre = step.log()
        self._signal = torch.zeros_like(step)
        self._t = 0

    def __call__(self, signal: Tensor) -> None:
        """Take one signal g `[chains]`, positive where the step may grow."""
        self._t += 1
        t = self._t
        self._signal += (signal.unsqueeze(-1) - self._signal) / (t + 10)
        log_step = self._centre + t**0.5 / 0.05 * self._signal
        self.step = log_step.exp()
        self.average = torch.lerp(self.average.log(), log_step, t**-0.75).exp()


class Adaptation:
    """The warm-up of all chains: step sizes by `DualAveraging`, whitening by `Moments` over windows of doubling length.

    Args:
        sampler: whose step size is adapted, unless it has one of its own.
        x: where the chains start, `[rows, d]`.
        warmup: number of steps.
        whitening: what to learn; or L itself, `[d]` or `[d, d]`, which stays as given.

    Attributes:
        root: L as learnt so far, see `whiten`.
    """

    def __init__(self, sampler: Sampler, x: Tensor, warmup: int, whitening: Whitening | Tensor) -> None:
        self.sampler, self.dim = sampler, x.shape[1]
        self.adapts_step = sampler.step is None
        self._first = sampler.first_step(self.dim) if sampler.step is None else sampler.step
        self._step = DualAveraging(x.new_full((len(x), 1), self._first))
        self.kind: Whitening = "none" if isinstance(whitening, Tensor) else whitening
        self.root = whitening.to(x).unsqueeze(0) if isinstance(whitening, Tensor) else torch.ones_like(x)
        self._moments = None if self.kind == "none" else Moments(x, self.kind)
        self._ends = frozenset(windows(warmup))

    @property
    def step(self) -> Tensor:
        """The step sizes to try next, `[rows, 1]`."""
        return self._step.step

    @property
    def final_step(self) -> Tensor:
        """The step sizes to be used after the warm-up, `[rows, 1]`."""
        return self._step.average

    def learn(self, number: int, state: State, log_ratio: Tensor) -> None:
        """Take in step `number` of the warm-up, counted from 1: where it led, and its log-ratio `[rows]`."""
        if self.adapts_step:
            self._step(self.sampler.adaptation_signal(log_ratio, self.dim))
        if self._moments is None:
            return
        self._moments(state.x, state.score)
        if number in self._ends:
            # In new coordinates the step size starts again.
            self.root, self._moments = self._moments.root(), Moments(state.x, self.kind)
            self._step = DualAveraging(torch.full_like(self.step, self._first))
