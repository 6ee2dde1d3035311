"""The report of Markov chains: how they went, moments with their errors, and warnings."""

from __future__ import annotations

from torch import Tensor

from backdrift.evaluation.metrics import Estimate
from backdrift.models.targets import ExampleDensity
from backdrift.solvers import Chains
from backdrift.solvers.langevin.sampler import Sampler

LARGEST_RHAT, FEWEST_DRAWS = 1.01, 400
"""Beyond these the draws are not to be trusted (Vehtari et al. 2021)."""


def outcome(chains: Chains, sampler: Sampler) -> str:
    """One line on how the chains went."""
    n, draws = chains.draws.shape[:2]
    effective = float(chains.ess("bulk").min())
    return (
        f"{n} chains of {draws} draws by {sampler} in {chains.seconds:.1f} s: "
        f"acceptance {float(chains.acceptance[:, 0].mean()):.2f}, R-hat at most {float(chains.rhat().max()):.3f}, "
        f"effective draws at least {effective:.0f}, {effective / chains.seconds:.0f} a second"
    )


def summary(chains: Chains, sampler: Sampler) -> str:
    """What was run and how it went: a table, warnings, and the bias of an unadjusted sampler."""
    n, draws = chains.draws.shape[:2]
    effective = float(chains.ess("bulk").min())
    lines = [
        f"`{sampler}`, {n} chains of {draws} draws, seed {chains.seed}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| largest R-hat | {float(chains.rhat().max()):.4f} |",
        f"| fewest effective draws (bulk) | {effective:.0f} |",
        f"| fewest effective draws per second | {effective / chains.seconds:.0f} |",
        f"| fewest effective draws per gradient | {effective / (n * chains.gradients):.4f} |",
        f"| gradients | {n * chains.gradients}, and {n * chains.warmup_gradients} in warm-up |",
        f"| seconds | {chains.seconds:.1f} |",
        *_acceptance_rows(chains, sampler),
    ]
    if chains.exchange is not None:
        rates = ", ".join(f"{float(rate):.2f}" for rate in chains.exchange.mean(0))
        lines.append(f"| exchanges of neighbouring temperatures | {rates} |")
    if not sampler.adjusted:
        error = float(chains.energy_error.mean())
        lines.append(f"| mean square energy error of a step over the dimension | {error:.2e} |")
    notes = [f"**{line}**" for line in warnings(chains, sampler)]
    if not sampler.adjusted:
        notes.append("This sampler has a bias that no number of draws takes away. Compare it with an adjusted one.")
    return "\n\n".join(["\n".join(lines), *notes])


def _acceptance_rows(chains: Chains, sampler: Sampler) -> list[str]:
    """Rows of the table on acceptance and step size, at each temperature."""
    kind = "acceptance" if sampler.adjusted else "acceptance that the steps would have had"
    rows = []
    for k, temperature in enumerate(sampler.temperatures):
        at = f" at temperature {temperature:g}" if len(sampler.temperatures) > 1 else ""
        step, rate = chains.step[:, k], chains.acceptance[:, k]
        rows += [
            f"| {kind}{at} | {float(rate.mean()):.3f} ({float(rate.min()):.3f} to {float(rate.max()):.3f}) |",
            f"| step{at}, over chains | {float(step.min()):.4g} to {float(step.max()):.4g} |",
        ]
    return rows


def warnings(chains: Chains, sampler: Sampler) -> list[str]:
    """Why the draws are not to be trusted, and what to do about it; empty if nothing is wrong."""
    found = []
    if not float(chains.rhat().max()) < LARGEST_RHAT:
        cures = ["take more draws and warmup"]
        if len(sampler.temperatures) == 1:
            cures.append("sampler=tempering where there are separate modes")
        if not sampler.jitter:
            cures.append("sampler=malt_jitter whitening=none where the scale changes from place to place")
        found.append(f"R-hat above {LARGEST_RHAT}: the chains disagree; {', or '.join(cures)}.")
    if float(chains.ess("bulk").min()) < FEWEST_DRAWS:
        found.append(f"Fewer than {FEWEST_DRAWS} effective draws: the standard errors are not reliable either.")
    return found


def moments(chains: Chains, target: ExampleDensity, reference: Chains | None) -> str:
    """A table of each component's mean and standard deviation, with Monte Carlo errors.

    Beside them stand the exact values or those of a long reference run, if either is known.
    """
    mean, sd = chains.mean(), chains.sd()
    errors = chains.standard_error("mean"), chains.standard_error("sd")
    bulk, tail, rhat = chains.ess("bulk"), chains.ess("tail"), chains.rhat()
    other = truth(target, reference)
    head = ["", "mean", "sd", "R-hat", "bulk", "tail"]
    text = "## Moments\n\n± is the Monte Carlo standard error. *bulk* and *tail* are effective numbers of draws."
    if other is not None:
        head[3:3] = ["reference mean", "reference sd", "z of the mean", "z of the sd"]
        kind = "exact" if reference is None else f"those of {reference.draws.shape[:2].numel()} draws by MALA"
        text += f" The reference values are {kind}. z is the difference to them over its standard error."
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for i, name in enumerate(target.coordinates):
        cells = [name, _with_error(mean[i], errors[0][i]), _with_error(sd[i], errors[1][i])]
        if other is not None:
            z = (mean - other[0]) / (errors[0].square() + other[2].square()).sqrt()
            z_sd = (sd - other[1]) / (errors[1].square() + other[3].square()).sqrt()
            cells += [f"{float(other[0][i]):.4g}", f"{float(other[1][i]):.4g}"]
            cells += [f"{float(z[i]):.1f}", f"{float(z_sd[i]):.1f}"]
        cells += [f"{float(rhat[i]):.4f}", f"{float(bulk[i]):.0f}", f"{float(tail[i]):.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([text, "", *rows])


def truth(target: ExampleDensity, reference: Chains | None) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Mean and standard deviation to compare with, and their standard errors; None if nothing is known."""
    if target.mean is not None and target.sd is not None:
        return target.mean, target.sd, 0 * target.mean, 0 * target.sd
    if reference is None:
        return None
    return reference.mean(), reference.sd(), reference.standard_error("mean"), reference.standard_error("sd")


def _with_error(value: Tensor, error: Tensor) -> str:
    return str(Estimate(float(value), float(error)))
