"""What a guide says of a state: models give it, and particles are weighted by it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Twist(NamedTuple):
    """What a guide says of a state x_t.

    Attributes:
        denoised: E[x_0 | x_t], shaped like x.
        guided: E[x_0 | x_t, y], shaped like x.
        log_twist: log p(y | x_t) in nats, `[batch]`.
    """

    denoised: Tensor
    guided: Tensor
    log_twist: Tensor


class Joint(NamedTuple):
    """The normal density of (x_0, y) given a state x_t, as moment matching has it, for flattened x_0 and y.

    Attributes:
        denoised: D = E[x_0 | x_t], shaped like x.
        covariance: V, of x_0, `[batch, d, d]`, symmetric and not negative.
        cross: V A^T, of x_0 and y, `[batch, d, m]`.
        total: R + A V A^T, of y, `[batch, m, m]`.
        residual: y - A D, `[batch, m]`.
    """

    denoised: Tensor
    covariance: Tensor
    cross: Tensor
    total: Tensor
    residual: Tensor


class LowRank(NamedTuple):
    """The normal density of x_0 given a state x_t, with the covariance V = Q diag(v) Q^T + rest (1 - Q Q^T).

    Attributes:
        denoised: D = E[x_0 | x_t], shaped like x.
        axes: Q, k orthonormal directions of flattened samples, `[batch, d, k]`.
        variances: v, of these directions, `[batch, k]`, at least `rest`.
        rest: the variance of all other directions, `[batch]`, not negative.
    """

    denoised: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor
