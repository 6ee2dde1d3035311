"""Any Gaussian process on a time grid as a discrete Markov chain, and its variational bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.checks import require_integer, require_positive
from backdrift.solvers.confidence import counted, student
from backdrift.solvers.density.arguments import require_batch, require_gaussian_model
from backdrift.solvers.density.denoising_error import denoise_at, normal_error
from backdrift.solvers.density.discrete_decoder import discretised
from backdrift.solvers.density.monte_carlo import spread_degrees
from backdrift.solvers.model import ModelLike, data_std_of
from backdrift.solvers.noise import FORWARD, Noise

Variance = Literal["small", "large"]

LEAST = 256
"""Draws in all that a bound takes by default at least."""


@dataclass(frozen=True)
class ChainBound:
    """The bound -log p(x) <= L_T + sum_i L_i + L_0, its terms in nats.

    Attributes:
        prior: L_T = KL(q(z_N | x) | p(z_N)), `[batch]`.
        steps: L_i = E KL(q(z_{i-1} | z_i, x) | p(z_{i-1} | z_i)), i = 2 .. N, `[N - 1, batch]`.
        decoder: L_0 = -E log p(x | z_1), `[batch]`.
        standard_error: of the sum, over the draws of the noise, `[batch]`.
        degrees: degrees of freedom behind `standard_error`, `[batch]`, see `monte_carlo.spread_degrees`.
        nfe: evaluations of the model for a sample.
        dim: components of a sample.
        seed: of the draws.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    standard_error: Tensor
    degrees: Tensor
    nfe: int
    dim: int
    seed: int

    @property
    def total(self) -> Tensor:
        """The sum of the terms, an upper bound on -log p(x) in nats, `[batch]`."""
        return self.prior + self.steps.sum(0) + self.decoder

    @property
    def log_prob(self) -> Tensor:
        """The lower bound on log p(x) in nats, `[batch]`."""
        return -self.total

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for the bound `log_prob` of each sample, `[batch]` each, by Student's t.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        width = student(level, self.degrees) * self.standard_error
        return self.log_prob - width, self.log_prob + width

    def bits_per_dim(self) -> Tensor:
        """The sum in bits per component, `[batch]`. With a discrete decoder it is that of discrete data."""
        return self.total / (self.dim * math.log(2))

    def __str__(self) -> str:
        total = self.total.double()
        error = float(total.std() / math.sqrt(len(total))) if len(total) > 1 else float(self.standard_error[0])
        bits, inner = float(self.bits_per_dim().mean()), float(self.steps.sum(0).mean())
        return (
            f"-log p <= {float(total.mean()):.5g} ± {error:.2g} nats ({bits:.5g} bits/dim) over {counted(len(total))}: "
            f"L_T {float(self.prior.mean()):.3g}, L_1..N-1 {inner:.5g}, L_0 {float(self.decoder.mean()):.5g}; "
            f"each ± {float(self.standard_error.mean()):.2g}, {self.nfe} NFE, seed {self.seed}"
        )


