"""What a log-likelihood returns."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from backdrift.sde.checks import require_choice, require_integer, require_positive
from backdrift.solvers.confidence import counted, student, with_error

Density = Literal["model", "data"]

DENSITIES = {"model": "density of the model, which starts from its prior", "data": "p_eps of the data"}
"""What each of the two densities is called in words."""


def half_width(
    level: float, standard_error: Tensor, degrees: Tensor, prior_error: Tensor, solver_error: Tensor
) -> Tensor:
    """Half the width of the interval of a log-density, in nats, `[batch]`.

    The errors of the draws and of the prior are independent standard deviations, and their intervals add in squares.
    The solver's error is a bound, which is added as it is. Of the last two those that are nan count as 0.

    Args:
        level: the probability that the interval holds the log-density.
        standard_error, degrees: of the draws, and its degrees of freedom, `[batch]`.
        prior_error: standard deviation, `[batch]`.
        solver_error: bound, `[batch]`.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """
    normal = student(level, torch.full_like(degrees, math.inf)) * prior_error.nan_to_num(0.0)
    return torch.hypot(student(level, degrees) * standard_error, normal) + solver_error.nan_to_num(0.0)


def stated_errors(solver_error: Tensor, prior_error: Tensor, factor: str = "") -> str:
    """The mean errors of the solver and of the prior, `[batch]` each, in words. They are nan where none is known.

    Args:
        solver_error, prior_error: in nats.
        factor: what else to say of the solver's error.
    """
    solver, prior = float(solver_error.mean()), float(prior_error.mean())
    of_solver = "error of the solver not estimated" if math.isnan(solver) else f"solver ± {solver:.2g}{factor}"
    of_prior = "error of the prior not known" if math.isnan(prior) else f"prior ± {prior:.2g}"
    return f"{of_solver}; {of_prior}"


@dataclass(frozen=True)
class Likelihood:
    """Log-densities and how far to trust them.

    Attributes:
        log_prob: the log-density of the generative model in nats, `[batch]`: that of the samples which the flow makes
            of draws of the prior.
        standard_error: of `log_prob` over the random probes, nats, `[batch]`; 0 for an exact divergence.
        degrees: degrees of freedom behind `standard_error`, `[batch]`; infinite for an exact divergence.
        solver_error: estimate of the integration's own error, times `calibration`, nats, `[batch]`; nan if it was not
            asked for.
        prior_error: standard deviation of log p_T - log prior at the latent state, nats, `[batch]`, see
            `solvers.density.prior_error`. Where the score is exact, log p_eps of the data differs from `log_prob` by
            so much. nan if it was not asked for, or is not known.
        density: which density `interval` is for where it is not told: "data" if the model's score is exact, and "model"
            for networks, whose own error nothing here can see.
        nfe: evaluations of the model for a sample, `[batch]`, those for the error estimate included.
        latent: the state at T, shaped like x.
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
    prior_error: Tensor
    density: Density
    nfe: Tensor
    latent: Tensor
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

    def interval(self, level: float = 0.95, density: Density | None = None) -> tuple[Tensor, Tensor]:
        """The ends of a confidence interval for each log-density, `[batch]` each.

        Half its width is that of Student's t for the error of the probes, plus the solver's error if it was estimated.
        For the density of the data it holds the normal error of the prior as well, added to that of the probes in
        squares.

        Args:
            level: the probability that the interval holds the log-density.
            density: "model" for the density of the generative model, "data" for p_eps of the data, which needs an
                exact score; by default as the attribute `density` says.

        Raises:
            ValueError: if `level` is not between 0 and 1, or `density` is none of the two.
        """
        density = self.density if density is None else density
        require_choice("density", density, get_args(Density))
        prior_error = self.prior_error if density == "data" else torch.zeros_like(self.prior_error)
        width = half_width(level, self.standard_error, self.degrees, prior_error, self.solver_error)
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
        factor = "" if self.calibration == 1 else f" (calibrated, times {self.calibration:.2g})"
        return (
            f"log p = {with_error(float(self.log_prob.mean()), spread, 'nats', n)} "
            f"({float(self.bits_per_dim().mean()):.5g} bits/dim) over {counted(n)}; "
            f"each: probes ± {float(self.standard_error.mean()):.2g}, "
            f"{stated_errors(self.solver_error, self.prior_error, factor)}; {DENSITIES[self.density]}; "
            f"eps {self.eps:.2g}, {float(self.nfe.double().mean()):.4g} NFE, seed {self.seed}"
        )

    def rows(self) -> list[dict[str, float]]:
        """A row for each sample, its keys the names of the columns."""
        columns = {
            "log_prob": self.log_prob,
            "standard_error": self.standard_error,
            "solver_error": self.solver_error,
            "prior_error": self.prior_error,
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
            settings = {"density": self.density, "eps": self.eps, "seed": self.seed, "probes": str(self.probes)}
            np.savez(path, latent=self.latent.cpu().numpy(), method=self.method, **columns, **settings)  # type: ignore
        else:
            raise ValueError(f"path: expected a name that ends in .csv or .npz, got {path.name}")
