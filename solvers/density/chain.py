"""Any Gaussian process on a time grid as a discrete Markov chain, and its variational bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE, as_time
from backdrift.sde.checks import require_integer
from backdrift.solvers.density.information import denoise_at, normal_error
from backdrift.solvers.noise import FORWARD, Noise

Variance = Literal["small", "large"]


@dataclass(frozen=True)
class ChainBound:
    """The bound -log p(x) <= L_T + sum_i L_i + L_0, its terms in nats.

    Attributes:
        prior: L_T = KL(q(z_N | x) | p(z_N)), `[batch]`.
        steps: E KL(q(z_{i-1} | z_i, x) | p(z_{i-1} | z_i)), i = 2 .. N, `[N - 1, batch]`.
        decoder: L_0 = -E log p(x | z_1), `[batch]`.
        standard_error: of the sum over the draws of the noise, `[batch]`.
        nfe: evaluations of the model for a sample.
        dim: components of a sample.
        seed: of the draws.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    standard_error: Tensor
    nfe: int
    dim: int
    seed: int

    @property
    def total(self) -> Tensor:
        """The sum: an upper bound on -log p(x) in nats, `[batch]`."""
        return self.prior + self.steps.sum(0) + self.decoder

    @property
    def log_prob(self) -> Tensor:
        """The lower bound on log p(x) in nats, `[batch]`."""
        return -self.total

    def bits_per_dim(self) -> Tensor:
        """The sum in bits per component, `[batch]`; of discrete data with a discrete decoder."""
        return self.total / (self.dim * math.log(2))

    def __str__(self) -> str:
        total = self.total.double()
        error = float(total.std() / math.sqrt(len(total))) if len(total) > 1 else float(self.standard_error[0])
        bits, inner = float(self.bits_per_dim().mean()), float(self.steps.sum(0).mean())
        return (
            f"-log p <= {float(total.mean()):.5g} ± {error:.2g} nats ({bits:.5g} bits/dim) over {len(total)} samples: "
            f"L_T {float(self.prior.mean()):.3g}, L_1..N-1 {inner:.5g}, L_0 {float(self.decoder.mean()):.5g}; "
            f"each ± {float(self.standard_error.mean()):.2g}, {self.nfe} NFE, seed {self.seed}"
        )


