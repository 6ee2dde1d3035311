"""The pictures of a run: its samples, their way from noise to data, and the training loss."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.metrics import Estimate
from backdrift.runs.output import OutputFolder
from backdrift.runs.run import Run
from backdrift.solvers import Solver, sample
from backdrift.solvers.model import ModelLike

LEVELS = (8.0, 0.05, 8)
"""Pictures on their way are drawn at so many levels of noise: from 8 to 0.05 times the standard deviation of the data,
where they take shape."""


def draw_pictures(folder: OutputFolder, run: Run, model: ModelLike, data: Data, solver: Solver, n: int = 64) -> str:
    """Write `samples.png`, `trajectory.png` and `loss.png`, and say how the samples' values compare with real ones.

    Args:
        folder: where the pictures go.
        run: whose losses are drawn.
        model: what is sampled.
        data: its test set is drawn beside the samples.
        solver: how samples are made.
        n: number of samples of pictures; others have 500, or as many as there are test samples.
    """
    n = n if data.units.is_picture else min(500, len(data.test))
    sde = model.sde
    path = sample(model, solver, (n, *sde.state_shape(data.shape)), seed=0, trajectory=True)
    real = readable_data(data.units, data.test[: max(n, 64)])
    generated = readable(data.units, sde.position(path.x).cpu())
    folder.save_figure("samples.png", figures.samples(generated, real, columns=data.columns))
    times, states = path.times.double(), torch.stack([sde.position(state) for state in path.states])
    times, states, ratio = _at_the_spread_of_the_data(model, data, times, states)
    drawn = torch.stack([readable(data.units, state) for state in states])
    way = figures.trajectory(drawn, times.tolist(), real, ratio.tolist(), data.columns)
    folder.save_figure("trajectory.png", way)
    rows = [row for row in run.read_metrics() if "loss" in row]
    if rows:
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        measured = {row["step"]: row["held_out"] for row in rows if "held_out" in row}
        last = held_out_loss(run)
        if last is not None:
            measured[last[0]] = last[1].value
        folder.save_figure("loss.png", figures.loss_curve(steps, losses, window=10, held_out=measured))
    return _compared_in_words(data, generated, real)


def _compared_in_words(data: Data, generated: Tensor, real: Tensor) -> str:
    """Whether the means of samples agree with those of real ones."""
    broken = int((~generated.flatten(1).isfinite().all(1)).sum())
    if broken:
        return f"{broken} of the {len(generated)} samples are not finite."
    if data.units.is_picture:
        return _brightness_in_words(generated.double(), real.double())
    return _means_in_words(*(data.units.standardised(x).flatten(1).double() for x in (generated, real)))


def _means_in_words(generated: Tensor, real: Tensor) -> str:
    """Whether the mean of each component agrees with that of the test set, at a level of 5% for all together.

    Args:
        generated, real: `[n, d]` each, in standard deviations of the components.
    """
    gap = (generated.mean(0) - real.mean(0)).abs()
    numbers = f"the largest difference of {gap.numel()} components is {float(gap.max()):.2g} standard deviations"
    if min(len(generated), len(real)) < 2:
        return f"Of the means of samples and test set, {numbers}."
    error = (generated.var(0) / len(generated) + real.var(0) / len(real)).sqrt()
    most = NormalDist().inv_cdf(1 - 0.025 / gap.numel())  # Bonferroni's bound
    if bool((gap <= most * error).all()):
        return f"The means of the samples agree with those of the test set within their errors: {numbers}."
    return f"The means of the samples differ from those of the test set by more than their errors: {numbers}."


def _brightness_in_words(generated: Tensor, real: Tensor) -> str:
    """Whether samples are as bright as real pictures, by the standard error of the mean over pictures.

    Args:
        generated, real: brightness from 0 to 1, `[n, channels, height, width]` each.
    """
    of_samples, of_test = generated.flatten(1).mean(1), real.flatten(1).mean(1)
    gap = float(of_samples.mean() - of_test.mean())
    numbers = (
        f"mean brightness {float(of_samples.mean()):.3f} against {float(of_test.mean()):.3f}, standard deviation of "
        f"all pixels {float(generated.std()):.3f} against {float(real.std()):.3f}"
    )
    if min(len(of_samples), len(of_test)) < 2:
        return f"Samples and test set have {numbers}."
    error = math.sqrt(float(of_samples.var()) / len(of_samples) + float(of_test.var()) / len(of_test))
    if abs(gap) <= 2 * error:
        return f"The samples are as bright as the test set, within two standard errors ({numbers})."
    return f"The samples are {'brighter' if gap > 0 else 'darker'} than the test set ({numbers})."


def held_out_loss(run: Run) -> tuple[int, Estimate] | None:
    """The step and the held-out loss that the end of a training has written, or None."""
    try:
        found = json.loads((run.path / "held_out.json").read_text(encoding="utf-8"))
        return int(found["step"]), Estimate(float(found["loss"]), float(found["standard_error"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _at_the_spread_of_the_data(
    model: ModelLike, data: Data, times: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, states and sigma/alpha, each state scaled to the standard deviation d of the data:

        x_t d / sqrt(alpha^2 d^2 + sigma^2).

    Of pictures only the states nearest to `LEVELS` are kept, with the first and the last.
    """
    alpha, sigma = model.sde.position_marginal(times)
    alpha = torch.where(times > 0, alpha, 1.0)
    ratio = torch.where(times > 0, sigma / alpha, 0.0)
    if data.units.is_picture:
        most, least, count = LEVELS
        levels = data.std * torch.logspace(
            math.log10(most), math.log10(least), int(count), dtype=torch.float64, device="cpu"
        )
        nearest = (ratio[:-1].log() - levels.log()[:, None]).abs().argmin(1)
        kept = sorted({0, *nearest.tolist(), len(times) - 1})
        times, states, alpha, ratio = times[kept], states[kept], alpha[kept], ratio[kept]
    scale = 1 / (alpha * torch.sqrt(1 + (ratio / data.std).square()))
    return times, states * scale.to(states).reshape(-1, *(1,) * (states.ndim - 1)), ratio
