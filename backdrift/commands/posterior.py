"""Learn the posterior of a simulator's parameters from files of simulations, and draw from it given an observation."""

from __future__ import annotations

import csv
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from backdrift.evaluation.report import versions_section
from backdrift.posteriors import Diagnosis, SimulationPosterior
from backdrift.posteriors.figure import posterior_figure
from backdrift.posteriors.simulation_files import Simulations, read_observations, read_simulations
from backdrift.runs.interruption import advising
from backdrift.runs.output import renewed_results
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run

TESTED = 20
"""The least number of simulations that a diagnosis needs, and that a posterior is learnt from."""


@dataclass(frozen=True)
class _Answer:
    """What is written: draws, their log-densities where they are known, the diagnosis and what was warned of."""

    draws: np.ndarray
    log_prob: np.ndarray | None
    error: np.ndarray | None
    diagnosis: Diagnosis
    warned: tuple[str, ...] = ()


def main(config: DictConfig) -> None:
    """Write `draws.csv`, `posterior.png`, `report.md` and `report.html` into a new run folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file does not hold what is expected, or there are too few simulations.
    """
    data, observation = config.data, config.observation
    simulations = read_simulations(Path(str(data.path)).expanduser(), data.parameters, data.header, data.index)
    path = Path(str(observation.path)).expanduser()
    found = read_observations(path, simulations, observation.header, observation.index)
    observed = found.x
    if len(observed) > 1 and config.observation.rows == "single":
        raise ValueError(
            f"observation.rows: expected repeated or each for a file of {len(observed)} observations, got single"
        )
    for note in simulations.notes:
        print(f"data: {note}")
    for note in found.notes:
        print(f"observation: {note}")
    with advising("interrupted; nothing is kept"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        posterior, held = _fitted(config, simulations)
        answer = _answer(config, posterior, simulations, observed, held)
    warned = tuple(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)))
    run = Run.create(config)
    try:
        files = _write(run, config, posterior, simulations, replace(answer, warned=warned))
    except BaseException:
        run.discard()
        raise
    for said in warned:
        print(f"warning: {said}")
    print(answer.diagnosis, files, sep="\n")


def _fitted(config: DictConfig, simulations: Simulations) -> tuple[SimulationPosterior, np.ndarray]:
    """The posterior, and the numbers of the simulations that it has not seen."""
    n = len(simulations.theta)
    order = np.random.default_rng(config.seed).permutation(n)
    held = order[: round(config.data.test * n)]
    if n < 2 * TESTED:
        raise ValueError(f"data.path={config.data.path}: expected at least {2 * TESTED} simulations, got {n}")
    kept = order[len(held) :]
    if min(len(held), len(kept)) < TESTED:
        raise ValueError(
            f"data.test: expected a share that holds back at least {TESTED} of the {n} simulations and leaves as many, "
            f"got {config.data.test}, which holds back {len(held)} and leaves {len(kept)}"
        )
    posterior = SimulationPosterior(
        members=config.members,
        hidden=config.hidden,
        depth=config.depth,
        steps=config.steps,
        random_state=config.seed,
        verbose=sys.stderr.isatty(),
    )
    posterior.fit(simulations.theta[kept], simulations.x[kept], prior=_prior(config, simulations.theta.shape[1]))
    return posterior, held


