"""A model in training mode whose values are random is refused by whatever evaluates it, and its mode is left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from backdrift.models import MLP, Denoiser, Energy, diagnose_score, score_residual
from backdrift.sde import VP, FunctionModel
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.solvers import (
    DDIM,
    MALA,
    Adaptive,
    elbo,
    encode,
    log_likelihood,
    mcmc,
    sample,
    simulate,
)


def random_model() -> Denoiser:
    return Denoiser(MLP(2, 8, 1, dropout=0.5), VP()).double()


X = torch.zeros(3, 2, dtype=torch.float64)

USES: dict[str, Callable[[Denoiser], object]] = {
    "sample": lambda model: sample(model, DDIM(steps=3), (3, 2)),
    "solve": lambda model: DDIM(steps=3).solve(model, X),
    "adaptive": lambda model: sample(model, Adaptive(), (3, 2)),
    "likelihood": lambda model: log_likelihood(model, X),
    "elbo": lambda model: elbo(model, X),
    "encode": lambda model: encode(model, X),
    "simulate": lambda model: simulate(VP().reverse(model.score), X, [1.0, 0.5]),
    "diagnosis": lambda model: diagnose_score(model, X),
    "residual": lambda model: score_residual(model, X, 0.5),
}


@pytest.mark.parametrize("use", USES)
def test_dropout_in_training_mode_is_refused(use: str) -> None:
    model = random_model()
    with pytest.raises(ValueError, match=r": expected evaluation mode, but its Dropout is in training mode and draws"):
        USES[use](model)
    assert model.training and model.network.training
    USES[use](model.eval())


def test_a_chain_s_energy_is_in_evaluation_mode() -> None:
    energy = Energy(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))).double()
    with pytest.raises(ValueError, match=r"^target: expected evaluation mode, but its Dropout is in training mode"):
        mcmc(energy, MALA(step=0.1), X, 5)


class Wrapped(nn.Module):
    """A module that is not in training mode, around one that is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.training = False
        self.inner = inner


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout2d(0.1),
    "batch": lambda: nn.BatchNorm1d(3),
    "attention": lambda: nn.MultiheadAttention(4, 1, dropout=0.1),
    "recurrent": lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.1),
    "rectifier": lambda: nn.RReLU(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_modules_are_found_wherever_a_model_holds_them(name: str) -> None:
    module = nn.Sequential(nn.Linear(2, 2), RANDOM[name]())

    def function(x: Tensor, t: object) -> Tensor:
        return module(x)

    holders = [module, Wrapped(module), [module], {"a": (module,)}, function, partial(function, t=0), module.forward]
    for holder in [*holders, FunctionModel(function, VP())]:
        with pytest.raises(ValueError, match=r"^model: expected evaluation mode"):
            require_evaluation_mode(holder)
    module.eval()
    for holder in holders:
        require_evaluation_mode(holder)


def test_training_mode_without_random_parts_is_no_fault() -> None:
    require_evaluation_mode(Denoiser(MLP(2, dropout=0.0), VP()).train())
    require_evaluation_mode(nn.MultiheadAttention(4, 1))
    require_evaluation_mode(nn.LayerNorm(3))