class Chain:
    r"""The Markov chain x, z_1, ..., z_N of a Gaussian process's states at times t_1 < ... < t_N:

    .. math::
        q(z_i | z_{i-1}) &= N(\alpha_{i|i-1} z_{i-1}, \sigma^2_{i|i-1} I), \\
        q(z_{i-1} | z_i, x) &= N(\mu(z_i, x), \tilde\sigma_i^2 I), \\
        p(z_{i-1} | z_i) &= N(\mu(z_i, D(z_i)), v_i I), \qquad p(z_N) = N(0, \sigma_N^2 I)

    (Sohl-Dickstein et al. 2015; Ho et al. 2020, eq. 2 to 7; Kingma et al. 2021, appendix A). The variance
    v_i is sigma~_i^2 ("small", optimal where x is known), sigma_{i|i-1}^2 ("large"; both in Ho et al.
    2020, section 3.2), or anything between, such as the best for given data, `optimal_variances`. The
    normal decoder p(x | z_1) has mean D(z_1) and v_1 = (sigma_1/alpha_1)^2 for both names.

    A model of any Gaussian process will do: it is asked at the chain's signal-to-noise ratios.

    Args:
        sde: the process.
        times: t_1 < ... < t_N, above 0 and at most T.
        variance: "small", "large", or v_1, ..., v_N themselves, of which v_1 is the decoder's.

    Raises:
        ValueError: if the times do not rise within (0, T], or the variances are not N positive numbers.
    """

    def __init__(
        self, sde: GaussianSDE, times: Sequence[float] | Tensor, variance: Variance | Tensor = "small"
    ) -> None:
        self.sde, self.times = sde, torch.as_tensor(times, dtype=torch.float64).cpu()
        t = self.times
        rising = t.ndim == 1 and len(t) > 0 and bool((t.diff() > 0).all())
        if not rising or float(t[0]) <= 0 or float(t[-1]) > sde.T * (1 + 1e-9):
            raise ValueError(f"times: expected numbers that rise within (0, T = {sde.T:g}], got {t.tolist()}")
        one = torch.ones(len(t), dtype=torch.float64)
        start = torch.cat([torch.zeros(1, dtype=torch.float64), t[:-1]])
        self.alpha, self.sigma, self.log_snr = sde.alpha(t), sde.sigma(t), sde.log_snr(t)
        self.kept, std = sde.transition(one[1:], start[1:], t[1:])
        # From x itself to z_1 the transition is the marginal: at t = 0 a process may have noise (VE) or none.
        self.large = torch.cat([(self.sigma[:1] / self.alpha[:1]).square(), std.square()])
        self.carry, small = sde.bridge(one[1:], 0 * one[1:], start[1:], t[1:])  # mu's coefficient of z_i
        self.pull = sde.bridge(0 * one[1:], one[1:], start[1:], t[1:])[0]  # and of x
        self.small = torch.cat([self.large[:1], small.square()])
        if isinstance(variance, str):
            if variance not in get_args(Variance):
                raise ValueError(f"variance: expected 'small', 'large' or {len(t)} numbers, got {variance!r}")
            self.variances = self.small if variance == "small" else self.large
        else:
            self.variances = torch.as_tensor(variance, dtype=torch.float64).cpu()
            if self.variances.shape != t.shape or not bool((self.variances > 0).all()):
                raise ValueError(
                    f"variance: expected {len(t)} positive numbers, got shape {list(self.variances.shape)}"
                )

    def __len__(self) -> int:
        return len(self.times)

    def forward(self, z: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of q(z_i | z_{i-1} = z), i = 2 .. N; of q(z_1 | x = z) for i = 1."""
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

    def reverse(self, model: Any, z: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of p(z_{i-1} | z_i = z); for i = 1 of the normal decoder p(x | z_1)."""
        self._require(i)
        denoised = self.denoise(model, z, i)
        mean = denoised if i == 1 else self.posterior(z, denoised, i)[0]
        return mean, float(self.variances[i - 1].sqrt())

    def denoise(self, model: Any, z: Tensor, i: int) -> Tensor:
        """D(z_i), whatever the process whose times the model knows."""
        return denoise_at(model, z / float(self.alpha[i - 1]), -0.5 * self.log_snr[i - 1])

    @torch.no_grad()
    def elbo(
        self,
        model: Any,
        x: Tensor,
        *,
        draws: int = 2,
        bin_size: float | None = None,
        low: float | None = None,
        high: float | None = None,
        data_std: float | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> ChainBound:
        """-log p(x) <= L_T + sum_i L_i + L_0 (Ho et al. 2020, eq. 5): the Markovian bound of McAllester (2023),

            H(y) = sum of the terms with the true reverse kernels <= the same with p's.

        His slides write E[ln -P(y|z_1)] for E[-ln P(y|z_1)], and leave out L_T where they sum the KLs: it is 0 only
        in the limit of infinite t_N.

        The KLs are exact. Their mean over z_i is a mean over draws, from which the same error of the
        denoiser of N(0, d^2 I), whose mean is known, is taken away.

        Args:
            model: has a Gaussian `sde` and `denoise(x, t)`.
            x: data, without noise, `[batch, ...]`.
            draws: of z_i for each i, at least 2.
            bin_size: of discrete data: the distance of two levels, in the units of x. L_0 is then that of
                the normal decoder's mass in each bin (Ho et al. 2020, eq. 13).
            low, high: the lowest and the highest level, whose bins reach to infinity.
            data_std: d; the model's own by default, or else 1.
            seed: of the draws.
            first: index of the first sample of x.

        Raises:
            ValueError: if `draws` is below 2.
        """
        require_integer("draws", draws, 2)
        d = float(getattr(model, "data_std", 1.0) if data_std is None else data_std)
        dim = x[0].numel()
        noise = Noise(seed, tuple(x.shape), first=first, stream=FORWARD, dtype=x.dtype, device=x.device)
        steps: list[Tensor] = []
        spread = x.new_zeros(len(x))
        decoder = spread
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
                values.append(self._nats(i, error - normal + mean, dim))
            value = torch.stack(values)
            spread = spread + value.var(0) / draws
            if i == 1:
                decoder = value.mean(0)
            else:
                steps.append(value.mean(0))
        return ChainBound(
            prior=self._prior(x),
            steps=torch.stack(steps) if steps else x.new_zeros(0, len(x)),
            decoder=decoder,
            standard_error=spread.sqrt(),
            nfe=draws * len(self),
            dim=dim,
            seed=seed,
        )

    @torch.no_grad()
    def optimal_variances(self, model: Any, x: Tensor, *, seed: int = 0) -> Tensor:
        """The variances v_1 .. v_N that make the bound's mean over data x least:

            v_i = sigma~_i^2 + pull_i^2 E|x - D(z_i)|^2 / dim

        (Bao et al. 2022, theorem 1), one draw of z_i for each sample.
        """
        noise = Noise(seed, tuple(x.shape), stream=FORWARD, dtype=x.dtype, device=x.device)
        found = []
        for i in range(1, len(self) + 1):
            mean, std = self.marginal(x, i)
            error = float((x - self.denoise(model, mean + std * noise(), i)).square().mean())
            found.append(error if i == 1 else float(self.small[i - 1]) + float(self.pull[i - 2]) ** 2 * error)
        return torch.tensor(found, dtype=torch.float64)

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
        if not least <= i <= len(self):
            raise ValueError(f"i: expected a step from {least} to {len(self)}, got {i}")


def discretised(
    x: Tensor, mean: Tensor, std: Tensor | float, bin_size: float, low: float | None = None, high: float | None = None
) -> Tensor:
    """log of the mass that N(mean, std^2) has in the bins around x, in nats, `[batch]` (Ho et al. 2020, eq. 13):

        sum_i log[Phi((x_i + b/2 - m_i)/std) - Phi((x_i - b/2 - m_i)/std)].

    The lowest and the highest bin reach to infinity. Taken in the tail where both ends are small, so
    that no mass is lost to rounding.

    Args:
        x: data on its levels, `[batch, ...]`.
        mean: of the decoder, like x.
        std: of the decoder.
        bin_size: b, the distance of two levels.
        low, high: the lowest and the highest level.
    """
    offset = (x - mean).double()
    half, std = 0.5 * bin_size, torch.as_tensor(std, dtype=torch.float64, device=x.device)
    upper, lower = (offset + half) / std, (offset - half) / std
    if high is not None:
        upper = upper.masked_fill(x >= high - 0.01 * bin_size, math.inf)
    if low is not None:
        lower = lower.masked_fill(x <= low + 0.01 * bin_size, -math.inf)
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): mirror the bins above the mean to where Phi is small.
    flip = lower > -upper
    top, bottom = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_top, log_bottom = torch.special.log_ndtr(top), torch.special.log_ndtr(bottom)
    log_mass = log_top + torch.log1p(-torch.exp((log_bottom - log_top).clamp(max=0)).clamp(max=1 - 1e-16))
    return log_mass.flatten(1).sum(1).to(x.dtype)


class DiscreteVP(GaussianSDE):
    """The variance-preserving process that is DDPM's chain at t = 1, 2, ..., N, and between them
    has a constant beta: log alpha^2 falls from log alpha-bar_{i-1} to log alpha-bar_i along a line.

    Args:
        betas: beta_1, ..., beta_N in (0, 1).

    Raises:
        ValueError: if a beta is not between 0 and 1.
    """

    def __init__(self, betas: Sequence[float] | Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).cpu()
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas: expected numbers in (0, 1), got {betas.tolist()}")
        self.betas, self.T = betas, float(len(betas))
        self.rates = -torch.log1p(-betas)
        self.integral = torch.cat([torch.zeros(1, dtype=torch.float64), self.rates.cumsum(0)])

    def __repr__(self) -> str:
        return f"DiscreteVP({len(self.betas)} betas from {float(self.betas[0]):.3g} to {float(self.betas[-1]):.3g})"

    def integrated_beta(self, t: Tensor) -> Tensor:
        """B(t) = -log alpha(t)^2."""
        n, rates, integral = t.floor().clamp(0, len(self.rates) - 1), self.rates.to(t), self.integral.to(t)
        return integral[n.long()] + (t - n) * rates[n.long()]

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integrated_beta(t))

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integrated_beta(t))).sqrt()

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * self.rates.to(t)[t.ceil().long().clamp(1, len(self.rates)) - 1]

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integrated_beta(t)).log()

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        b, integral, rates = torch.nn.functional.softplus(-log_snr), self.integral.to(log_snr), self.rates.to(log_snr)
        n = (torch.searchsorted(integral, b.contiguous(), right=True) - 1).clamp(0, len(rates) - 1)
        return n + (b - integral[n]) / rates[n]


