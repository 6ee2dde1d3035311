"""The closed form that training starts from: a normal posterior whose mean is linear in the observation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV
from torch import Tensor

PENALTIES = np.geomspace(1e-6, 1e3, 19)
"""Of the ridge regression, over the number of rows. The one with the least leave-one-out error is taken."""


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """p(z given x) = N(A x + b, S), and the residual r = W (z - A x - b), where W S W^T = I.

    Where parameters and noise are normal and the simulator is linear, this is the posterior.

    Args:
        slope: A, `[d, k]`.
        offset: b, `[d]`.
        whitening: W, `[d, d]`.
    """

    slope: Tensor
    offset: Tensor
    whitening: Tensor

    @classmethod
    def fitted(cls, z: Tensor, x: Tensor) -> LinearGaussian:
        """A and b by ridge regression, S by the shrinkage of Ledoit & Wolf (2004) on the residuals.

        Args:
            z: parameters, `[n, d]`, float64.
            x: observations, `[n, k]`, float64.
        """
        n = len(x)
        ridge = RidgeCV(alphas=PENALTIES * n).fit(x.numpy(), z.numpy())
        slope = torch.from_numpy(np.atleast_2d(ridge.coef_))
        offset = torch.from_numpy(np.atleast_1d(np.asarray(ridge.intercept_)))
        residual = z - x @ slope.T - offset
        # The residuals of the rows that were fitted are too small by the share of the degrees of freedom that it took.
        taken = 1 + int((x != x[0]).any(0).sum())  # a number that never varies takes none
        residual = residual * (n / max(n - taken, n / 2)) ** 0.5
        variances, axes = torch.linalg.eigh(torch.from_numpy(ledoit_wolf(residual.numpy(), assume_centered=True)[0]))
        return cls(slope, offset, (axes / variances.clamp(min=1e-12).sqrt()).T)

    def mean(self, x: Tensor) -> Tensor:
        """A x + b, `[n, d]` for x `[n, k]`."""
        return x @ self.slope.T + self.offset

    def residual(self, z: Tensor, x: Tensor) -> Tensor:
        """r, `[n, d]`, of z `[n, d]` and x `[n, k]` or `[1, k]`."""
        return (z - self.mean(x)) @ self.whitening.T

    def restored(self, r: Tensor, x: Tensor) -> Tensor:
        """z, `[n, d]`, of r `[n, d]` and x `[n, k]` or `[1, k]`."""
        return torch.linalg.solve(self.whitening, r.T).T + self.mean(x)

    @property
    def log_determinant(self) -> float:
        """log |det W|."""
        return float(torch.linalg.slogdet(self.whitening)[1])
