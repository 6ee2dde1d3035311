"""Sample a density known up to its constant by Langevin dynamics."""

from __future__ import annotations

import importlib.util

import numpy as np
from omegaconf import DictConfig

from backdrift.evaluation.chain_report import moments, outcome, summary, warnings
from backdrift.evaluation.figures import chains as chain_figures
from backdrift.evaluation.report import versions_section
from backdrift.models.targets import ExampleDensity
from backdrift.runs.configuration import build
from backdrift.runs.interruption import advising
from backdrift.runs.output import renewed_results
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.solvers import MALA, Chains, mcmc
from backdrift.solvers.langevin.sampler import Sampler

REFERENCE_WARMUP = 1000
"""Steps before the first draw of the reference run."""


def main(config: DictConfig) -> None:
    """Write `draws.npz`, `trace.png`, `density.png`, `report.md` and `report.html` into a new run folder.

    Raises:
        ValueError: if arviz-stats is not installed.
    """
    target: ExampleDensity = build(config, "target")
    sampler: Sampler = build(config, "sampler")
    if config.temperature != 1:
        target = target.tempered(config.temperature)
    if importlib.util.find_spec("arviz_stats") is None:
        raise ValueError("R-hat and effective sample sizes come from arviz-stats: pip install 'backdrift[langevin]'")
    with advising("interrupted; nothing is kept"):
        chains = _sample(config, target, sampler)
        reference = _sample_reference(config, target) if config.reference and target.mean is None else None

    run = Run.create(config)
    try:
        _write(run, config, target, sampler, chains, reference)
    except BaseException:
        run.discard()
        raise
    files = (str(run.path / name) for name in ("report.md", "report.html", "trace.png", "density.png"))
    print("\n".join([outcome(chains, sampler), *warnings(chains, sampler), *files]))


def _write(
    run: Run,
    config: DictConfig,
    target: ExampleDensity,
    sampler: Sampler,
    chains: Chains,
    reference: Chains | None,
) -> None:
    """Write the draws, the pictures and the report, all of them or none."""
    provenance = Provenance.now(run, sampler, config.seed)
    parts = [f"# {config.name}", summary(chains, sampler), moments(chains, target, reference)]
    parts += ["![chains](trace.png)", "![density](density.png)", versions_section(run)]
    parts.append(f"## This report\n\n{provenance.markdown()}")
    with renewed_results(run, provenance) as folder:
        with folder.new("draws.npz") as file:
            np.savez(file, draws=chains.draws.numpy(), provenance=np.array(provenance.to_json()))
        folder.save_figure("trace.png", chain_figures.trace(chains, target.coordinates))
        folder.save_figure("density.png", chain_figures.density(chains, target, reference))
        folder.save_report("report", "\n\n".join(parts) + "\n", config.name)


def _sample(config: DictConfig, target: ExampleDensity, sampler: Sampler) -> Chains:
    """The chains that the config asks for, with a progress bar."""
    with Progress("chains", config.warmup + config.draws * config.thin, "step") as progress:
        return mcmc(
            target,
            sampler,
            target.start(config.chains, config.seed),
            config.draws,
            warmup=config.warmup,
            thin=config.thin,
            whitening=config.whitening,
            seed=config.seed,
            on_step=lambda _: progress.advance(),
        )


def _sample_reference(config: DictConfig, target: ExampleDensity) -> Chains:
    """A long run of MALA to compare with, from other starts and with other random numbers."""
    seed = config.seed + 1
    with Progress("reference", REFERENCE_WARMUP + config.reference, "step") as progress:
        return mcmc(
            target,
            MALA(),
            target.start(max(4, config.chains), seed),
            config.reference,
            warmup=REFERENCE_WARMUP,
            whitening="dense",
            seed=seed,
            on_step=lambda _: progress.advance(),
        )