class Chain:
    r"""The Markov chain x, z_1, ..., z_N of the states of a Gaussian process at times t_1 < ... < t_N:

    .. math::
        q(z_i | z_{i-1}) &= N(\alpha_{i|i-1} z_{i-1}, \sigma^2_{i|i-1} I), \\
        q(z_{i-1} | z_i, x) &= N(\mu(z_i, x), \tilde\sigma_i^2 I), \\
        p(z_{i-1} | z_i) &= N(\mu(z_i, D(z_i)), v_i I), \qquad p(z_N) = N(0, \sigma_N^2 I)

    (Sohl-Dickstein et al. 2015; Ho et al. 2020, eq. 2 to 7; Kingma et al. 2021, appendix A). The variance v_i is
    sigma~_i^2 ("small", which is optimal where x is known), or sigma_{i|i-1}^2 ("large"; both in Ho et al. 2020,
    section 3.2), or anything between, such as the best one for given data, see `optimal_variances`. The normal decoder
    p(x | z_1) has the mean D(z_1), and v_1 = (sigma_1/alpha_1)^2 for both names.

    A model of any Gaussian process will do: it is asked at the signal-to-noise ratios of the chain.

    Args:
        sde: the process.
        times: t_1 < ... < t_N, at most T. There is noise at t_1, which is 0 only under a process such as `VE`.
        variance: "small", "large", or v_1, ..., v_N themselves, of which v_1 is the decoder's.

    Raises:
        ValueError: if the times do not rise within [0, T], sigma is 0 at the first or alpha at the last one, or the
            variances are not N positive numbers.
    """

    def __init__(
        self, sde: GaussianSDE, times: Sequence[float] | Tensor, variance: Variance | Tensor = "small"
    ) -> None:
        self.sde, self.times = sde, torch.as_tensor(times, dtype=torch.float64, device="cpu")
        t = self.times
        rising = t.ndim == 1 and len(t) > 0 and bool((t.diff() > 0).all())
        if not rising or float(t[0]) < 0 or float(t[-1]) > sde.T * (1 + 1e-9):
            raise ValueError(f"times: expected numbers that rise within [0, T = {sde.T:g}], got {t.tolist()}")
        if not float(sde.sigma(t[0])) > 0:
            raise ValueError(f"times: expected a first time at which sigma is positive, got {float(t[0]):g}")
        one = torch.ones(len(t), dtype=torch.float64, device="cpu")
        start = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), t[:-1]])
        self.alpha, self.sigma, self.log_snr = sde.alpha(t), sde.sigma(t), sde.log_snr(t)
        if not float(self.alpha[-1]) > 0:
            raise ValueError(f"times: expected times at which alpha is positive, got {float(t[-1]):g}, where it is 0")
        self.kept, std = sde.transition(one[1:], start[1:], t[1:])
        # From x itself to z_1 the transition is the marginal: at t = 0 a process may have noise (VE) or none.
        self.large = torch.cat([(self.sigma[:1] / self.alpha[:1]).square(), std.square()])
        self.carry, small = sde.bridge(one[1:], 0 * one[1:], start[1:], t[1:])  # the coefficient of z_i in mu
        self.pull = sde.bridge(0 * one[1:], one[1:], start[1:], t[1:])[0]  # and that of x
        self.small = torch.cat([self.large[:1], small.square()])
        self.variances = self._variances(variance)

    def _variances(self, variance: Variance | Tensor) -> Tensor:
        """v_1, ..., v_N, `[N]`."""
        n = len(self.times)
        if isinstance(variance, str):
            if variance not in get_args(Variance):
                raise ValueError(f"variance: expected 'small', 'large' or {n} numbers, got {variance!r}")
            return self.small if variance == "small" else self.large
        values = torch.as_tensor(variance, dtype=torch.float64, device="cpu")
        if values.shape != (n,) or not bool((values > 0).all()):
            got = values.tolist() if values.shape == (n,) else f"shape {list(values.shape)}"
            raise ValueError(f"variance: expected {n} positive numbers, got {got}")
        return values

    def __len__(self) -> int:
        return len(self.times)

    def forward(self, z: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of q(z_i | z_{i-1} = z), i = 2 .. N; for i = 1 of q(z_1 | x = z)."""
        self._require(i)
        if i == 1:
            return float(self.alpha[0]) * z, float(self.sigma[0])
        return float(self.kept[i - 2]) * z, float(self.large[i - 1].sqrt())

    def marginal(self, x: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of q(z_i | x), i = 1 .. N."""
        self._require(i)
        return float(self.alpha[i - 1]) * x, float(self.sigma[i - 1])

    def posterior(self, z: Tensor, x: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of q(z_{i-1} | z_i = z, x), i = 2 .. N."""
        self._require(i, 2)
        return float(self.carry[i - 2]) * z + float(self.pull[i - 2]) * x, float(self.small[i - 1].sqrt())

    def reverse(self, model: ModelLike, z: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of p(z_{i-1} | z_i = z); for i = 1 of the normal decoder p(x | z_1)."""
        self._require(i)
        denoised = self.denoise(model, z, i)
        mean = denoised if i == 1 else self.posterior(z, denoised, i)[0]
        return mean, float(self.variances[i - 1].sqrt())

    def denoise(self, model: ModelLike, z: Tensor, i: int) -> Tensor:
        """D(z_i), whatever the process whose times the model knows."""
        return denoise_at(model, z / float(self.alpha[i - 1]), -0.5 * self.log_snr[i - 1])

    @torch.no_grad()
    def elbo(
        self,
        model: ModelLike,
        x: Tensor,
        *,
        draws: int | None = None,
        bin_size: float | None = None,
        low: float | None = None,
        high: float | None = None,
        data_std: float | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> ChainBound:
        """-log p(x) <= L_T + sum_i L_i + L_0 (Ho et al. 2020, eq. 5): the Markovian bound of McAllester (2023),

            H(y) = sum of the terms with the true reverse kernels <= the same with p's.

        His slides write E[ln -P(y|z_1)] for E[-ln P(y|z_1)], and leave out L_T where they sum the KLs. L_T is 0 only in
        the limit of infinite t_N.

        The KLs are exact. Their mean over z_i is a mean over draws. From it the error of the denoiser of N(0, d^2 I)
        at the same draws is subtracted, and its known mean is added.

        Main arguments:
            model: has a Gaussian `sde` and `denoise(x, t)`.
            x: data, without noise, `[batch, ...]`.
            draws: of z_i for each i, at least 2. By default there are 2, and in a short chain as many as make `LEAST`
                in all: with fewer the standard error is not known well enough for an interval.
            seed: of the draws.

        Other arguments:
            bin_size: of discrete data: the distance of two levels, in the units of x. L_0 is then that of the mass of
                the normal decoder in each bin (Ho et al. 2020, eq. 13).
            low, high: the lowest and the highest level, whose bins reach to infinity. They need `bin_size`.
            data_std: d; the model's own by default, or else 1.
            first: index of the first sample of x in the data set that x is a part of.

        Raises:
            ValueError: if an argument is out of range, or the model's process is not Gaussian.
            TypeError: if the model is not one, or returns something unlike x.
        """
        if draws is None:
            draws = max(2, math.ceil(LEAST / len(self)))
        require_integer("draws", draws, 2)
        require_gaussian_model(model)
        require_batch(x)
        if bin_size is None and (low is not None or high is not None):
            raise ValueError("bin_size: expected a number, since low or high is given, got None")
        d = data_std_of(model, data_std)
        require_positive(data_std=d, **({} if bin_size is None else {"bin_size": bin_size}))
        noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
        steps: list[Tensor] = []
        variances: list[Tensor] = []
        decoder = x.new_zeros(len(x))
        for i in range(1, len(self) + 1):
            s = torch.exp(-0.5 * self.log_snr[i - 1]).to(x.dtype)
            values = []
            for _ in range(draws):
                e = noise()
                denoised = self.denoise(model, float(self.alpha[i - 1]) * (x + s * e), i)
                if i == 1 and bin_size is not None:
                    values.append(-discretised(x, denoised, self.variances[0].sqrt(), bin_size, low, high))
                    continue
                error = (x - denoised).flatten(1).square().sum(1)
                normal, mean = normal_error(x, e, s, d)
                values.append(self._nats(i, error - normal + mean, x[0].numel()))
            value = torch.stack(values)
            variances.append(value.var(0) / draws)
            if i == 1:
                decoder = value.mean(0)
            else:
                steps.append(value.mean(0))
        spread = torch.stack(variances)
        return ChainBound(
            prior=self._prior(x),
            steps=torch.stack(steps) if steps else x.new_zeros(0, len(x)),
            decoder=decoder,
            standard_error=spread.sum(0).sqrt(),
            degrees=spread_degrees(spread, draws),
            nfe=draws * len(self),
            dim=x[0].numel(),
            seed=seed,
        )

    @torch.no_grad()
    def optimal_variances(self, model: ModelLike, x: Tensor, *, seed: int = 0) -> Tensor:
        """The variances v_1 .. v_N that make the mean of the bound over data x least, `[N]` in float64:

            v_i = sigma~_i^2 + pull_i^2 E|x - D(z_i)|^2 / dim

        (Bao et al. 2022, theorem 1), with one draw of z_i for each sample.

        Args:
            model: has a Gaussian `sde` and `denoise(x, t)`.
            x: data, without noise, `[batch, ...]`.
            seed: of the draws.
        """
        require_batch(x)
        noise = Noise(seed, tuple(x.shape), stream=FORWARD, dtype=x.dtype, device=x.device)
        found = []
        for i in range(1, len(self) + 1):
            mean, std = self.marginal(x, i)
            error = float((x - self.denoise(model, mean + std * noise(), i)).square().mean())
            found.append(error if i == 1 else float(self.small[i - 1]) + float(self.pull[i - 2]) ** 2 * error)
        return torch.tensor(found, dtype=torch.float64, device="cpu")

    def _nats(self, i: int, error: Tensor, dim: int) -> Tensor:
        """L_{i-1} in nats, from |x - D(z_i)|^2."""
        v, small = float(self.variances[i - 1]), float(self.small[i - 1])
        if i == 1:
            return 0.5 * error / v + 0.5 * dim * math.log(2 * math.pi * v)
        ratio = small / v
        return 0.5 * float(self.pull[i - 2]) ** 2 / v * error + 0.5 * dim * (ratio - 1 - math.log(ratio))

    def _prior(self, x: Tensor) -> Tensor:
        """KL(N(alpha_N x, sigma_N^2) | N(0, sigma_N^2)) = alpha_N^2 |x|^2 / (2 sigma_N^2)."""
        return 0.5 * x.flatten(1).square().sum(1) * math.exp(float(self.log_snr[-1]))

    def _require(self, i: int, least: int = 1) -> None:
        require_integer("i", i, least, len(self))
