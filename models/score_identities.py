"""Two identities that every true score obeys, whatever the data: the score Fokker-Planck equation, and no curl."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backdrift.sde import HasScore, Time
from backdrift.sde.checks import require_count
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.tensor_checks import require_state, require_times

ProbeCount = int | Literal["exact"]
"""A number of random directions, or "exact" for one direction along each component of x."""


NORMAL_95 = 1.959964
"""Half the width of a 95% interval of a normal density, in standard deviations."""


class Size(NamedTuple):
    """A relative size, which is the root of a ratio of means over samples, and its standard error."""

    value: float
    error: float


def relative_size(part: Tensor, whole: Tensor) -> Size:
    """sqrt(E part / E whole), from the squares of each sample, `[n]`, or from unbiased estimates of them.

    Estimates may be negative. The error is that of the ratio r, carried through the root to the ends of its interval of
    95%, r - 1.96 e and r + 1.96 e: the distance of the farther end, divided by 1.96. An interval of 95% around the size
    then holds the truth as often as that around the ratio, also where the truth is 0. It is nan for one sample.
    """
    part, whole = part.double(), whole.double()
    ratio = float(part.mean() / whole.mean())
    spread = (part - ratio * whole).std() if len(part) > 1 else torch.tensor(math.nan)
    error, low = float(spread / whole.mean()) / math.sqrt(len(part)), max(ratio, 0.0)
    value, reach = math.sqrt(low), NORMAL_95 * error
    ends = math.sqrt(low + reach), math.sqrt(max(low - reach, 0.0))
    return Size(value, max(ends[0] - value, value - ends[1]) / NORMAL_95)


class Residual(NamedTuple):
    """How far a score is from the score Fokker-Planck equation, at each sample.

    Attributes:
        residual: ds/dt - grad h, `[batch, ...]`; see `score_residual`.
        rate: ds/dt, `[batch, ...]`.
    """

    residual: Tensor
    rate: Tensor

    @property
    def relative(self) -> float:
        """sqrt(E|residual|^2 / E|rate|^2), which is 0 for a true score."""
        return self.size(self).value

    def size(self, other: Residual) -> Size:
        """`relative` and its standard error, from the product with another estimate at the same points.

        Where the two estimates have random directions of their own, these add noise to the product and no bias.
        """
        return relative_size(inner(self.residual, other.residual), inner(self.rate, other.rate))


@sdpa_kernel(SDPBackend.MATH)  # attention's fused kernels have no derivative in forward mode, and no second one
def score_residual(
    model: HasScore, x: Tensor, t: Time, probes: ProbeCount = "exact", generator: torch.Generator | None = None
) -> Residual:
    r"""The residual of the score Fokker-Planck equation, which s = grad log p_t obeys for any data:

    .. math:: \partial_t s = \nabla h, \quad
        h = \tfrac12 (tr(G \nabla s) + s \cdot G s) - f \cdot s - \mathrm{div} f, \quad G = g g^T.

    This is the gradient of the Fokker-Planck equation of log p (Lai et al. 2023, FP-Diffusion). A residual of zero
    everywhere means that s is the score of some density at one time, and at all other times the score of what the
    process makes of that density. It does not mean that the density is the data's.

    Args:
        model: has `sde`, whose noise does not depend on the state, and `score(x, t)`, twice differentiable in x.
        x: points, `[batch, ...]`.
        t: a scalar, or one time per sample, `[batch]`.
        probes: random directions (Rademacher) for the traces, or "exact", one direction for each component of x. Random
            directions add noise to `residual`, whose mean square is then too large by the variance of the noise.
        generator: the source of the random directions.

    Raises:
        ValueError: if the noise of the process depends on the state, `probes` is neither a count nor "exact", or a
            network is in training mode and has dropout or batch normalisation.
    """
    require_evaluation_mode(model)
    require_state(x)
    require_times(t, model.sde.T)
    sde, score = model.sde, model.score
    if sde.state_dependent:
        raise ValueError(f"model: expected a process whose noise does not depend on x, got {type(sde).__name__}")
    # One time per sample, because forward mode turns the derivative in a single time into a float64 tensor.
    x, t = x.contiguous(), torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x)).contiguous()
    along = directions(x, probes, generator)
    weight = 1.0 if probes == "exact" else 1.0 / len(along)

    def potential(x: Tensor) -> Tensor:
        """h, `[batch]`."""

        def trace(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            v = v.expand_as(x)  # a unit vector for all samples, or a random direction for each
            (s, f), (ds, df) = torch.func.jvp(lambda x: (score(x, t), sde.drift(x, t)), (x,), (v,))[:2]
            return inner(v, 0.5 * sde.apply_diffusion(x, t, ds) - df), s, f

        # The annotation of vmap does not know None, which leaves s and f without an axis for the directions.
        traces, s, f = torch.func.vmap(trace, out_dims=(0, None, None))(along)  # type: ignore[arg-type]
        return weight * traces.sum(0) + inner(s, 0.5 * sde.apply_diffusion(x, t, s) - f)

    with torch.no_grad():
        rate = torch.func.jvp(lambda t: score(x, t), (t,), (torch.ones_like(t),))[1]
        slope = torch.func.grad(lambda x: potential(x).sum())(x)
    return Residual(rate - slope, rate)


@sdpa_kernel(SDPBackend.MATH)
def curl(
    score: Callable[[Tensor], Tensor], x: Tensor, probes: ProbeCount = "exact", generator: torch.Generator | None = None
) -> Size:
    """sqrt(E|J - J^T|^2 / E|2 J|^2) for the score's Jacobian J, in Frobenius norms.

    It is 0 for a gradient, and 1 for a field whose Jacobian is antisymmetric. Since E|M z|^2 = |M|^2 for random
    directions z, the products J z and J^T z are enough, and no Jacobian is formed.

    Args:
        score: from x `[batch, ...]` to a tensor like x.
        x: points, `[batch, ...]`.
        probes: number of random directions z (Rademacher), or "exact" for the unit vectors.
        generator: the source of the random directions.

    Raises:
        ValueError: if `probes` is neither a count nor "exact".
    """
    turning, total = x.new_zeros(len(x)), x.new_zeros(len(x))
    with torch.no_grad():
        back = torch.func.vjp(score, x)[1]
        for v in directions(x, probes, generator):
            v = v.expand_as(x).contiguous()
            forward = torch.func.jvp(score, (x,), (v,))[1]
            turn = forward - back(v)[0]
            turning += inner(turn, turn)
            total += inner(forward, forward)
    return relative_size(turning, 4 * total)


def directions(x: Tensor, probes: ProbeCount, generator: torch.Generator | None) -> Tensor:
    """Unit vectors `[dim, 1, ...]` for "exact", or random signs `[probes, batch, ...]`."""
    require_count("probes", probes, "exact")
    if probes == "exact":
        size = x[0].numel()
        return torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
    place = x.device if generator is None else generator.device
    signs = torch.randint(0, 2, (probes, *x.shape), generator=generator, device=place)
    return (2 * signs - 1).to(x)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample of a with that of b, `[batch]`."""
    return (a * b).flatten(1).sum(1)
