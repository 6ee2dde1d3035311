"""Restore samples from incomplete, noisy measurements: several posterior samples of each, with their checks."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from backdrift.data.arrays import DAMAGED, load_npy, told
from backdrift.data.card import DataCard
from backdrift.data.results import write_archive
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.conditioning import EVERY, conditioned, towards
from backdrift.evaluation.restoration import (
    STAGE,
    Problem,
    Weighted,
    known_columns,
    particle_posterior,
    problem,
    simulated,
    spectral_posterior,
)
from backdrift.evaluation.restoration_noise import PoissonNoise
from backdrift.evaluation.restoration_report import Restoration, write
from backdrift.evaluation.sampling import draw
from backdrift.evaluation.scored_condition import OWN, conditions_asked, in_a_name, model_given, require_classes, said
from backdrift.models import MMPS, TMPD, Label, LinearOperator, PoissonMeasurement
from backdrift.runs.configuration import blamed, build
from backdrift.runs.output import new_folder
from backdrift.runs.process_group import ProcessGroup
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.rows_to_score import rows_to_score
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished
from backdrift.solvers import DDRM, Solver, particles

OURS = {"guide", "measurement", "shape", "observations", "seed", "first"}
"""Arguments of `particles` and of `DDRM` that the command gives."""


def main(config: DictConfig) -> None:
    """Write `restore.md`, `restore.html`, `restore.json`, `restoration.npz`, and a picture or tables, in a new folder.

    The samples come from the run's data set or from `data.path`, and their measurements are simulated; or the
    measurements are given by `observation`. With `label` the prior is that of a class, or of each sample's own, and
    with `condition=data` or `condition=file` that of the vector or picture which belongs to each sample, with
    `guidance` towards it. After an interruption the same command goes on. Several processes of torchrun share the
    samples, and the first one writes.

    Raises:
        ValueError: if the measurement, the guide or the conditions do not suit the data, or some samples are not
            finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    group = ProcessGroup.join()
    device, run = group.device(config.device), Run.open(config.run, config.trust, config.data.changed)
    (task, prior), trained = _problem(config, run), run.gaussian_model(config.weights, device)
    sampler, stem = _sampler(config)
    if isinstance(task.noise, PoissonNoise):
        _require_for_counts(build(config, "guide"))
    copies = 1 if getattr(sampler, "func", None) is particles else config.samples
    model = _given(config, run.card, trained, prior, len(task.observation), copies)
    asked = said(config.label, config.guidance, config.condition)
    provenance = Provenance.now(run, _named(config, sampler), config.seed, config.weights, asked)
    inputs = (task.observation, *(one for one in prior if one is not None))
    kept = Unfinished.of(run, "restore", provenance, config, trained, *inputs, group=group)
    n, number = len(task.observation), config.samples
    began = time.perf_counter()
    with (
        kept.interruptible(_part_writer(kept, run, provenance, n, number)),
        Progress("restore", n * copies, "posterior" if copies == 1 else "sample", shown=group.is_first) as progress,
    ):
        try:
            x, weighted = _drawn(config, model, task, sampler, Batchwise(progress, kept))
        except (TypeError, ValueError) as error:
            raise blamed(config, "guide", error) from error
    seconds = time.perf_counter() - began
    broken = int((~x.flatten(2).isfinite().all(2)).sum())
    if broken:
        raise ValueError(f"guide: {broken} of {n * number} samples are NaN or infinite; take more steps, another guide")
    if not group.is_first:
        kept.close()
        return
    found = Restoration.of(task, x, weighted)
    stem = f"restore-{stem}{in_a_name(config.label, config.guidance, condition=config.condition)}-seed{config.seed}"
    with new_folder(run, stem, config, provenance) as folder:
        columns = run.card.columns or tuple(f"x{k + 1}" for k in range(task.units.dim))
        write(folder, found, run.card, columns)
    kept.discard()
    print(f"{number} samples of each of {n} posteriors in {seconds:.1f} s", found.verdict(), folder, sep="\n")