def _prior(config: DictConfig, d: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of the parameters, or None where no parameter has one."""
    bounds = []
    for name, none in (("lower", -np.inf), ("upper", np.inf)):
        given = OmegaConf.to_container(config.prior)[name]  # type: ignore[index,call-overload]
        listed = given if isinstance(given, list) else [given] * d
        if len(listed) != d:
            raise ValueError(f"prior.{name}: expected one number for each of the {d} parameters, got {len(listed)}")
        bounds.append(np.array([none if value is None else float(value) for value in listed]))
    return None if np.isinf(bounds).all() else (bounds[0], bounds[1])


def _answer(
    config: DictConfig,
    posterior: SimulationPosterior,
    simulations: Simulations,
    observed: np.ndarray,
    held: np.ndarray,
) -> _Answer:
    """Draws, densities and the diagnosis. Warnings are kept for the report."""
    several = config.observation.rows if len(observed) > 1 else "single"
    diagnosis = posterior.diagnose(simulations.theta[held], simulations.x[held], random_state=config.seed)
    draws = posterior.sample(
        observed, config.draws, repeated=several == "repeated", each=several == "each", random_state=config.seed
    )
    log_prob = error = None
    if several != "repeated":
        given = [observed] if several == "single" else [row[None] for row in observed]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the draws have said it
            found = [
                posterior.log_prob(rows, x, return_std=True)
                for rows, x in zip(draws.reshape(len(given), config.draws, -1), given, strict=True)
            ]
        log_prob, error = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Answer(draws.reshape(-1, draws.shape[-1]), log_prob, error, diagnosis)


def _write(
    run: Run, config: DictConfig, posterior: SimulationPosterior, simulations: Simulations, answer: _Answer
) -> str:
    """Write the draws, the picture and the report, all of them or none; the names of the files."""
    provenance = Provenance.now(run, "SimulationPosterior", config.seed)
    support = posterior.parameters_.lower.numpy(), posterior.parameters_.upper.numpy()
    with renewed_results(run, provenance) as folder:
        with folder.new("draws.csv") as file:
            _save_draws(file, provenance, config, simulations.names, answer)
        folder.save_figure(
            "posterior.png", posterior_figure(answer.draws, simulations.names, answer.diagnosis, support)
        )
        text = _report(posterior, simulations, answer)
        parts = [f"# {config.name}", text, versions_section(run), f"## This report\n\n{provenance.markdown()}"]
        folder.save_report("report", "\n\n".join(parts) + "\n", config.name)
    return str(folder)


def _save_draws(
    file: Path, provenance: Provenance, config: DictConfig, names: tuple[str, ...], answer: _Answer
) -> None:
    """A row for each draw: the parameters, the log-density in nats, its error, and the number of the observation."""
    heading, columns = [*names], [*answer.draws.T]
    if answer.log_prob is not None and answer.error is not None:
        heading += ["log_prob", "log_prob_error"]
        columns += [answer.log_prob, answer.error]
    if len(answer.draws) > config.draws:
        heading.append("observation")
        columns.append(np.arange(len(answer.draws)) // config.draws)
    with file.open("w", newline="", encoding="utf-8") as opened:
        opened.write(provenance.comment())
        writer = csv.writer(opened)
        writer.writerow(heading)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def _of_prior(posterior: SimulationPosterior, names: tuple[str, ...]) -> str:
    """Which prior was taken: the bounds of each parameter."""
    bounds = zip(names, posterior.parameters_.lower.tolist(), posterior.parameters_.upper.tolist(), strict=True)
    said = [
        f"{name} without bounds" if np.isinf([low, high]).all() else f"{name} from {low:g} to {high:g}"
        for name, low, high in bounds
    ]
    return (
        f"The prior is the density that the parameters of the simulations were drawn from: {', '.join(said)}. "
        "`prior.lower` and `prior.upper` set the bounds."
    )


def _report(posterior: SimulationPosterior, simulations: Simulations, answer: _Answer) -> str:
    """The parameters in a table, the diagnosis, and what a reader must know of both."""
    rows = ["| parameter | mean | standard deviation | 5% | 50% | 95% |", "| --- | --- | --- | --- | --- | --- |"]
    for name, column in zip(simulations.names, answer.draws.T, strict=True):
        quantiles = " | ".join(f"{q:.5g}" for q in np.quantile(column, [0.05, 0.5, 0.95]))
        spread = f"{column.std(ddof=1):.5g}" if len(column) > 1 else "not known of one draw"
        rows.append(f"| {name} | {column.mean():.5g} | {spread} | {quantiles} |")
    density = (
        "In `draws.csv`, `log_prob` is in nats, in the units of the parameters. `log_prob_error` is its numerical "
        "error, a standard deviation. It does not say how far the model is from the true posterior."
    )
    if answer.log_prob is None:
        density = "The posterior given repeated observations is composed of single ones, and its density is not known."
    found = "\n".join(f"- {line}" for line in str(answer.diagnosis).splitlines())
    gain = ", ".join(f"{one:.2f}" for one in posterior.gains_)
    warned = "".join(f"\n\nWarning: {one}." for one in answer.warned)
    return (
        f"## Parameters\n\n{len(answer.draws)} draws in all.{warned}\n\n" + "\n".join(rows) + f"\n\n{density}\n\n"
        f"{_of_prior(posterior, simulations.names)}\n\n"
        f"## Diagnosis\n\nOn simulations that were not used in training:\n\n{found}\n\n"
        f"The networks gain {gain} nats a simulation over a normal posterior whose mean is linear in the observation."
        "\n\nThe picture shows a histogram of each parameter, and the diagnosis.\n\n![posterior](posterior.png)"
    )
