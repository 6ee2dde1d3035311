"""From discrete data to densities: noise within a bin, and what the density then says about the mass of the bin.

A level v = 0 .. levels - 1 is the bin [v, v + 1). With noise u of density q(u | v) on [0, 1),

    log P(v) >= E_q[log p(v + u) - log q(u | v)]

(Theis et al. 2016; Ho et al. 2019). The logarithm of the mean over several u is a tighter bound (Burda et al. 2016,
theorem 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.sde.checks import require_positive
from backdrift.solvers.noise import Noise


def uniform_noise(noise: Noise) -> tuple[Tensor, Tensor]:
    """u ~ U[0, 1) in each bin, shaped like the data, and log q(u) = 0 nats, `[batch]` (Uria et al. 2013).

    Args:
        noise: the stream, shaped like the data. Its normal draws are made uniform.
    """
    u = torch.special.ndtr(noise().double()).clamp(max=1 - 2**-24).to(noise.dtype)
    return u, u.new_zeros(len(u))


def truncated_normal_noise(noise: Noise, std: float) -> tuple[Tensor, Tensor]:
    """u = 1/2 + std e in each bin, with e ~ N(0, 1) truncated to |std e| <= 1/2, and log q(u) in nats, `[batch]`:

        log q = sum_i [-e_i^2/2 - log(std sqrt(2 pi)) - log(2 Phi(1/(2 std)) - 1)]

    (Zheng et al. 2023). With std = sigma/alpha at eps in units of a bin, v + u is what the process itself makes of the
    middle of the bin. The model is then asked only about states that it has been trained for. The truncation matters
    only where std is not small compared with 1/2.

    Args:
        noise: the stream, shaped like the data.
        std: standard deviation, in units of a bin.

    Raises:
        ValueError: if `std` is not positive.
    """
    require_positive(std=std)
    reach = 0.5 / std
    tail = 0.5 * math.erfc(reach / math.sqrt(2))  # Phi(-reach)
    e = torch.special.ndtri(tail + (1 - 2 * tail) * torch.special.ndtr(noise().double())).clamp(-reach, reach)
    log_q = -0.5 * e.square() - math.log(std * math.sqrt(2 * math.pi)) - math.log1p(-2 * tail)
    return (0.5 + std * e).to(noise.dtype), log_q.flatten(1).sum(1)


def importance_bound(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    r"""log of the mean over k draws of p(v + u_k)/q(u_k | v), and its standard error, `[batch]` each, in nats:

    .. math:: \log \sum_k \exp(\log p_k - \log q_k) - \log k

    Its expectation is a lower bound on log P(v) (Burda et al. 2016). The standard error is that over the draws, by the
    delta method. With one draw the bound is log p - log q, and its error is unknown (nan).

    Args:
        log_p: log-densities at v + u_k in the data's own units (a bin of width 1), `[k, batch]`.
        log_q: log-densities of the noise, `[k, batch]`.

    Raises:
        ValueError: if the shapes differ or are not `[k, batch]`.
    """
    if log_p.shape != log_q.shape or log_p.ndim != 2:
        raise ValueError(f"log_p, log_q: expected both [k, batch], got {list(log_p.shape)} and {list(log_q.shape)}")
    k, ratio = len(log_p), log_p - log_q
    bound = ratio.logsumexp(0) - math.log(k)
    weight = (ratio - bound).exp()  # of mean 1
    error = weight.std(0) / math.sqrt(k) if k > 1 else torch.full_like(bound, math.nan)
    return bound, error