class DDPM(Chain):
    """Ho et al.'s (2020) chain z_i = sqrt(1 - beta_i) z_{i-1} + sqrt(beta_i) eps: `Chain` of a `DiscreteVP`.

    Args:
        betas: beta_1, ..., beta_N in (0, 1).
        variance: "small" is beta~_i, "large" is beta_i; see `Chain`.

    Attributes:
        alpha_bar: the products of 1 - beta, `[N]`; this project's alpha(t_i)^2.
    """

    def __init__(self, betas: Sequence[float] | Tensor, variance: Variance | Tensor = "small") -> None:
        sde = DiscreteVP(betas)
        super().__init__(sde, torch.arange(1, len(sde.betas) + 1, dtype=torch.float64), variance)
        self.betas, self.alpha_bar = sde.betas, torch.exp(-sde.integral[1:])

    @classmethod
    def linear(
        cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02, variance: Variance | Tensor = "small"
    ) -> DDPM:
        """betas even from `first` to `last` (Ho et al. 2020, section 4); those are meant for 1000 steps."""
        return cls(torch.linspace(first, last, steps, dtype=torch.float64), variance)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, variance: Variance | Tensor = "small") -> DDPM:
        """alpha-bar_i = cos^2(pi/2 (i/N + offset)/(1 + offset)) over that at 0, betas at most 0.999
        (Nichol & Dhariwal 2021, eq. 17)."""
        angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
        alpha_bar = angle.cos().square()
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999), variance)

    def simple_loss(self, model: Any, x: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """|eps - eps_theta(z_i)|^2 of each sample, `[batch]`: L_simple, whose mean over uniform i in
        1 .. N and noise is trained on (Ho et al. 2020, eq. 14). Differentiable in the model. i = 1 is in it, though
        beta~_1 = 0: there it stands for the decoder. (Isachenko 2023 has i from 2 in one slide, from 1 in the next.)

        Args:
            model: has a Gaussian `sde` and `denoise(x, t)`.
            x: data, `[batch, ...]`.
            i: steps, `[batch]`, integers from 1 to N.
            noise: eps, like x.
        """
        u = -0.5 * self.log_snr.to(x.device)[i - 1]
        s = as_time(u.exp(), x)
        denoised = denoise_at(model, x + s * noise, u)
        return (noise - (x + s * noise - denoised) / s).flatten(1).square().sum(1)
