"""A posterior with the methods that the diagnostics and plots of the package sbi call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backdrift.posteriors.arguments import check_labels, finite
from backdrift.sde.value_types import Count, require

if TYPE_CHECKING:
    from backdrift.posteriors.simulation_posterior import SimulationPosterior


class SBIPosterior:
    """`sample` and `log_prob` with the arguments of `DirectPosterior` of sbi 0.27 (Boelts et al. 2025).

    `SimulationPosterior.for_sbi` makes it. `sbi.diagnostics.run_sbc`, `run_tarp` and `sbi.analysis.pairplot` take it or
    its draws. The package sbi is not needed. As in sbi, draws depend on `torch.manual_seed`.

    Args:
        posterior: a fitted posterior.
        x_o: the observation that is meant where a method is given none, `[*shape]` or `[1, *shape]`.
    """

    def __init__(self, posterior: SimulationPosterior, x_o: Any = None) -> None:
        self.posterior = posterior
        self.default_x: Tensor | None = None
        if x_o is not None:
            self.set_default_x(x_o)

    def set_default_x(self, x: Any) -> SBIPosterior:
        """Set the observation that is meant where a method is given none.

        Raises:
            ValueError: if it has another shape, or is not of finite numbers.
        """
        shape = self.posterior.observation_shape_
        check_labels("x", x, self.posterior.observation_names_)
        found = finite("x", x)
        if tuple(found.shape) not in (shape, (1, *shape)):
            raise ValueError(f"x: expected one observation of shape {list(shape)}, got {list(found.shape)}")
        self.default_x = found.reshape(1, *shape)
        return self

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        x: Any = None,
        max_sampling_batch_size: int = 10_000,
        show_progress_bars: bool = True,
        reject_outside_prior: bool = True,
    ) -> Tensor:
        """Draws of the parameters given one observation, `[*sample_shape, d]`, float64.

        Args:
            sample_shape: shape of the draws.
            x: the observation, `[*shape]` or `[1, *shape]`. None means the default one.
            max_sampling_batch_size: changes nothing. Batches here are of a fixed size.
            show_progress_bars: changes nothing. There are none.
            reject_outside_prior: changes nothing. No draw leaves the support of the prior.

        Raises:
            ValueError: if there is no observation, or it has another shape.
        """
        n = _count(sample_shape)
        draws = self.posterior.sample(self._observation(x), n, random_state=_seed())
        return torch.from_numpy(draws).reshape(*sample_shape, -1)

    def sample_batched(
        self,
        sample_shape: Sequence[int],
        x: Any,
        max_sampling_batch_size: int = 10_000,
        show_progress_bars: bool = True,
        reject_outside_prior: bool = True,
    ) -> Tensor:
        """Draws given each of several observations, `[*sample_shape, k, d]`, float64.

        Args:
            sample_shape: shape of the draws for each observation.
            x: observations of parameters of their own, `[k, *shape]`.
            max_sampling_batch_size, show_progress_bars, reject_outside_prior: see `sample`.

        Raises:
            ValueError: if `x` has another shape.
        """
        n = _count(sample_shape)
        draws = torch.from_numpy(self.posterior.sample(x, n, each=True, random_state=_seed()))
        return draws.transpose(0, 1).reshape(*sample_shape, *draws.shape[::2])

    def log_prob(self, theta: Any, x: Any = None, norm_posterior: bool = True, track_gradients: bool = False) -> Tensor:
        """The log-density in nats at parameters `[m, d]` given one observation, `[m]`, float64.

        Args:
            theta: parameters, `[m, d]` or `[d]`.
            x: the observation. None means the default one.
            norm_posterior: changes nothing. The density is always normalised on the support of the prior.
            track_gradients: True is refused.

        Raises:
            ValueError: if there is no observation, a shape does not fit, or gradients are asked for.
        """
        if track_gradients:
            raise ValueError("track_gradients: expected False, since the log-density has no gradients here, got True")
        rows = finite("theta", theta)
        found = self.posterior.log_prob(rows[None] if rows.ndim == 1 else rows, self._observation(x))
        return torch.from_numpy(found)

    potential = log_prob

    def log_prob_batched(
        self, theta: Any, x: Any, norm_posterior: bool = True, track_gradients: bool = False
    ) -> Tensor:
        """The log-density in nats at parameters `[*sample_shape, k, d]` given k observations, `[*sample_shape, k]`.

        Args:
            theta: parameters for each observation, `[*sample_shape, k, d]`.
            x: observations, `[k, *shape]`.
            norm_posterior, track_gradients: see `log_prob`.

        Raises:
            ValueError: as `log_prob`.
        """
        if track_gradients:
            raise ValueError("track_gradients: expected False, since the log-density has no gradients here, got True")
        rows, seen = finite("theta", theta), finite("x", x)
        if rows.ndim < 2 or seen.ndim < 1 or rows.shape[-2] != len(seen) or rows.numel() == 0:
            raise ValueError(f"theta: expected shape [..., {len(seen) if seen.ndim else 1}, d], got {list(rows.shape)}")
        repeats = rows.shape[:-1].numel() // len(seen)
        found = self.posterior.log_prob(
            rows.flatten(0, -2), np.tile(seen, (repeats, *[1] * (seen.ndim - 1))), each=True
        )
        return torch.from_numpy(found).reshape(rows.shape[:-1])

    def _observation(self, x: Any) -> Any:
        if x is not None:
            return x
        if self.default_x is None:
            raise ValueError("x: expected an observation, since no default one is set, got None")
        return self.default_x


def _count(sample_shape: Sequence[int]) -> int:
    """How many draws a shape holds.

    Raises:
        ValueError: if it is no sequence of positive integers.
    """
    require(
        "sample_shape", tuple(sample_shape) if isinstance(sample_shape, torch.Size) else sample_shape, Sequence[Count]
    )
    return int(torch.Size(sample_shape).numel())


def _seed() -> int:
    """A seed from torch's own generator, so that `torch.manual_seed` decides the draws, as in sbi."""
    return int(torch.randint(2**31 - 1, ()))
