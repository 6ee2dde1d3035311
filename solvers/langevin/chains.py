"""The draws of Markov chains, and what can be said of them: moments with errors, R-hat, effective sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["mean", "sd", "bulk", "tail"]


@dataclass(frozen=True)
class Chains:
    """What `mcmc` gives back.

    Attributes:
        draws: `[chains, draws, ...]`, thinned, without the warm-up.
        log_prob: log p + const of each draw in nats, `[chains, draws]`; None where only a score is known.
        acceptance: mean acceptance probability after the warm-up, `[chains, replicas]`. For an unadjusted sampler it
            is the one that its moves would have had (by the trapezoidal rule where only a score is known).
        energy_error: mean square of a step's energy error, divided by the dimension, `[chains, replicas]`.
        step: step sizes, `[chains, replicas]`.
        whitening: L of the replica at temperature 1, `[chains, d]` or `[chains, d, d]`. The first length is 1 where
            all chains share it.
        exchange: share of accepted exchanges between neighbouring temperatures, `[chains, replicas - 1]`, or None
            without tempering.
        gradients: how often the density was evaluated for the draws of a chain, over all its temperatures.
        warmup_gradients: the same for the warm-up.
        seed: of the random numbers.
        seconds: wall time of the draws of all chains together.
    """

    draws: Tensor
    log_prob: Tensor | None
    acceptance: Tensor
    energy_error: Tensor
    step: Tensor
    whitening: Tensor
    exchange: Tensor | None
    gradients: int
    warmup_gradients: int
    seed: int
    seconds: float

    def __repr__(self) -> str:
        chains, draws, *shape = self.draws.shape
        accepted = float(self.acceptance.mean())
        exchanged = "" if self.exchange is None else f", exchanges accepted {float(self.exchange.mean()):.2f}"
        return (
            f"Chains({chains} chains of {draws} draws of shape {shape}: acceptance {accepted:.2f}, "
            f"step {float(self.step.mean()):.3g}{exchanged}; {self.gradients} gradients a chain and "
            f"{self.warmup_gradients} in the warm-up, {self.seconds:.3g} s, seed {self.seed})"
        )

    def rhat(self) -> Tensor:
        """The rank-normalised split R-hat of each component, `[...]` (Vehtari et al. 2021). At best it is 1.

        Raises:
            ImportError: without arviz-stats.
        """
        return self._each("rhat")

    def ess(self, kind: Kind = "bulk") -> Tensor:
        """The effective number of draws of all chains together, `[...]` (Vehtari et al. 2021).

        Args:
            kind: what the draws are used for: "mean"; "sd", the standard deviation; "bulk", the rank-normalised draws;
                or "tail", the lesser of those for the 5% and the 95% quantile.

        Raises:
            ImportError: without arviz-stats.
        """
        return self._each("ess", method=kind, **({"prob": (0.05, 0.95)} if kind == "tail" else {}))

    def mean(self) -> Tensor:
        """The mean over all draws, `[...]`."""
        return self.draws.mean((0, 1))

    def sd(self) -> Tensor:
        """The standard deviation over all draws, `[...]`."""
        return self.draws.flatten(0, 1).std(0)

    def standard_error(self, of: Literal["mean", "sd"] = "mean") -> Tensor:
        """The Monte Carlo standard error of `mean` or `sd`, `[...]`, from the effective number of draws.

        Raises:
            ImportError: without arviz-stats.
        """
        return self._each("mcse", method=of)

    def _each(self, statistic: str, **options: Any) -> Tensor:
        try:
            from arviz_stats.base import array_stats
        except ImportError as missing:
            raise ImportError(
                "R-hat and effective sample sizes come from arviz-stats: pip install arviz-stats"
            ) from missing
        values = self.draws.double().cpu().flatten(2).numpy()
        result = getattr(array_stats, statistic)(values, chain_axis=0, draw_axis=1, **options)
        return torch.from_numpy(np.asarray(result, dtype=np.float64)).reshape(self.draws.shape[2:])