class _Belonging(NamedTuple):
    """What belongs to each sample and its prior may be given: its class `[n]`, and its vector or picture `[n, ...]`.

    Each is None where it is not known; the vector or picture also where it is not asked for.
    """

    labels: Tensor | None
    conditions: Tensor | None

    @classmethod
    def first(cls, n: int | None, *each: Tensor | None) -> _Belonging:
        """What belongs to the first n samples, or to all."""
        return cls(*(None if one is None else one[:n] for one in each))


def _problem(config: DictConfig, run: Run) -> tuple[Problem, _Belonging]:
    """What was measured: simulated measurements, or those of a file; and what belongs to each sample."""
    card, operator = run.card, _operator(config, run.card)
    noise = _noise(config)
    if config.observation is None:
        # A file of conditions has one for each sample there is, of which `n` then takes the first.
        every = config.copy()
        every.n = None
        rows = rows_to_score(every, run)
        there = len(rows.values)
        conditions = conditions_asked(config, card, rows.conditions, min(config.n or there, there), there)
        task = simulated(rows.values[: config.n], card, operator, noise, config.seed)
        return task, _Belonging.first(config.n, rows.labels, conditions)
    if config.data.path is not None:
        raise ValueError("observation: expected no data.path beside it, since the samples behind it are not known")
    observation = _read(Path(str(config.observation)).expanduser())
    there = len(observation)
    conditions = conditions_asked(config, card, None, min(config.n or there, there), there)
    return problem(observation[: config.n], card, operator, noise), _Belonging.first(config.n, None, conditions)


def _given(config: DictConfig, card: DataCard, model: Any, prior: _Belonging, n: int, copies: int) -> Any:
    """The model of p(x_0) for `n * copies` samples: given what `label` or `condition` asks for, with guidance.

    Raises:
        ValueError: if the model takes no such condition, there is no such class, or those of the samples are not known.
    """
    if prior.conditions is not None:
        return model_given(model, card, prior.conditions.repeat_interleave(copies, 0), config.guidance)
    if config.label == EVERY:
        raise ValueError("label=all: expected one class, or data for each sample's own")
    if config.label != OWN:
        return conditioned(model, card, config.label, config.guidance, n * copies).model
    require_classes(model, OWN)
    if prior.labels is None:
        raise ValueError("label=data: expected samples with labels, got samples without")
    return towards(model, Label(prior.labels.repeat_interleave(copies)), config.guidance)


def _noise(config: DictConfig) -> Any:
    """Standard deviations of normal noise, or the law of counts."""
    if config.noise == "poisson":
        return PoissonNoise(1.0 if config.gain is None else config.gain)
    if config.gain is not None:
        raise ValueError(f"gain={config.gain:g}: expected null beside noise={config.noise}; it is for noise=poisson")
    return OmegaConf.to_container(config.noise) if OmegaConf.is_config(config.noise) else config.noise


def _operator(config: DictConfig, card: DataCard) -> LinearOperator:
    """The operator that the config describes, on samples of the data set."""
    made = build(config, "measurement")
    try:
        if getattr(made, "func", None) is known_columns:
            made = functools.partial(made, names=card.columns)
        return made(shape=card.units.shape)
    except (TypeError, ValueError) as error:
        raise blamed(config, "measurement", error) from error


def _read(path: Path) -> Tensor:
    """Measurements `[n, ...]` from an array (.npy), the entry `observation` of an archive (.npz), or a table (.csv)."""
    if not path.is_file():
        raise FileNotFoundError(f"observation={path}: there is no such file")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                values = archive["observation"]
        elif path.suffix == ".npy":
            values = load_npy(path, "observation")
        else:
            values = np.loadtxt(path, delimiter=",", ndmin=2)
        if values.dtype.kind not in "biuf" or values.ndim == 0:
            raise ValueError(f"{values.dtype} of shape {list(values.shape)}")
        return torch.from_numpy(np.asarray(values, dtype=np.float64))
    except (KeyError, *DAMAGED) as error:
        raise ValueError(
            f"observation={path}: expected numbers in a .npy array, the entry observation of a .npz archive, or a .csv "
            f"table without names ({told(error)})"
        ) from error


