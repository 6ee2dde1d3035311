"""The pictures of a run: its samples, their way from noise to data, and the training loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.data.views import readable, readable_data
from backdrift.evaluation import figures
from backdrift.runs.output import OutputFolder
from backdrift.runs.run import Run
from backdrift.solvers import Solver, sample
from backdrift.solvers.model import ModelLike

LEVELS = (8.0, 0.05, 8)
"""Pictures on their way are drawn at so many levels of noise: from 8 to 0.05 times the standard deviation of the data,
where they take shape."""


def draw_pictures(folder: OutputFolder, run: Run, model: ModelLike, data: Data, solver: Solver, n: int = 64) -> None:
    """Write `samples.png`, `trajectory.png` and `loss.png`.

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
        folder.save_figure("loss.png", figures.loss_curve(steps, losses, window=10))


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
