"""Random probes of a divergence: the vectors, and what they give at one point of a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from backdrift.solvers.density.divergence import Mode, VectorField, deflated, orthonormal, products
from backdrift.solvers.noise import Noise

ProbeKind = Literal["rademacher", "gaussian", "hutch++"]


@dataclass
class DivergenceProbes:
    """Random vectors e with E[e e^T] = I, drawn for each sample from a stream of its own.

    Attributes:
        count: products with the Jacobian in one evaluation.
        kind: the law of e, or "hutch++".
        noise: the streams, shaped like the state.
        mode: how products with the Jacobian are found.
        basis: of the subspace on which "hutch++" is exact, `[count // 2, batch, ...]`. It is learnt along the path.
    """

    count: int
    kind: ProbeKind
    noise: Noise
    mode: Mode = "reverse"
    basis: Tensor | None = None

    def draw(self, k: int) -> Tensor:
        """k fresh vectors for each sample, `[k, batch, ...]`."""
        drawn = torch.stack([self.noise() for _ in range(k)])
        return torch.where(drawn < 0, -1.0, 1.0).to(drawn) if self.kind == "rademacher" else drawn

    def estimate(
        self, field: VectorField, z: Tensor, fixed: Tensor, chunk: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The field and estimates of its divergence.

        Args:
            field: the vector field.
            z: the points, `[batch, ...]`.
            fixed: vectors that are the same all along the path, `[m, batch, ...]`, m perhaps 0.
            chunk: how many products are in memory at once; all by default.

        Returns:
            The field `[batch, ...]`, independent estimates from fresh probes `[k, batch]`, and the products with the
            fixed vectors `[m, batch]`.
        """
        if self.kind != "hutch++":
            value, along = products(field, z, torch.cat([self.draw(self.count), fixed]), chunk, self.mode)
            return value, along[: self.count], along[self.count :]
        if self.basis is None:
            self.basis = orthonormal(self.draw(self.count // 2))
        fresh = self.draw(self.count - len(self.basis))
        value, draws, along, self.basis = deflated(field, z, self.basis, fresh, fixed, chunk, self.mode)
        return value, draws, along
