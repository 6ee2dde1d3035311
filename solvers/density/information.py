"""What a denoiser knows: densities, entropy and information as integrals of its error over the noise.

All of them follow from one identity, the I-MMSE relation (Guo, Shamai & Verdú 2005, theorem 1). With s = sigma/alpha
and u = log s,

    dI(x_0; x_t)/d(snr) = E|x_0 - D(x_t)|^2 / 2,    that is    dI/du = -E|x_0 - D|^2 / s^2.

Each integral is taken by stratified draws of u and of the noise. From the integrand that of the normal density
N(0, d^2 I) is subtracted at the same noise, and added again in closed form. Chance is left only with how far the data
are from normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from backdrift.sde import as_time
from backdrift.sde.checks import require_choice, require_number
from backdrift.solvers.confidence import counted, with_error
from backdrift.solvers.density.arguments import gaussian_flow, require_batch, require_gaussian_model
from backdrift.solvers.density.denoising_error import denoise_at, normal_error
from backdrift.solvers.density.monte_carlo import MonteCarlo, Sampling, stratified_integral
from backdrift.solvers.model import ModelLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    class DensitySettings(Sampling, total=False):
        """The keyword arguments of `log_density`."""

        eps: float | None
        data_std: float | None


@dataclass(frozen=True)
class Information:
    """One number in nats: an entropy, an information or a divergence.

    Attributes:
        value: in nats.
        standard_error: over samples and draws; nan for one sample, whose draws do not show how samples differ.
        samples: the part of each sample; `value` is their mean, with the sign turned for an entropy.
    """

    value: float
    standard_error: float
    samples: MonteCarlo

    @classmethod
    def of(cls, samples: MonteCarlo, sign: float = 1.0) -> Information:
        """`sign` times the mean over samples."""
        mean, error = samples.mean()
        return cls(sign * mean, error if len(samples.value) > 1 else math.nan, samples)

    def __str__(self) -> str:
        n = len(self.samples.value)
        return f"{with_error(self.value, self.standard_error, 'nats', n)} over {counted(n)}"


def log_density(
    model: ModelLike,
    x: Tensor,
    *,
    eps: float | None = None,
    data_std: float | None = None,
    **sampling: Unpack[Sampling],
) -> MonteCarlo:
    r"""log p_0(x) of each sample from the pointwise I-MMSE relation (Kong et al. 2023), as

    .. math:: \log p(x) = \log N(x; 0, d^2 I) + \int E_\epsilon[|x - D_N|^2 - |x - D|^2] / s^2 \, du

    at x + s eps, with D_N the denoiser of that normal density. For the true denoiser it is the log-density. For a
    network it is a lower bound on log p, on average over data: the variational bound of Kingma et al. (2021, eq. 15).
    The range of u is that of the process, from eps to T.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: data, without noise, `[batch, ...]`.
        eps: where the integral starts; the process's own by default.
        data_std: d; the model's own by default, or else 1.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if an argument is out of range, or the process is not Gaussian.
        TypeError: if the model is not one, or returns something unlike x.
    """
    require_batch(x)
    path = gaussian_flow(model, data_std, eps)
    d = path.data_std

    def excess(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        error = (x - denoise_at(model, x + s * noise, u)).flatten(1).square().sum(1)
        return (normal_error(x, noise, s, d)[0] - error) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(excess, x, path.first, path.last, **sampling)
    normal = -0.5 * (x.flatten(1).square().sum(1) / d**2 + x[0].numel() * math.log(2 * math.pi * d**2))
    return replace(found, value=normal + found.value)


def entropy(model: ModelLike, x: Tensor, **settings: Unpack[DensitySettings]) -> Information:
    """The differential entropy H(x_0) = -E log p(x_0) in nats, by `log_density`.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: draws of the data, `[n, ...]`.
        settings: the keyword arguments of `log_density`.

    Raises:
        ValueError, TypeError: as `log_density`.
    """
    return Information.of(log_density(model, x, **settings), sign=-1.0)


def mutual_information(
    model: ModelLike,
    x: Tensor,
    t: float,
    *,
    data_std: float | None = None,
    **sampling: Unpack[Sampling],
) -> Information:
    r"""I(x_0; x_t) in nats between data and their noised state:

    .. math::
        I = \int_{u(t)}^\infty E|x_0 - D|^2 / s^2 \, du
        = \tfrac12 \int_0^{\mathrm{snr}(t)} \mathrm{mmse} \, d\mathrm{snr}

    (Guo, Shamai & Verdú 2005, theorem 1). For Brownian motion this is McAllester's (2023) integral over t' > t of
    E|y - E[y|z(t')]|^2/(2 t'^2), the mean over y and z(t') (his slides have z(t) there). The error of a network is at
    least the minimum, so that its integral is an upper bound. Beyond T the error is taken to be that at T, so that the
    rest of the integral is half of that error divided by s^2.

    Args:
        model: has a Gaussian `sde` and `denoise(x, t)`.
        x: draws of the data, `[n, ...]`.
        t: the time, above 0 and below T.
        data_std: d; the model's own by default, or else 1.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if an argument is out of range, or the process is not Gaussian.
        TypeError: if the model is not one, or returns something unlike x.
    """
    require_batch(x)
    require_gaussian_model(model)
    require_number("t", t, above=0, below=model.sde.T)
    path = gaussian_flow(model, data_std, t)
    d = path.data_std

    def excess(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        error = (x - denoise_at(model, x + s * noise, u)).flatten(1).square().sum(1)
        return (error - normal_error(x, noise, s, d)[0]) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(excess, x, path.first, path.last, **sampling)
        end = torch.tensor(path.last, dtype=torch.float64, device="cpu")
        # What is left beyond T is of the order of snr(T), so that the noise in it is not worth a draw. The part of the
        # noise in the error is that of the normal density.
        here, mean = normal_error(x, torch.zeros_like(x), end.exp(), d)
        error = (x - denoise_at(model, x, end)).flatten(1).square().sum(1) - here + mean
        rest = 0.5 * error * math.exp(-2 * path.last)
    # The integral of the mean of `normal_error` over s^2, from u(t) to u(T).
    low, high = (math.exp(2 * u) for u in (path.first, path.last))
    square = x.flatten(1).square().sum(1) / 2 * (1 / (low + d * d) - 1 / (high + d * d))
    log = 0.5 * (math.log1p(d * d / low) - math.log1p(d * d / high) - d * d / (low + d * d) + d * d / (high + d * d))
    return Information.of(replace(found, value=found.value + square + x[0].numel() * log + rest, nfe=found.nfe + 1))


def relative_entropy(
    p: ModelLike,
    q: ModelLike,
    x: Tensor,
    *,
    by: Literal["difference", "errors"] = "difference",
    eps: float | None = None,
    **sampling: Unpack[Sampling],
) -> Information:
    r"""KL(p | q) in nats of two densities known by their denoisers, from draws of p:

    .. math:: \mathrm{KL} = \int E_p|D_p - D_q|^2 / s^2 \, du = \int E_p[|x - D_q|^2 - |x - D_p|^2] / s^2 \, du

    (Verdú 2010). The first form has the smaller variance and takes D_p to be the truth; the second takes neither to be
    so. Both are a mutual information for the right p and q:

    - I(a; b) with p the density of a given b and q that of a. x are then the a's of pairs, and p is conditioned on
      their b's (Franzese et al. 2024; Kong et al. 2024);
    - I(a; b) with p the joint density and q = `Independent` of the two marginals. x are then the pairs.

    Args:
        p, q: have a Gaussian `sde` and `denoise(x, t)`. The range of u is that of the process of p.
        x: draws of p, `[n, ...]`.
        by: "difference" for the first form, "errors" for the second.
        eps: where the integral starts; the process's own by default.
        sampling: strata, draws in each, seed and index of the first sample, see `Sampling`.

    Raises:
        ValueError: if an argument is out of range, or a process is not Gaussian.
        TypeError: if a model is not one, or returns something unlike x.
    """
    require_choice("by", by, ("difference", "errors"))
    require_batch(x)
    require_gaussian_model(q)
    path = gaussian_flow(p, 1.0, eps)

    def gap(u: Tensor, noise: Tensor) -> Tensor:
        s = as_time(u.exp(), x)
        at_p, at_q = (denoise_at(model, x + s * noise, u) for model in (p, q))
        # |x - D_q|^2 - |x - D_p|^2 = (D_p - D_q)(2 x - D_p - D_q), without the cancellation
        gap = (at_p - at_q) * ((at_p - at_q) if by == "difference" else (2 * x - at_p - at_q))
        return gap.flatten(1).sum(1) / s.flatten().square()

    with torch.no_grad():
        found = stratified_integral(gap, x, path.first, path.last, **sampling, evaluations=2)
    return Information.of(found)
