"""What a denoiser knows: information, entropy and densities as integrals of its error over the noise.

All of them follow from one identity, the I-MMSE relation (Guo, Shamai & Verdú 2005, theorem 1). With
s = sigma/alpha and u = log s,

    dI(x_0; x_t)/d(snr) = E|x_0 - D(x_t)|^2 / 2,    that is    dI/du = -E|x_0 - D|^2 / s^2.

Each integral is taken by stratified draws of u and of the noise, from whose integrand that of the normal
density N(0, d^2 I) is taken away at the same noise and given back in closed form: what is left to
chance is only how far the data are from normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, as_time
from backdrift.solvers.density.monte_carlo import MonteCarlo, Sampling, stratified_integral
from backdrift.solvers.flows.flow import AngleFlow

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Information:
    """One number in nats: an entropy, an information, a divergence.

    Attributes:
        value: in nats.
        standard_error: over samples and draws.
        samples: each sample's part, of which `value` is the mean.
    """

    value: float
    standard_error: float
    samples: MonteCarlo

    @classmethod
    def of(cls, samples: MonteCarlo, sign: float = 1.0) -> Information:
        """The mean over samples."""
        mean, error = samples.mean()
        return cls(sign * mean, error, samples)

    def __str__(self) -> str:
        return f"{self.value:.5g} ± {self.standard_error:.2g} nats over {len(self.samples.value)} samples"


def denoise_at(model: Any, x_hat: Tensor, u: Tensor) -> Tensor:
    """D at x/alpha = x_hat `[batch, ...]` and log(sigma/alpha) = u, scalar or `[batch]` in float64."""
    sde: GaussianSDE = model.sde
    t = sde.t_from_log_snr(-2 * u).clamp(max=sde.T)
    return model.denoise(as_time(sde.alpha(t), x_hat) * x_hat, t.to(x_hat.dtype))


def normal_error(x: Tensor, noise: Tensor, s: Tensor, d: float) -> tuple[Tensor, Tensor]:
    """|x - D|^2 of the denoiser of N(0, d^2 I), at x + s noise, and its mean over the noise; `[batch]` each.

        x - D = (s^2 x - d^2 s noise)/(s^2 + d^2)

    Args:
        x, noise: `[batch, ...]`.
        s: broadcasts against x.
        d: standard deviation.
    """
    square = s.square()
    total = square + d * d
    here = ((square * x - d * d * s * noise) / total).flatten(1).square().sum(1)
    mean = (square / total).square() * x.square() + (d * d * s / total).square()
    return here, mean.flatten(1).sum(1)


def log_density(
    model: Any,
    x: Tensor,
    *,
    eps: float | None = None,
    data_std: float | None = None,
    **sampling: Unpack[Sampling],
) -> MonteCarlo:
    r"""log p_0(x) of each sample from the pointwise I-MMSE relation (Kong et al. 2023), as

    .. math:: \log p(x) = \log N(x; 0, d^2 I) + \int E_\epsilon[|x - D_N|^2 - |x - D|^2] / s^2 \, du

    at x + s eps, with D_N the denoiser of that normal density. For the true denoiser it is the log-density;
    for a network it is, on average over data, a lower bound on log p (it is the variational bound of
    Kingma et al. 2021, eq. 15). The range of u is the process's, eps to T.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: data, without noise, `[batch, ...]`.
        eps: where the integral starts; the process's own by default.
        data_std: d; the model's own by default, or else 1.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.
    """
    path = AngleFlow(model, data_std, eps)
    d = path.data_std

    def excess(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        error = (x - denoise_at(model, x + s * noise, u)).flatten(1).square().sum(1)
        return (normal_error(x, noise, s, d)[0] - error) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(excess, x, path.first, path.last, **sampling)
    normal = -0.5 * (x.flatten(1).square().sum(1) / d**2 + x[0].numel() * math.log(2 * math.pi * d**2))
    return replace(found, value=normal + found.value)


def entropy(model: Any, x: Tensor, **settings: Any) -> Information:
    """The differential entropy H(x_0) = -E log p(x_0) in nats, by `log_density` (settings are passed on).

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: draws of the data, `[n, ...]`.
    """
    return Information.of(log_density(model, x, **settings), sign=-1.0)


def mutual_information(
    model: Any,
    x: Tensor,
    t: float,
    *,
    data_std: float | None = None,
    **sampling: Unpack[Sampling],
) -> Information:
    r"""I(x_0; x_t) in nats between data and their noised state:

    .. math:: I = \int_{u(t)}^\infty E|x_0 - D|^2 / s^2 \, du = \tfrac12 \int_0^{snr(t)} mmse \, d(snr)

    (Guo, Shamai & Verdú 2005, theorem 1), for Brownian motion McAllester's (2023) integral over t' > t of
    E|y - E[y|z(t')]|^2/(2 t'^2), the mean over y and z(t') (his slides have z(t) there). A network's
    error is at least the mmse, so that its integral is an upper bound. Beyond T the error is that at T,
    so that the rest of the integral is half of that error over s^2.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: draws of the data, `[n, ...]`.
        t: the time, above 0 and below T.
        data_std: d; the model's own by default, or else 1.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if t is out of range.
    """
    path = AngleFlow(model, data_std, t)
    d = path.data_std

    def excess(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        error = (x - denoise_at(model, x + s * noise, u)).flatten(1).square().sum(1)
        return (error - normal_error(x, noise, s, d)[0]) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(excess, x, path.first, path.last, **sampling)
        end = torch.tensor(path.last, dtype=torch.float64)
        # What is left beyond T is of the order of snr(T): the noise in it is not worth a draw.
        rest = 0.5 * (x - denoise_at(model, x, end)).flatten(1).square().sum(1) * math.exp(-2 * path.last)
    # The integral of `normal_error`'s mean over s^2, from u(t) to u(T).
    low, high = (math.exp(2 * u) for u in (path.first, path.last))
    square = x.flatten(1).square().sum(1) / 2 * (1 / (low + d * d) - 1 / (high + d * d))
    log = 0.5 * (math.log1p(d * d / low) - math.log1p(d * d / high) - d * d / (low + d * d) + d * d / (high + d * d))
    return Information.of(replace(found, value=found.value + square + x[0].numel() * log + rest, nfe=found.nfe + 1))


class Independent:
    """The denoiser of independent parts, from those of the parts: their densities' product.

    Args:
        models: of each part; they share a process.
        sizes: how many components of the last axis each has.

    Raises:
        ValueError: if there is not one size for each model.
    """

    def __init__(self, models: Sequence[Any], sizes: Sequence[int]) -> None:
        if len(models) != len(sizes) or not models:
            raise ValueError(f"models, sizes: expected as many, at least one, got {len(models)} and {len(sizes)}")
        self.models, self.sizes, self.sde = list(models), list(sizes), models[0].sde

    def denoise(self, x: Tensor, t: Any) -> Tensor:
        """Each part's D, side by side."""
        parts = x.split(self.sizes, -1)
        return torch.cat([model.denoise(part, t) for model, part in zip(self.models, parts, strict=True)], -1)


def relative_entropy(
    p: Any,
    q: Any,
    x: Tensor,
    *,
    by: Literal["difference", "errors"] = "difference",
    eps: float | None = None,
    **sampling: Unpack[Sampling],
) -> Information:
    r"""KL(p | q) in nats of two densities known by their denoisers, from draws of p:

    .. math:: KL = \int E_p|D_p - D_q|^2 / s^2 \, du = \int E_p[|x - D_q|^2 - |x - D_p|^2] / s^2 \, du

    (Verdú 2010). The first form has the smaller variance and takes D_p for the truth, the second
    takes neither. Both are mutual information for the right p and q:

    - I(a; b) with p the density of a given b and q that of a, x the a's of pairs whose b's p is
      conditioned on (Franzese et al. 2024; Kong et al. 2024);
    - I(a; b) with p the joint density and q = `Independent` of the two marginals, x the pairs.

    Args:
        p, q: have the same Gaussian `sde`, and `denoise(x, t)`.
        x: draws of p, `[n, ...]`.
        by: "difference" or "errors", the first or the second form.
        eps: where the integral starts; the process's own by default.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if `by` is neither.
    """
    if by not in ("difference", "errors"):
        raise ValueError(f"by: expected 'difference' or 'errors', got {by!r}")
    path = AngleFlow(p, 1.0, eps)

    def gap(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        at_p, at_q = (denoise_at(model, x + s * noise, u) for model in (p, q))
        # |x - D_q|^2 - |x - D_p|^2 = (D_p - D_q)(2 x - D_p - D_q), without the cancellation
        gap = (at_p - at_q) * ((at_p - at_q) if by == "difference" else (2 * x - at_p - at_q))
        return gap.flatten(1).sum(1) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(gap, x, path.first, path.last, **sampling, evaluations=2)
    return Information.of(found)
