"""The steps of a chain of particles: kernels of the reverse process, and their guided proposals with weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from backdrift.sde import GaussianSDE
from backdrift.sde.twist import Joint, Twist
from backdrift.solvers.model import Denoises, place_of, prior_of, select
from backdrift.solvers.noise import PATH, Noise


class Twists(Protocol):
    """A guide: a model of p(x_0 | y) that also gives log p(y | x_t), such as `models.MMPS`."""

    @property
    def sde(self) -> GaussianSDE: ...

    @property
    def model(self) -> Denoises:
        """The model of p(x_0)."""

    def denoise(self, x: Tensor, t: Tensor, /) -> Tensor: ...

    def twist(self, x: Tensor, t: Tensor, /) -> Twist:
        """`denoised`, E[x_0 | x_t]; `guided`, E[x_0 | x_t, y]; and `log_twist`, log p(y | x_t) in nats."""


PILOTS = 256
"""States that `kernel_variances` follows."""


def kernel_variances(model: Denoises, shape: tuple[int, ...], times: Tensor) -> Tensor:
    r"""The variances v of the steps x_t to x_s that fit the reverse process best, `[steps]` in float64,

    .. math:: v = \sigma^2_{s|t} + b^2 \bar V, \qquad \bar V = (\sigma/\alpha)^2 (1 - \sigma^2 E|s(x_t)|^2/d)

    (Bao et al. 2022, theorem 1). sigma_{s|t} is the deviation of x_s given x_t and x_0, b is the weight of x_0 in its
    mean, and V the mean variance of a component of x_0 given x_t. The mean of the squared score is over states that go
    through the chain themselves.

    Args:
        model: the model of p(x_0).
        shape: of one sample.
        times: of the chain, which fall.
    """
    device, dtype = place_of(model)
    noise = Noise(0, (PILOTS, *shape), stream=PATH, dtype=dtype, device=device)
    sde, variances = model.sde, []
    x = prior_of(model).from_noise(noise())
    for t, s in pairwise(times):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        denoised = model.denoise(x, t.to(x))
        square = float(((alpha * denoised - x) / sigma).double().square().mean())  # sigma^2 |s|^2/d
        mean, std = sde.bridge(x, denoised, s.to(x), t.to(x))
        b = float(sde.bridge(torch.zeros(1, 1), torch.ones(1, 1), s, t)[0])
        variances.append(float(std) ** 2 + b**2 * (sigma / alpha) ** 2 * max(0.0, 1 - square))
        x = mean + math.sqrt(variances[-1]) * noise()
    return torch.tensor(variances, dtype=torch.float64, device="cpu")


def kept(at: Any, keep: Tensor) -> Any:
    """What a guide says at the particles `keep`."""
    return type(at)(*(part[keep] for part in at))


def in_chunks(look: Callable[..., Any], guide: Any, chunk: int | None, *each: Tensor) -> Any:
    """What a guide says of particles, a named tuple, for at most `chunk` of them at once, so that memory is bounded.

    Args:
        look: what to ask a guide for `each`.
        guide: for all particles, with `select(indices)` where it holds something for each of them.
        chunk: None for all at once.
        each: the particles, and what else there is for each of them, `[batch, ...]`.
    """
    count = len(each[0])
    if chunk is None or count <= chunk:
        return look(guide, *each)
    places = torch.arange(count, device=each[0].device).split(chunk)
    parts = [look(select(guide, index), *(one[index] for one in each)) for index in places]
    return type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


class Step(Protocol):
    """A step of the chain with its weight: a kernel and its proposal."""

    def look(self, x: Tensor, t: Tensor) -> Any:
        """What the guide says at x, a named tuple with an entry for each particle."""

    def log_twist(self, at: Any) -> Tensor:
        """log p(y | x_t), `[batch]`."""

    def guided(self, at: Any) -> Tensor:
        """E[x_0 | x_t, y], shaped like x."""

    def draws(self, at: Any, kick: Noise) -> Tensor:
        """Independent draws N(0, 1) for a proposal, `[k, batch, ...]`."""

    def __call__(self, x: Tensor, at: Any, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Any, Tensor]:
        """x_s for draws z, what the guide says there, and the change of the log-weight, `[batch]`."""


def _models_of(model: Denoises, owners: Tensor) -> list[Denoises]:
    """The model of each observation, for `PILOTS` states; one for all where it holds nothing for each particle."""
    firsts = [int((owners == number).nonzero()[0]) for number in range(int(owners.max()) + 1)]
    own = [select(model, torch.full((PILOTS,), first)) for first in firsts]
    return own[:1] if own[0] is model else own


class IsotropicStep:
    """Kernels N(mu(x, D), v I), with proposals N(mu(x, D_y), v I).

    Args:
        guide: for all particles.
        shape: of one sample.
        times: of the chain, which fall.
        chunk: particles that the guide is asked for at once, or None.
        owners: the observation of each particle, `[batch]`, in their order. Each may have a model of its own, given a
            condition, and so has variances of its own. They do not depend on the other observations.
    """

    def __init__(self, guide: Twists, shape: tuple[int, ...], times: Tensor, chunk: int | None, owners: Tensor) -> None:
        self.guide, self.chunk = guide, chunk
        models = _models_of(guide.model, owners)
        stds = torch.stack([kernel_variances(model, shape, times).sqrt() for model in models], dim=1)
        each = stds if len(models) == 1 else stds[:, owners]
        self.stds = dict(zip(times[:-1].tolist(), each.reshape(*each.shape, *(1 for _ in shape)), strict=True))

    def look(self, x: Tensor, t: Tensor) -> Twist:
        return in_chunks(lambda guide, z: guide.twist(z, t.to(z)), self.guide, self.chunk, x)

    def log_twist(self, at: Twist) -> Tensor:
        return at.log_twist

    def guided(self, at: Twist) -> Tensor:
        return at.guided

    def draws(self, at: Twist, kick: Noise) -> Tensor:
        return kick().unsqueeze(0)

    def __call__(self, x: Tensor, at: Twist, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Twist, Tensor]:
        sde, std = self.guide.sde, self.stds[float(t)].to(x)
        mean = sde.bridge(x, at.guided, s.to(x), t.to(x))[0]
        plain = sde.bridge(x, at.denoised, s.to(x), t.to(x))[0]
        z = z[0]
        x = mean + std * z
        # log of the chain's kernel over the proposal: with delta = mean - plain, -(z . delta/std + |delta/std|^2/2)
        delta = ((mean - plain) / std).flatten(1)
        change = -(z.flatten(1) * delta).sum(1) - 0.5 * delta.square().sum(1)
        new = self.look(x, s)
        return x, new, change + new.log_twist - at.log_twist


class FullStep:
    r"""Kernels N(mu(x, D), C) with C = v I + b^2 V, proposed from their posterior given y.

    With (x_0, y) normal given x_t, y given x_s and x_t is N(A D + H (x_s - mu), S), with H = b A V C^{-1} and
    S = R + A V A^T - H C H^T. The proposal is the normal density of x_s given y. By Bayes the kernel over the proposal
    is N(y; A D, R + A V A^T) over N(y; A D + H (x_s - mu), S), whose numerator is the twist at x_t. The weight is
    therefore the twist at x_s over the prediction of it, and has no variance where V does not depend on x.
    """

    def __init__(self, guide: Any, chunk: int | None = None) -> None:
        self.guide, self.chunk = guide, chunk

    def look(self, x: Tensor, t: Tensor) -> Joint:
        return in_chunks(lambda guide, z: guide.joint(z, t.to(z)), self.guide, self.chunk, x)

    def log_twist(self, at: Joint) -> Tensor:
        return _log_normal(at.residual, _root(at.total))

    def guided(self, at: Joint) -> Tensor:
        return at.denoised + self._lifted(at.cross, at.total, at.residual).reshape(at.denoised.shape)

    def draws(self, at: Joint, kick: Noise) -> Tensor:
        """One for x_s, and as many more as the measurement's m components take."""
        m, d = at.residual.shape[1], at.covariance.shape[-1]
        return torch.stack([kick() for _ in range(1 + -(-m // d))])

    def __call__(self, x: Tensor, at: Joint, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Joint, Tensor]:
        sde, d = self.guide.sde, at.covariance.shape[-1]
        plain, std = sde.bridge(x, at.denoised, s.to(x), t.to(x))
        b = float(sde.bridge(torch.zeros(1, 1), torch.ones(1, 1), s, t)[0])
        c = std.reshape(-1, 1, 1).square() * torch.eye(d).to(x) + b**2 * at.covariance
        root = _root(c)
        h = b * torch.cholesky_solve(at.cross, root).mT
        left = _root(at.total - b * h @ at.cross)  # S = left left^T, since H C H^T = b H V A^T
        for_y = torch.cat([more.flatten(1) for more in z[1:]], 1)[:, : at.residual.shape[1]]
        # A draw of (x_s - mu, y) moves to the y that was seen (Matheron's rule, Wilson et al. 2021).
        move = (root @ z[0].flatten(1).unsqueeze(2)).squeeze(2)
        seen = (h @ move.unsqueeze(2) + left @ for_y.unsqueeze(2)).squeeze(2)
        move = move + self._lifted(b * at.cross, at.total, at.residual - seen)  # C H^T = b V A^T
        predicted = _log_normal(at.residual - (h @ move.unsqueeze(2)).squeeze(2), left)
        x = plain + move.reshape(x.shape)
        new = self.look(x, s)
        return x, new, self.log_twist(new) - predicted

    @staticmethod
    def _lifted(cross: Tensor, total: Tensor, residual: Tensor) -> Tensor:
        """cross total^{-1} residual, `[batch, d]`."""
        return (cross @ torch.cholesky_solve(residual.unsqueeze(2), _root(total))).squeeze(2)


def _root(matrix: Tensor) -> Tensor:
    """The Cholesky factor, for matrices whose least eigenvalue may be below 0 by rounding."""
    size = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * matrix.diagonal(dim1=-2, dim2=-1).amax(-1)
    return torch.linalg.cholesky(
        0.5 * (matrix + matrix.mT) + torch.diag_embed(size.unsqueeze(-1).expand(matrix.shape[:-1]))
    )


def _log_normal(residual: Tensor, root: Tensor) -> Tensor:
    """log N(residual; 0, root root^T) in nats, `[batch]`."""
    z = torch.linalg.solve_triangular(root, residual.unsqueeze(2), upper=False).squeeze(2)
    log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * z.square().sum(1) - log_det - 0.5 * residual.shape[1] * math.log(2 * math.pi)
