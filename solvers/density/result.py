"""What a log-likelihood returns."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from backdrift.sde.checks import require_integer, require_positive
from backdrift.solvers.density.monte_carlo import student


@dataclass(frozen=True)
class Likelihood:
    """Log-densities and how far to trust them.

    Attributes:
        log_prob: log p_eps(x) in nats, `[batch]`.
        standard_error: of `log_prob` over the random probes, nats, `[batch]`; 0 for an exact divergence.
        degrees: degrees of freedom behind `standard_error`, `[batch]`; infinite for an exact divergence.
        solver_error: estimate of the integration's own error, times `calibration`, nats, `[batch]`; nan if it was not
            asked for.
        nfe: evaluations of the model for a sample, `[batch]`, those for the error estimate included.
        latent: the state at T, shaped like x.
        prior_gap: KL(N(m, v) | prior) in nats, for the mean and variances that these samples have at T and the prior
            of the process. The flow cannot see this gap.
        eps: the time of the density.
        seed: of the probes.
        probes: products with the Jacobian in one evaluation, or "exact".
        method: the integrator.
        steps: of a fixed grid.
        calibration: the factor in `solver_error`. 1 is a bound; `solvers.calibrate` finds that of an interval.
    """

    log_prob: Tensor
    standard_error: Tensor
    degrees: Tensor
    solver_error: Tensor
    nfe: Tensor
    latent: Tensor
    prior_gap: float
    eps: float
    seed: int
    probes: int | Literal["exact"]
    method: str
    steps: int
    calibration: float = 1.0

    @property
    def dim(self) -> int:
        """Components of a sample."""
        return self.latent[0].numel()

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each log-density, `[batch]` each.

        Half its width is that of Student's t for the error of the probes, plus the solver's error if it was estimated.

        Raises:
            ValueError: if `level` is not between 0 and 1.
        """
        width = student(level, self.degrees) * self.standard_error + self.solver_error.nan_to_num(0.0)
        return self.log_prob - width, self.log_prob + width

    def bits_per_dim(self, levels: int | None = None, width: float = 1.0) -> Tensor:
        """-log_2 p / dim of each sample, `[batch]`; of discrete data if `levels` is given.

        Args:
            levels: how many values a component can take, spread evenly over `width`. Each is then a bin of size
                width/levels, and the density in a bin times its size is a probability.
            width: the extent of the data over all levels, in the units of x.

        Raises:
            ValueError: if `levels` or `width` is not positive.
        """
        require_positive(width=width)
        if levels is not None:
            require_integer("levels", levels, 1)
        bin_size = 1.0 if levels is None else width / levels
        return -(self.log_prob / self.dim + math.log(bin_size)) / math.log(2)

    def __str__(self) -> str:
        n = len(self.log_prob)
        spread = float(self.log_prob.std() / math.sqrt(n)) if n > 1 else math.nan
        probe = float(self.standard_error.mean())
        factor = "" if self.calibration == 1 else f" (calibrated, times {self.calibration:.2g})"
        return (
            f"log p = {float(self.log_prob.mean()):.5g} ± {spread:.2g} nats "
            f"({float(self.bits_per_dim().mean()):.5g} bits/dim) over {n} samples; "
            f"each: probes ± {probe:.2g}, solver ± {float(self.solver_error.mean()):.2g}{factor}; "
            f"prior gap {self.prior_gap:.2g}, eps {self.eps:.2g}, {float(self.nfe.double().mean()):.4g} NFE, "
            f"seed {self.seed}"
        )

    def rows(self) -> list[dict[str, float]]:
        """A row for each sample, its keys the names of the columns."""
        columns = {
            "log_prob": self.log_prob,
            "standard_error": self.standard_error,
            "solver_error": self.solver_error,
            "bits_per_dim": self.bits_per_dim(),
            "nfe": self.nfe,
        }
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in values]

    def save(self, path: str | Path) -> None:
        """Write the result to a file: `rows` alone to a .csv file, or rows, latents and settings to an .npz file.

        Raises:
            ValueError: if the name of the file ends in neither.
        """
        path = Path(path)
        rows = self.rows()
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".npz":
            columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            settings = {"prior_gap": self.prior_gap, "eps": self.eps, "seed": self.seed, "probes": str(self.probes)}
            np.savez(path, latent=self.latent.cpu().numpy(), method=self.method, **columns, **settings)  # type: ignore
        else:
            raise ValueError(f"path: expected a name that ends in .csv or .npz, got {path.name}")
