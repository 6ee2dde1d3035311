"""What Markov chains tell of themselves: how they went, moments with errors, and warnings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from backdrift.evaluation.metrics import Estimate
from backdrift.models.targets import ExampleDensity
from backdrift.solvers import Chains


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


def moments(chains: Chains, target: ExampleDensity, reference: Chains | None) -> str:
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


def truth(target: ExampleDensity, reference: Chains | None) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Mean and standard deviation to compare with, and their standard errors; None where nothing is known."""
    if target.mean is not None and target.sd is not None:
        return target.mean, target.sd, 0 * target.mean, 0 * target.sd
    if reference is None:
        return None
    return reference.mean(), reference.sd(), reference.standard_error("mean"), reference.standard_error("sd")


def pm(value: Tensor, error: Tensor) -> str:
    """A number with its standard error."""
    return str(Estimate(float(value), float(error)))
