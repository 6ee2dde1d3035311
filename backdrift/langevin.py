"""Sample a density known up to its constant by Langevin dynamics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

if TYPE_CHECKING:
    from torch import Tensor

    from models.targets import Target
    from solvers import Chains


def main(config: DictConfig) -> None:
    """Write `draws.npz`, `trace.png`, `density.png` and `report.md` into a new run folder.

    Raises:
        ValueError: if `chains` or `reference` is out of range.
    """
    import numpy as np

    from backdrift import chain_figures
    from backdrift.configuration import build
    from backdrift.report import versions_section
    from backdrift.run import Run
    from solvers import MALA, mcmc

    if config.chains < 1:
        raise ValueError(f"chains={config.chains}: expected at least 1")
    if config.reference < 0:
        raise ValueError(f"reference={config.reference}: expected 0 or more draws")
    target: Target = build(config, "target")
    sampler = build(config, "sampler")
    if config.temperature != 1:
        target = target.tempered(config.temperature)
    require_diagnostics()
    with progress(config.warmup + config.draws * config.thin) as on_step:
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
        with progress(1000 + config.reference) as on_step:
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


def require_diagnostics() -> None:
    """Raise `ValueError` if R-hat and effective sizes cannot be had, before any time is spent."""
    import importlib.util

    if importlib.util.find_spec("arviz_stats") is None:
        raise ValueError("R-hat and effective sample sizes come from arviz-stats: pip install arviz-stats")


def progress(steps: int) -> Any:
    """A bar on a terminal, nothing elsewhere; gives a function to be called after each step."""
    import sys
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        with tqdm(total=steps, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()) as shown:
            yield lambda _: shown.update()

    return bar()


def summary(chains: Chains, sampler: Any) -> str:
    """What was run and how it went."""
    n, draws = chains.draws.shape[:2]
    ess = float(chains.ess("bulk").min())
    rhat = float(chains.rhat().max())
    lines = [
        f"`{sampler}`, {n} chains of {draws} draws, seed {chains.seed}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| largest R-hat | {rhat:.4f} |",
        f"| least effective draws (bulk) | {ess:.0f} |",
        f"| least effective draws a second | {ess / chains.seconds:.0f} |",
        f"| least effective draws a gradient | {ess / (n * chains.gradients):.4f} |",
        f"| gradients | {n * chains.gradients} ({n * chains.warmup_gradients} in warm-up) |",
        f"| seconds | {chains.seconds:.1f} |",
    ]
    temperatures = getattr(sampler, "temperatures", (1.0,))
    for k, temperature in enumerate(temperatures):
        at = f" at temperature {temperature:g}" if len(temperatures) > 1 else ""
        step, rate = chains.step[:, k], chains.acceptance[:, k]
        kind = "acceptance" if sampler.adjusted else "acceptance that its steps would have had"
        lines += [
            f"| {kind}{at} | {float(rate.mean()):.3f} ({float(rate.min()):.3f} to {float(rate.max()):.3f}) |",
            f"| step{at}, over chains | {float(step.min()):.4g} to {float(step.max()):.4g} |",
        ]
    if chains.exchange is not None:
        rates = ", ".join(f"{float(rate):.2f}" for rate in chains.exchange.mean(0))
        lines.append(f"| exchanges of neighbouring temperatures | {rates} |")
    if not sampler.adjusted:
        error = float(chains.energy_error.mean())
        lines.append(f"| mean square energy error of a step over the dimension | {error:.2e} |")
    told = [f"**{line}**" for line in warnings(chains, sampler)]
    if not sampler.adjusted:
        told.append("This sampler has a bias that no number of draws takes away; compare with an adjusted one.")
    return "\n\n".join(["\n".join(lines), *told])


def warnings(chains: Chains, sampler: Any) -> list[str]:
    """Why not to trust the draws, and what to do."""
    told = []
    if not float(chains.rhat().max()) < 1.01:
        cures = ["take more draws and warmup"]
        if len(sampler.temperatures) == 1:
            cures.append("sampler=tempering where there are separate modes")
        if not sampler.jitter:
            cures.append("sampler=malt_jitter whitening=none where the scale changes from place to place")
        told.append(f"R-hat above 1.01: the chains disagree; {', or '.join(cures)}.")
    if float(chains.ess("bulk").min()) < 400:
        told.append("Fewer than 400 effective draws: the standard errors themselves are not to be trusted.")
    return told


def moments(chains: Chains, target: Target, reference: Chains | None) -> str:
    """Mean and standard deviation of each component with Monte Carlo errors, beside the truth or a long run."""
    mean, sd = chains.mean(), chains.sd()
    errors = chains.standard_error("mean"), chains.standard_error("sd")
    bulk, tail, rhat = chains.ess("bulk"), chains.ess("tail"), chains.rhat()
    other = truth(target, reference)
    head = ["", "mean", "sd", "R-hat", "bulk", "tail"]
    title = "## Moments\n\n± is the Monte Carlo standard error; bulk and tail are effective numbers of draws"
    if other is not None:
        head[3:3] = ["its mean", "its sd", "z of the mean", "z of the sd"]
        kind = "exact values" if reference is None else f"a MALA run of {reference.draws.shape[:2].numel()} draws"
        title += f"; *its* are {kind}, z the difference over the standard error"
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for i, name in enumerate(target.coordinates):
        cells = [name, pm(mean[i], errors[0][i]), pm(sd[i], errors[1][i])]
        if other is not None:
            z = (mean - other[0]) / (errors[0].square() + other[2].square()).sqrt()
            z_sd = (sd - other[1]) / (errors[1].square() + other[3].square()).sqrt()
            cells += [f"{float(other[0][i]):.4g}", f"{float(other[1][i]):.4g}"]
            cells += [f"{float(z[i]):.1f}", f"{float(z_sd[i]):.1f}"]
        cells += [f"{float(rhat[i]):.4f}", f"{float(bulk[i]):.0f}", f"{float(tail[i]):.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([title + ".", "", *rows])


def truth(target: Target, reference: Chains | None) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Mean and standard deviation to compare with, and their standard errors; None where nothing is known."""
    if target.mean is not None and target.sd is not None:
        return target.mean, target.sd, 0 * target.mean, 0 * target.sd
    if reference is None:
        return None
    return reference.mean(), reference.sd(), reference.standard_error("mean"), reference.standard_error("sd")


def pm(value: Tensor, error: Tensor) -> str:
    """A number with its standard error."""
    from backdrift.metrics import Estimate

    return str(Estimate(float(value), float(error)))
