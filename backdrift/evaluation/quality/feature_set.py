"""Features of a set of samples, gathered from a stream in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

GROUPS = 16
"""The samples are dealt to so many groups, which are left out one after the other for the error of a distance."""


class FeatureSet:
    """The features of a set of samples: their moments, and an even choice of them.

    Sample i belongs to group i mod `GROUPS`. For each group the count, the sum and the sum of outer products are kept,
    in float64, and they take all samples into account. Besides, `kept` feature vectors are kept themselves, chosen at
    random without regard to the samples, so that memory does not grow with the stream. What is kept does not depend on
    how the stream is cut into batches.

    Args:
        features: gives the features `[n, ...]` of a batch of samples `[n, ...]`. A torch module is called in evaluation
            mode, on its own device. By default the features are the samples themselves. They are flattened.
        kept: how many feature vectors are kept, at least 3.
        seed: of the choice.

    Raises:
        ValueError: if `kept` is below 3.

    For example, `FeatureSet(network).add_all(batches)` gathers the features of an iterable of batches.
    """

    def __init__(
        self, features: Callable[[Tensor], Tensor] | None = None, *, kept: int = 10_000, seed: int = 0
    ) -> None:
        if kept < 3:
            raise ValueError(f"kept: expected at least 3, got {kept}")
        self.features, self.most = features, kept
        self._keys = np.random.default_rng(seed)
        self._count = 0
        self._kept: Tensor | None = None
        self._priority = torch.empty(0, dtype=torch.float64)

    def add(self, samples: Tensor) -> FeatureSet:
        """Take in a batch of samples `[n, ...]`.

        Raises:
            ValueError: if their features are not finite, or their number is not that of the batches before.
        """
        found = self._features_of(samples)
        if self._kept is None:
            self._begin(found)
        assert self._kept is not None
        if found.shape[1] != self._kept.shape[1]:
            raise ValueError(f"samples: expected {self._kept.shape[1]} features each, got {found.shape[1]}")
        group = (torch.arange(len(found)) + self._count) % GROUPS
        for g in group.unique().tolist():
            own = found[group == g] - self._origin
            self.counts[g] += len(own)
            self._sums[g] += own.sum(0)
            self._products[g] += own.mT @ own
        self._count += len(found)
        # The samples with the smallest random numbers stay, in the order in which they came.
        priority = torch.cat((self._priority, torch.from_numpy(self._keys.random(len(found)))))
        rows = torch.cat((self._kept, found))
        if len(rows) > self.most:
            stay = priority.argsort()[: self.most].sort().values
            priority, rows = priority[stay], rows[stay]
        self._priority, self._kept = priority, rows
        return self

    def add_all(self, batches: Iterable[Tensor]) -> FeatureSet:
        """Take in every batch of an iterable, one after the other."""
        for batch in batches:
            self.add(batch)
        return self

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        """The number of features of a sample, 0 before the first batch."""
        return 0 if self._kept is None else self._kept.shape[1]

    @property
    def kept(self) -> Tensor:
        """The feature vectors that are kept, `[min(n, kept), dim]`, in float64 on the host."""
        return torch.empty(0, 0, dtype=torch.float64) if self._kept is None else self._kept

    def moments(self, groups: Tensor | None = None) -> tuple[int, Tensor, Tensor]:
        """The number, the mean `[dim]` and the covariance `[dim, dim]` of the samples of some groups.

        The covariance is the unbiased one, with n - 1.

        Args:
            groups: a mask `[GROUPS]`, or None for all samples.

        Raises:
            ValueError: if they are fewer than two samples.
        """
        chosen = torch.ones(GROUPS, dtype=torch.bool) if groups is None else groups
        n = int(self.counts[chosen].sum()) if self._count else 0
        if n < 2:
            raise ValueError(f"groups: expected at least 2 samples in them, got {n}")
        mean = self._sums[chosen].sum(0) / n
        covariance = (self._products[chosen].sum(0) - n * torch.outer(mean, mean)) / (n - 1)
        return n, mean + self._origin, covariance

    def _begin(self, found: Tensor) -> None:
        d = found.shape[1]
        self._kept = torch.empty(0, d, dtype=torch.float64)
        self.counts = torch.zeros(GROUPS, dtype=torch.int64)
        self._origin = found[0].clone()  # sums about a typical value lose fewer digits
        self._sums = torch.zeros(GROUPS, d, dtype=torch.float64)
        self._products = torch.zeros(GROUPS, d, d, dtype=torch.float64)

    def _features_of(self, samples: Tensor) -> Tensor:
        found = samples if self.features is None else features_of(self.features, samples)
        if found.ndim < 2 or len(found) != len(samples) or not len(found):
            raise ValueError(
                f"features: expected shape [{len(samples)}, ...] for {len(samples)} samples, got {list(found.shape)}"
            )
        found = found.detach().flatten(1).double().cpu()
        if not bool(found.isfinite().all()):
            raise ValueError("features: expected finite values, got NaN or inf")
        return found


def features_of(features: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """The features of a batch, without gradients. A module is in evaluation mode meanwhile."""
    if not isinstance(features, nn.Module):
        with torch.no_grad():
            return features(samples)
    place = next(features.parameters(), None)
    modes = [(module, module.training) for module in features.modules()]
    features.eval()
    try:
        with torch.no_grad():
            found: Tensor = features(samples if place is None else samples.to(place.device))
            return found
    finally:
        for module, mode in modes:
            module.training = mode


def gathered(name: str, samples: Tensor | FeatureSet, fewest: int) -> FeatureSet:
    """The set of an argument that may be a tensor of features.

    Raises:
        ValueError: naming the argument, if it holds fewer than `fewest` samples.
    """
    found = samples
    if isinstance(samples, Tensor):
        if samples.ndim < 2 or not len(samples):
            raise ValueError(f"{name}: expected samples [n, ...], got shape {list(samples.shape)}")
        found = FeatureSet(kept=max(3, len(samples))).add(samples)
    assert isinstance(found, FeatureSet)
    if len(found) < fewest:
        raise ValueError(f"{name}: expected at least {fewest} samples, got {len(found)}")
    return found


def both(x: Tensor | FeatureSet, y: Tensor | FeatureSet, fewest: int) -> tuple[FeatureSet, FeatureSet]:
    """Both arguments of a distance as sets.

    Raises:
        ValueError: naming the argument, if one holds fewer than `fewest` samples, or their features differ in number.
    """
    first, second = gathered("x", x, fewest), gathered("y", y, fewest)
    if first.dim != second.dim:
        raise ValueError(f"x, y: expected the same number of features, got {first.dim} and {second.dim}")
    return first, second
