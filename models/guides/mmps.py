"""Moment matching posterior sampling: the guide that knows the covariance of x_0 given x_t."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backdrift.models.guides.gmres import gmres
from backdrift.models.guides.guide import Guide
from backdrift.models.guides.low_rank import low_rank
from backdrift.models.measurement import Measurement
from backdrift.sde import Time
from backdrift.sde.checks import require_integer, require_positive
from backdrift.sde.jacobian import pulled_back, with_graph
from backdrift.sde.twist import Joint, LowRank, Twist
from backdrift.sde.value_types import Count, Positive


class MMPS(Guide):
    r"""Moment matching posterior sampling (Rozet, Andry, Lanusse & Louppe 2024),

    .. math:: E[x_0 | x_t, y] \approx D + V A^T (R + A V A^T)^{-1} (y - A D), \qquad V = (\sigma^2/\alpha) \, dD/dx

    where V is the covariance of x_0 given x_t (Efron 2011). p(x_0 | x_t) is taken as the normal density N(D, V). For
    normal data the result is exact, at every t and for every covariance. Elsewhere it leaves out how V changes with
    x_t, and is wrong where p(x_0 | x_t) has several modes; `solvers.particles` corrects that.

    The linear system is solved by preconditioned generalised minimal residuals, or exactly with all m products. The V
    of a network is neither symmetric nor positive, and conjugate gradients then diverge.

    Cost: one evaluation of the model, and one product with its Jacobian for each iteration (for the exact solve m in
    all). A product costs about as much as an evaluation. The shift of D is a sum of the products of the iterations,
    each of which keeps as many numbers as x.

    Args:
        model: the model of p(x_0). Its denoiser must be differentiable.
        measurement: y, with its operator and its noise.
        iterations: of the linear solver at most; None solves exactly, by m products.
        tolerance: of the linear solver, relative to y - A D.

    Raises:
        ValueError, TypeError: as `Guide` does, or if `iterations` or `tolerance` is not positive.
    """

    def __init__(
        self, model: Any, measurement: Measurement, iterations: Count | None = 5, tolerance: Positive = 1e-4
    ) -> None:
        super().__init__(model, measurement)
        if iterations is not None:
            require_integer("iterations", iterations, 1)
        require_positive(tolerance=tolerance)
        self.iterations, self.tolerance = iterations, float(tolerance)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        with_gradients = torch.is_grad_enabled() and x.requires_grad
        if self.iterations is None:
            return self._with_derivatives(x, t) if with_gradients else self.twist(x, t).guided
        point, denoised, _ = self.graph(x, t)
        pull = _Pull(self, point, denoised, self.gain(x, t), with_gradients)
        r = self.measurement.residual(denoised if with_gradients else denoised.detach())
        scale = self.measurement.noise_product(torch.ones_like(r)) + self.prior_variance(x, t).reshape(-1, 1)
        u, weights = gmres(pull.product, r, self.iterations, self.tolerance, lambda v: v / scale)
        shifted = denoised + pull.combined(self._share(u, r) * weights)
        return shifted if with_gradients else shifted.detach()

    def _share(self, u: Tensor, r: Tensor) -> Tensor:
        """How much of u is taken, `[batch, 1]`: 1 where V may be a covariance, else what a covariance could give.

        With (R + W) u = r and a covariance W, u . R u <= u . r. A network's V may have eigenvalues below 0, and R + W
        is nearly singular where one of them is as large as the noise.
        """
        along, own = (u * r).sum(1, keepdim=True), (u * self.measurement.noise_product(u)).sum(1, keepdim=True)
        return torch.where(own > along, along.clamp(min=0) / own, 1.0)

    def _with_derivatives(self, x: Tensor, t: Time) -> Tensor:
        """The guided D with all m products, with derivatives in x.

        The eigenvectors that `twist` takes have none where eigenvalues are equal. Values are the same where V is a
        covariance; else they are those of the iterations.
        """
        point, denoised, _ = self.graph(x, t)
        m, seen = self.measurement.size, self.measurement
        r = seen.residual(denoised)
        rows = seen.adjoint(torch.eye(m, dtype=x.dtype, device=x.device)).unsqueeze(1).expand(m, *x.shape)
        back = self.gain(x, t) * pulled_back(denoised, point, rows, create_graph=True)  # V A^T, [m, batch, ...]
        total = seen.noise_covariance(x) + seen.operator(back.flatten(0, 1)).reshape(m, -1, m).permute(1, 2, 0)
        least = torch.finfo(x.dtype).eps * m * total.detach().abs().amax((1, 2), keepdim=True)
        u = torch.linalg.solve(total + least * torch.eye(m).to(total), r)
        return denoised + torch.einsum("bm,mb...->b...", self._share(u, r) * u, back)

    def twist(self, x: Tensor, t: Time) -> Twist:
        """D, the guided D, and log p(y | x_t) = log N(y; A D, R + A V A^T), by m products with the Jacobian."""
        point, denoised = self._point(x, t)
        r = self.measurement.residual(denoised.detach())
        m, batch = self.measurement.size, len(x)
        unit = torch.eye(m, dtype=x.dtype, device=x.device)
        operator = self.measurement.operator
        rows = self.measurement.adjoint(unit).unsqueeze(1).expand(m, *x.shape)
        back = self.gain(x, t) * pulled_back(denoised, point, rows)  # V A^T, [m, batch, ...]
        seen = operator(back.flatten(0, 1)).reshape(m, batch, m).permute(1, 0, 2)  # A V A^T
        # A network's V may have eigenvalues below 0, which no covariance has. They are taken as 0: such a direction of
        # the measurement then says nothing of x_0, and is left out of the shift below.
        spread, directions = torch.linalg.eigh(0.5 * (seen + seen.mT))
        kept = directions * (spread > 0).unsqueeze(1)
        total = self.measurement.noise_covariance(x) + (kept * spread.unsqueeze(1)) @ kept.mT
        values, axes = torch.linalg.eigh(total)
        least = values.amax(1, keepdim=True) * torch.finfo(x.dtype).eps * m
        values = values.clamp(min=least.clamp(min=torch.finfo(x.dtype).tiny))
        along = torch.einsum("bij,bi->bj", axes, r)
        u = torch.einsum("bij,bj->bi", axes, along / values).unsqueeze(2)
        u = (kept @ (kept.mT @ u)).squeeze(2)
        guided = denoised.detach() + torch.einsum("bm,mb...->b...", u, back)
        log_twist = -0.5 * (along.square() / values + values.log()).sum(1) - 0.5 * m * math.log(2 * math.pi)
        return Twist(denoised.detach(), guided, log_twist)

    def joint(self, x: Tensor, t: Time) -> Joint:
        """The normal density of (x_0, y) given x_t, by d products with the Jacobian.

        A network's V is made symmetric, and its eigenvalues below 0 are taken as 0, which no covariance has.
        """
        point, denoised = self._point(x, t)
        batch, d = len(x), x[0].numel()
        unit = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        columns = (self.gain(x, t) * pulled_back(denoised, point, unit)).reshape(d, batch, d).permute(1, 2, 0)
        values, axes = torch.linalg.eigh(0.5 * (columns + columns.mT))
        covariance = (axes * values.clamp(min=0).unsqueeze(1)) @ axes.mT
        a = self.measurement.operator.matrix(x.dtype, x.device)
        cross = covariance @ a.mT
        total = self.measurement.noise_covariance(x) + a @ cross
        return Joint(denoised.detach(), covariance, cross, total, self.measurement.residual(denoised.detach()))

    def low_rank(self, x: Tensor, t: Time, probes: Tensor, fresh: Tensor) -> LowRank:
        """The normal density of x_0 given x_t with k axes of V, by 2 (k + f) products with the Jacobian.

        Args:
            x: `[batch, ...]`, of d components each.
            t: the time.
            probes: k directions near the axes, such as those of a state nearby, `[batch, d, k]`.
            fresh: f random directions, `[batch, d, f]`.
        """
        point, denoised = self._point(x, t)
        gain = self.gain(x, t)

        def product(directions: Tensor) -> Tensor:
            rows = directions.permute(2, 0, 1).reshape(-1, *x.shape)
            return (gain * pulled_back(denoised, point, rows)).flatten(2).permute(1, 2, 0)

        return LowRank(denoised.detach(), *low_rank(product, probes, fresh))

    def _point(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The points of a graph, and D there."""
        return with_graph(lambda z: self.model.denoise(z, t), x)


