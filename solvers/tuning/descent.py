"""Gradient descent on the parameters of a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from backdrift.solvers.solver import Solver

Solvers = TypeVar("Solvers", bound=Solver)


def descend(
    parameters: list[Tensor],
    loss: Callable[..., Tensor],
    solver: Callable[..., Solvers],
    score: Callable[[Solvers], float],
    iterations: int,
    rate: float,
    on_iteration: Callable[[int, Solvers], None] | None = None,
) -> tuple[Solvers, list[Tensor]]:
    """Minimise a loss with Adam, and return the solver with the smallest score found on the way.

    The score is computed at the start and after every ten iterations. The descent stops early if a gradient is not
    finite.

    Args:
        parameters: the parameters to start from.
        loss: the loss as a differentiable function of the parameters.
        solver: makes a solver from the parameters.
        score: the score of a solver. Smaller is better.
        iterations: the number of iterations of Adam.
        rate: the learning rate at the start. It falls to 0 along a cosine.
        on_iteration: called before each iteration, and at the end, with the number of iterations done and the best
            solver so far.

    Returns:
        The solver with the smallest score, and its parameters.
    """
    now = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    optimiser = torch.optim.Adam(now, lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    kept, least = [parameter.detach().clone() for parameter in now], math.inf
    for iteration in range(iterations + 1):
        if iteration % 10 == 0 or iteration == iterations:
            here = [parameter.detach().clone() for parameter in now]
            reached = score(solver(*here))
            if reached < least:
                kept, least = here, reached
        if on_iteration is not None:
            on_iteration(iteration, solver(*kept))
        if iteration == iterations:
            break
        gradients = torch.autograd.grad(loss(*now), now)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            break
        for parameter, gradient in zip(now, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(now, 1.0)
        optimiser.step()
        schedule.step()
    return solver(*kept), kept
