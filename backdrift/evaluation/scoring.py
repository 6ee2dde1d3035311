"""Log-likelihoods of a data set's samples in its own units, with their errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrift.data import Units
from backdrift.evaluation.batchwise import HERE, Batchwise
from backdrift.evaluation.metrics import Estimate
from backdrift.runs.provenance import Provenance
from backdrift.runs.unfinished import Batch
from backdrift.sde import SDE
from backdrift.solvers import Likelihood, PositionLikelihood, log_likelihood, position_log_likelihood
from backdrift.solvers.confidence import counted
from backdrift.solvers.model import ModelLike, place_of, select

STAGE = "scores"
"""The name of these computations among those of a command."""

VALUES = ("log_prob", "standard_error", "solver_error", "prior_error", "nfe")
"""What is known of each sample."""

EXACT = 0
"""Stands for exact divergences among numbers of probes."""


@dataclass(frozen=True)
class Scores:
    """Log-likelihoods of samples of a data set, in its own units.

    Discrete data are dequantised by one uniform draw for each component: `log_prob` is the log-density of v + u. Its
    mean is a lower bound on the mean log-probability of the levels (Theis et al. 2016).

    Attributes:
        log_prob: in nats, `[n]`.
        standard_error: of each value over the random probes of the divergence, in nats, `[n]`.
        solver_error: an estimate of each value's integration error, in nats, `[n]`.
        nfe: network evaluations for each sample, `[n]`.
        prior_error: how far log p_T is from the prior's log-density, a standard deviation in nats, `[n]`. Where the
            score is exact, the density of the data differs from the model's by so much.
        eps: the time at which the density is given.
        dim: components of a sample.
        levels: of discrete data, or None.
        settings: the integrator's settings, with the seed.
    """

    log_prob: Tensor
    standard_error: Tensor
    solver_error: Tensor
    nfe: Tensor
    prior_error: Tensor
    eps: float
    dim: int
    levels: int | None
    settings: dict[str, Any]

    @property
    def unit(self) -> str:
        """The unit of `values`."""
        return "nats" if self.levels is None else "bits/dim"

    @property
    def values(self) -> Tensor:
        """log p in nats for continuous data; -log_2 p / dim in bits per dimension for discrete data, `[n]`."""
        return self.log_prob if self.levels is None else -self.log_prob / (self.dim * math.log(2))

    def mean(self) -> Estimate:
        """The mean of `values`, with its standard error over samples, dequantisation and probes; inf for one sample."""
        values = self.values.double()
        spread = float(values.std()) if len(values) > 1 else math.inf
        return Estimate(float(values.mean()), spread / math.sqrt(len(values)))

    def __str__(self) -> str:
        what = f"mean log-density {self.mean()} nats"
        if self.levels is not None:
            what = (
                f"{self.mean()} bits/dim, an upper bound ({self.levels} levels, one uniform dequantisation for each "
                "sample)"
            )
        integrator = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        errors = {"probes": self.standard_error, "solver": self.solver_error.abs(), "prior": self.prior_error}
        sizes = ", ".join(f"{name} {_in_nats(error)}" for name, error in errors.items())
        return (
            f"{what}; {counted(len(self.log_prob))}; {float(self.nfe.double().mean()):.4g} NFE each ({integrator}); "
            f"mean error of one sample: {sizes}; density of the model at eps = {self.eps:.2g}"
        )

    def save(
        self,
        path: Path,
        labels: Tensor | None = None,
        class_names: Sequence[str] | None = None,
        provenance: Provenance | None = None,
        places: Sequence[int | str] | None = None,
    ) -> None:
        """Write a csv table with a row for each sample.

        Args:
            path: the file.
            labels: the class of each sample, for a column of their own, or None.
            class_names: the names of the classes, for another column, or None.
            provenance: for lines at the top that begin with #, or None.
            places: the row of each sample in its table or the path of its image, for a column of their own, or None.
        """
        columns: dict[str, list[Any]] = {"index": list(range(len(self.log_prob)))}
        if places is not None:
            columns["row" if isinstance(places[0], int) else "file"] = list(places[: len(self.log_prob)])
        if labels is not None:
            columns["label"] = labels[: len(self.log_prob)].tolist()
            if class_names is not None:
                columns["class"] = [class_names[label] for label in columns["label"]]
        columns |= {
            "log_prob_nats": self.log_prob.tolist(),
            "standard_error_nats": self.standard_error.tolist(),
            "solver_error_nats": self.solver_error.tolist(),
            "prior_error_nats": self.prior_error.tolist(),
            "nfe": self.nfe.tolist(),
        }
        if self.levels is not None:
            columns["bits_per_dim"] = self.values.tolist()
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write("" if provenance is None else provenance.comment())
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


def _in_nats(error: Tensor) -> str:
    """The mean of errors in nats. They are nan where one draw shows none, or where they were not asked for."""
    mean = float(error.mean())
    return "not known" if math.isnan(mean) else f"{mean:.2g} nats"


def density_of(sde: SDE) -> Callable[..., Likelihood | PositionLikelihood]:
    """The function of `solvers` that gives the log-density of data under such a process."""
    return position_log_likelihood if sde.has_velocity else log_likelihood


def score(
    model: ModelLike,
    units: Units,
    values: Tensor,
    seed: int = 0,
    work: Batchwise = HERE,
    stage: str = STAGE,
    **settings: Any,
) -> Scores:
    """Log-likelihoods of samples v of a data set, in its own units.

    Args:
        model: a denoiser, trained or in closed form.
        units: the map from v to what the model sees, and its Jacobian.
        values: v, `[n, ...]`.
        seed: of the dequantisation and of the probes.
        work: how the batches are done.
        stage: the name of these computations among those of a command.
        settings: passed on to `solvers.log_likelihood`, or to `solvers.position_log_likelihood` if the states of the
            process hold velocities.

    Raises:
        ValueError, TypeError: as these functions do.
    """
    if settings.get("compile") and model.sde.has_velocity:
        raise ValueError(
            "compile: expected false for a process with velocities, whose likelihood is not compiled, got true"
        )
    x = units.to_model(values, torch.Generator().manual_seed(seed)).to(*place_of(model))
    log_density = density_of(model.sde)

    def scored(indices: Tensor) -> Batch:
        result = log_density(select(model, indices), x[indices], seed=seed, first=int(indices[0]), **settings)
        same = result.log_prob.new_ones(len(indices), dtype=torch.float64)  # numbers that all samples share
        probes = getattr(result, "probes", None)
        own = {"log_jacobian": units.log_jacobian(values[indices])}
        known = {} if probes is None else {"probes": same * (EXACT if probes == "exact" else probes)}
        return {
            **{name: getattr(result, name).reshape(-1) for name in VALUES},
            "eps": same * result.eps,
            **known,
            **own,
        }

    return collected(work(scored, len(x), x[0].numel(), stage=stage), units, {**settings, "seed": seed})


def collected(found: Batch, units: Units, settings: dict[str, Any]) -> Scores:
    """The scores of the samples that are done.

    Args:
        found: what `score` computes for each of them.
        units: as for `score`.
        settings: of the integrator, with the seed.
    """
    seed = settings["seed"]
    chosen = {name: value for name, value in settings.items() if name != "seed"}
    if "probes" in found:
        probes = int(found["probes"][0])
        chosen["probes"] = "exact" if probes == EXACT else probes
    return Scores(
        log_prob=found["log_prob"].double() + found["log_jacobian"],
        standard_error=found["standard_error"],
        solver_error=found["solver_error"],
        nfe=found["nfe"],
        prior_error=found["prior_error"],
        eps=float(found["eps"][0]),
        dim=units.dim,
        levels=units.levels,
        settings={**chosen, "seed": seed},
    )
