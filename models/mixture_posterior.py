"""A Gaussian mixture given a measurement, a class, or some of its components: mixtures again, in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backdrift.models.conditions import Condition, Label, as_condition
from backdrift.models.measurement import Measurement
from backdrift.models.operators import Projection

if TYPE_CHECKING:
    from backdrift.models.mixture import GaussianMixture


def posterior(mixture: GaussianMixture, condition: Condition | Measurement | Tensor) -> GaussianMixture:
    """p(x_0 | condition), see `GaussianMixture.given`."""
    given = as_condition(condition)
    if isinstance(given, Label):
        return _of_class(mixture, given)
    if not isinstance(given, Measurement):
        raise TypeError(f"condition: expected a Measurement or a Label, got {type(given).__name__}")
    a, log_joint, residual, gain = _update(mixture, given)
    covariance = _covariances(mixture)
    kept = torch.eye(a.shape[1], dtype=a.dtype, device=a.device) - gain @ a
    noise = given.noise_covariance(a)
    covariance = kept @ covariance @ kept.mT + gain @ noise @ gain.mT
    means = mixture.means + (gain @ residual.unsqueeze(-1)).squeeze(-1)
    return _rebuilt(mixture, means, 0.5 * (covariance + covariance.mT), log_joint.log_softmax(-1))


def log_evidence(mixture: GaussianMixture, measurement: Measurement) -> Tensor:
    """log p(y), see `GaussianMixture.log_evidence`."""
    return _update(mixture, measurement)[1].logsumexp(-1)


def conditional(mixture: GaussianMixture, indices: Tensor, values: Tensor) -> GaussianMixture:
    """p(the other components | some components), see `GaussianMixture.conditional`."""
    d = mixture.means.shape[-1]
    known = torch.as_tensor(indices)
    if known.ndim != 1 or known.unique().numel() != len(known) or not bool(((known >= 0) & (known < d)).all()):
        raise ValueError(f"indices: expected different numbers from 0 to {d - 1}, got {known.tolist()}")
    if len(known) == d:
        raise ValueError(f"indices: expected fewer than all {d} components")
    if values.shape[-1:] != known.shape:
        raise ValueError(f"values: expected shape [{len(known)}] or [batch, {len(known)}], got {list(values.shape)}")
    rows = torch.eye(d, dtype=mixture.means.dtype, device=mixture.means.device)[known]
    measurement = Measurement(Projection(rows.reshape(-1, *mixture.shape)), values.to(mixture.means), std=0.0)
    whole = posterior(mixture, measurement)
    rest = torch.tensor([i for i in range(d) if i not in set(known.tolist())], device=mixture.means.device)
    covariances = _covariances(whole)[:, rest][:, :, rest]
    return _rebuilt(whole, whole.means[..., rest], covariances, whole.log_weights, (len(rest),))


def _of_class(mixture: GaussianMixture, label: Label) -> GaussianMixture:
    """The components of a class, or those of another class for each sample. A class of weight 0 has no density."""
    of_class = label.value.to(mixture.classes.device).unsqueeze(-1) == mixture.classes
    _require_as_many("label", label.each, len(of_class), mixture)
    weighted = (mixture.log_weights > -math.inf).to(of_class.device)
    if not bool((of_class & weighted).any(-1).all()):
        present = mixture.classes[weighted.reshape(-1, weighted.shape[-1]).all(0)].unique().tolist()
        raise ValueError(f"label: expected classes of {present}, got {label.value.unique().tolist()}")
    log_weights = mixture.log_weights.masked_fill(~of_class.to(mixture.means.device), -math.inf).log_softmax(-1)
    means = mixture.means.expand(len(log_weights), -1, -1) if label.each else mixture.means
    return mixture._copy(means=means, log_weights=log_weights)


def _require_as_many(name: str, each: bool, count: int, mixture: GaussianMixture) -> None:
    """Raise `ValueError` if there is one condition for each sample, and a mixture for each of other than so many."""
    if each and mixture.each and count != 1 and len(mixture.means) not in (1, count):
        raise ValueError(f"{name}: expected one, or one for each of {len(mixture.means)} samples, got {count}")


def _update(mixture: GaussianMixture, measurement: Measurement) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A `[m, d]`; log w_k N(y; A m_k, S_k) `[..., K]`; y - A m_k `[..., K, m]`; and the gains G_k `[K, d, m]`.

    S_k = A C_k A^T + R. The leading axis is there with one measurement for each sample.
    """
    if tuple(measurement.operator.shape) != tuple(mixture.shape):
        got = list(measurement.operator.shape)
        raise ValueError(f"measurement: expected an operator on samples {list(mixture.shape)}, got {got}")
    _require_as_many("measurement", measurement.each, len(measurement.value), mixture)
    a = measurement.operator.matrix(mixture.means.dtype, mixture.means.device)
    covariance = _covariances(mixture)
    total = a @ covariance @ a.mT + measurement.noise_covariance(a)
    root, failed = torch.linalg.cholesky_ex(total)
    if bool(failed.any()):
        raise ValueError("measurement: two of its components say the same without noise; give std > 0")
    gain = torch.cholesky_solve(a @ covariance, root).mT
    value = measurement.value.to(a).reshape(-1 if measurement.each else 1, 1, len(a))
    residual = value - mixture.means @ a.mT  # [batch or 1, K, m]
    z = torch.linalg.solve_triangular(root, residual.unsqueeze(-1), upper=False).squeeze(-1)
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_joint = mixture.log_weights - 0.5 * z.square().sum(-1) - log_det - 0.5 * len(a) * math.log(2 * math.pi)
    if not measurement.each and not mixture.each:
        log_joint, residual = log_joint[0], residual[0]
    return a, log_joint, residual, gain


def _covariances(mixture: GaussianMixture) -> Tensor:
    """C_k, `[K, d, d]`."""
    if mixture.axes is None:
        return mixture.variances.diag_embed()
    return (mixture.axes * mixture.variances.unsqueeze(-2)) @ mixture.axes.mT


def _rebuilt(
    mixture: GaussianMixture,
    means: Tensor,
    covariances: Tensor,
    log_weights: Tensor,
    shape: tuple[int, ...] | None = None,
) -> GaussianMixture:
    """A mixture of the same process with other parts, one for each sample where `means` has an axis for them."""
    variances, axes = torch.linalg.eigh(covariances.double())
    return mixture._copy(
        means=means,
        variances=variances.clamp(min=0).to(means),
        axes=axes.to(means),
        log_weights=log_weights,
        shape=mixture.shape if shape is None else torch.Size(shape),
    )
