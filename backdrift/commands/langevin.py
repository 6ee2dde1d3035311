"""Sample a density known up to its constant by Langevin dynamics."""

from __future__ import annotations

import importlib.util

import numpy as np
from omegaconf import DictConfig

from backdrift.evaluation import chain_figures
from backdrift.evaluation.chain_report import moments, summary, warnings
from backdrift.evaluation.report import versions_section
from backdrift.models.targets import ExampleDensity
from backdrift.runs.configuration import build
from backdrift.runs.progress import bar
from backdrift.runs.run import Run
from backdrift.solvers import MALA, mcmc


def main(config: DictConfig) -> None:
    """Write `draws.npz`, `trace.png`, `density.png` and `report.md` into a new run folder.

    Raises:
        ValueError: if `chains` or `reference` is out of range.
    """
    if config.chains < 1:
        raise ValueError(f"chains={config.chains}: expected at least 1")
    if config.reference < 0:
        raise ValueError(f"reference={config.reference}: expected 0 or more draws")
    target: ExampleDensity = build(config, "target")
    sampler = build(config, "sampler")
    if config.temperature != 1:
        target = target.tempered(config.temperature)
    _require_diagnostics()
    with bar(config.warmup + config.draws * config.thin) as on_step:
        chains = mcmc(
            target,
            sampler,
            target.start(config.chains, config.seed),
            config.draws,
            warmup=config.warmup,
            thin=config.thin,
            whitening=config.whitening,
            seed=config.seed,
            on_step=on_step,
        )
    reference = None
    if config.reference and target.mean is None:
        # Other starts and other random numbers than those of the run.
        seed = config.seed + 1
        starts = target.start(max(4, config.chains), seed)
        with bar(1000 + config.reference) as on_step:
            reference = mcmc(
                target,
                MALA(),
                starts,
                config.reference,
                warmup=1000,
                whitening="dense",
                seed=seed,
                on_step=on_step,
            )

    run = Run.create(config)
    np.savez(run.path / "draws.npz", draws=chains.draws.numpy())
    chain_figures.trace(chains, target.coordinates).savefig(run.path / "trace.png")
    chain_figures.density(chains, target, reference).savefig(run.path / "density.png")
    parts = [f"# {config.name}", summary(chains, sampler), moments(chains, target, reference), versions_section(run)]
    (run.path / "report.md").write_text("\n\n".join(parts) + "\n")
    ess, rhat = float(chains.ess("bulk").min()), float(chains.rhat().max())
    print(
        f"{config.chains} chains of {config.draws} draws by {sampler} in {chains.seconds:.1f} s: "
        f"acceptance {float(chains.acceptance[:, 0].mean()):.2f}, R-hat at most {rhat:.3f}, "
        f"effective draws at least {ess:.0f}, {ess / chains.seconds:.0f} a second"
    )
    print(
        "\n".join([*warnings(chains, sampler), *(str(run.path / f) for f in ("report.md", "trace.png", "density.png"))])
    )


def _require_diagnostics() -> None:
    """Raise `ValueError` if R-hat and effective sizes cannot be had, before any time is spent."""
    if importlib.util.find_spec("arviz_stats") is None:
        raise ValueError("R-hat and effective sample sizes come from arviz-stats: pip install arviz-stats")