def _sampler(config: DictConfig) -> tuple[Any, str]:
    """The solver of a guide, or what makes `DDRM` or runs `particles`; and the name of the results."""
    made = build(config, "guide")
    measured = str(config.measurement._target_).rpartition("backdrift.")[2].split(".")[-1].lower()
    function = getattr(made, "func", None)
    if function not in (particles, DDRM):
        if config.get("solver") is None:
            raise ValueError("solver: expected a solver for this guide, got null")
        name = str(config.guide._target_).split(".")[-1].lower()
        return build(config, "solver"), f"{measured}-{name}"
    taken = OURS & set(made.keywords)
    if taken:
        raise ValueError(f"guide.{min(taken)}: the command gives it; expected no such key")
    if config.get("solver") is not None:
        name = "particles, which have" if function is particles else "ddrm, which has"
        raise ValueError(f"solver: expected none beside guide={name} steps of their own (guide.steps)")
    return made, f"{measured}-{function.__name__.lower()}"


def _require_for_counts(made: Any) -> None:
    """Raise `ValueError` unless a guide takes measurements of counts."""
    kind = getattr(made, "func", made)
    if kind is particles and (kernel := made.keywords.get("kernel", "isotropic")) != "isotropic":
        raise ValueError(f"guide.kernel: expected isotropic for counts, got {kernel}")
    if kind is not particles and not any(issubclass(PoissonMeasurement, one) for one in getattr(kind, "takes", ())):
        raise ValueError(f"guide: expected tmpd, dps or particles for counts, got {kind.__name__}")


def _named(config: DictConfig, sampler: Any) -> str:
    """The guide with its settings, and the solver."""
    settings = ", ".join(f"{key}={value}" for key, value in config.guide.items() if not str(key).startswith("_"))
    guide = f"{str(config.guide._target_).split('.')[-1]}({settings})"
    return f"{guide}, {sampler}" if isinstance(sampler, Solver) else guide


def _drawn(
    config: DictConfig, model: Any, task: Problem, sampler: Any, work: Batchwise
) -> tuple[Tensor, Weighted | None]:
    """Samples of each posterior in the model's units, `[n, samples, ...]`, and what the weights of particles say."""
    n, number, shape = len(task.observation), config.samples, task.units.shape
    if isinstance(sampler, Solver):
        guide = build(config, "guide")(model, task.measurement(number))
        return draw(guide, sampler, shape, n * number, config.seed, work, stage=STAGE).reshape(n, number, *shape), None
    if sampler.func is DDRM:
        return spectral_posterior(sampler, model, task, number, config.seed, work), None
    counts = isinstance(task.noise, PoissonNoise)
    guide = TMPD(model, task.measurement()) if counts else MMPS(model, task.measurement(), iterations=None)
    return particle_posterior(sampler, guide, task, number, config.seed, work)


def _part_writer(kept: Unfinished, run: Run, provenance: Provenance, n: int, number: int) -> Any:
    """What writes the samples that are done when an interruption comes."""

    def write_part(folder: Path) -> str | None:
        done = kept.finished(STAGE)
        if done is None:
            return None
        x = done["x"] if done["x"].ndim == len(run.card.units.shape) + 1 else done["x"].flatten(0, 1)
        part = provenance.of_part(len(x), n * number)
        write_archive(folder / "samples.npz", run.card, x, part.to_json())
        return f"{part.rows} samples are kept in {folder / 'samples.npz'}, {number} of each posterior in a row"

    return write_part