class _Pull:
    """Products with V = gain J^T and S = R + A V A^T, at the points of a graph.

    Attributes:
        images: V A^T u of each product that was taken, shaped like x.
    """

    def __init__(self, guide: MMPS, point: Tensor, denoised: Tensor, gain: Tensor, create_graph: bool) -> None:
        self.measurement, self.point, self.denoised, self.gain = guide.measurement, point, denoised, gain
        self.create_graph = create_graph
        self.images: list[Tensor] = []

    def covariance(self, u: Tensor) -> Tensor:
        """V A^T u, shaped like x, for flattened measurements u `[batch, m]`."""
        back = self.measurement.adjoint(u)
        (slope,) = torch.autograd.grad(
            self.denoised, self.point, back, retain_graph=True, create_graph=self.create_graph
        )
        return self.gain * slope

    def product(self, u: Tensor) -> Tensor:
        """(R + A V A^T) u, `[batch, m]`."""
        self.images.append(self.covariance(u))
        return self.measurement.noise_product(u) + self.measurement.operator(self.images[-1]).flatten(1)

    def combined(self, weights: Tensor) -> Tensor:
        """V A^T u, shaped like x, for u = sum_k w_k u_k over the products so far, weights w `[batch, products]`."""
        total = torch.zeros_like(self.denoised)
        for weight, image in zip(weights.unbind(1), self.images, strict=True):
            total = total + weight.reshape(-1, *(1,) * (image.ndim - 1)) * image
        return total
