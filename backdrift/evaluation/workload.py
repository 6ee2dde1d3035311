"""How many samples a report can afford, counted in floating-point operations."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from backdrift.models import ConservativeDenoiser
from backdrift.solvers.model import ModelLike, place_of, score_of

WORK = 2e12
"""Floating-point operations that a large section of a report may cost: a fifth of those of the training of digits, so
that a whole report takes less than a third of it. `benchmarks/report_time.py` measures this. It is a number of
operations and not of seconds, so that a report does not depend on the machine."""

FEWEST, MOST = 24, 1000
"""Bounds on the number of samples, whatever an evaluation costs."""


def affordable(model: ModelLike, shape: tuple[int, ...], evaluations: int, share: float = 1.0) -> int:
    """How many samples can be evaluated for a share of `WORK`.

    Args:
        model: any model; one evaluation of it is counted.
        shape: of one sample of the data.
        evaluations: of the network, for each sample.
        share: of `WORK`.

    Returns:
        A number from `FEWEST` to `MOST`.
    """
    device, dtype = place_of(model)
    x = torch.zeros(1, *model.sde.state_shape(shape), device=device, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if isinstance(model, ConservativeDenoiser):
            # The counter does not see what is inside a gradient, which costs three times the function itself.
            model.network(x, torch.zeros(1, device=device, dtype=dtype))
        else:
            score_of(model)(x, torch.tensor(model.sde.T / 2, device=device, dtype=dtype))
    operations = (3 if isinstance(model, ConservativeDenoiser) else 1) * max(1, counter.get_total_flops())
    return int(min(MOST, max(FEWEST, share * WORK / (evaluations * operations))))
