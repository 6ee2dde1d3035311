"""Compiled solves: the samples of the solver itself, in one graph that is made once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from solver_list import SOLVERS
from torch import Tensor

from backdrift.models import MLP, Denoiser, GaussianMixture
from backdrift.sde import VE, VP, FunctionModel, Time
from backdrift.solvers import DDIM, Adams, Adaptive, Compiled, TableSolver, compilation, sample

TABLES = {name: solver for name, solver in SOLVERS.items() if isinstance(solver, TableSolver)}

Graphs = list[torch.fx.GraphModule]


def mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), 0.1, sde=VP())


@functools.cache
def network(classes: int = 0) -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(MLP(2, hidden=8, depth=1, classes=classes), VP(), 0.7).eval().requires_grad_(False)
    for value in made.network.parameters():
        value.normal_(std=0.3)  # the last layer starts at zero
    return made


@pytest.mark.parametrize(
    "name",
    [
        "ddim_eta",
        "unipc",
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted({*TABLES} - {"ddim_eta", "unipc"})),
    ],
)
def test_samples_are_those_of_the_solver(name: str, graphs: Graphs) -> None:
    solver = dataclasses.replace(TABLES[name], steps=3)
    compiled = Compiled(solver)
    for first in (0, 7):  # another part of the same seed takes the same graph
        found = sample(mixture(), compiled, (7, 2), seed=3, first=first)
        expected = sample(mixture(), solver, (7, 2), seed=3, first=first)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


def test_normal_data_come_out_with_their_moments(graphs: Graphs) -> None:
    """For data N(m, v) the flow maps x_T to m + sqrt(v) (x_T - alpha_T m)/std_T."""
    mean, variance = 0.3, 0.25
    model = GaussianMixture(torch.full((1, 2), mean, dtype=torch.float64), variance, sde=VP())
    x = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
    alpha, sigma = (float(part(1.0)) for part in (VP().alpha, VP().sigma))
    exact = mean + variance**0.5 * (x - alpha * mean) / (sigma**2 + alpha**2 * variance) ** 0.5
    found = sample(model, Compiled(Adams(steps=8)), x_T=x)
    torch.testing.assert_close(found, sample(model, Adams(steps=8), x_T=x), rtol=1e-12, atol=1e-12)
    error = float((found - exact).abs().max())
    assert error < 0.01, error  # Adams in 8 steps


def test_a_smaller_batch_takes_the_graph_of_a_larger_one(graphs: Graphs) -> None:
    solver = DDIM(steps=4, eta=1.0)
    compiled = Compiled(solver)
    whole = sample(mixture(), compiled, (8, 2), seed=1)
    part = sample(mixture(), compiled, (3, 2), seed=1, first=5)
    assert part.shape == (3, 2)
    torch.testing.assert_close(part, whole[5:], rtol=1e-6, atol=1e-6)
    assert len(graphs) == 1
    torch.testing.assert_close(
        sample(mixture(), compiled, (9, 2), seed=1)[:8], whole, rtol=1e-6, atol=1e-6
    )  # a larger one does not
    assert len(graphs) == 2


def test_a_smaller_batch_keeps_its_classes(graphs: Graphs) -> None:
    solver, labels = Adams(steps=4), torch.arange(6) % 3
    compiled = Compiled(solver)
    sample(network(3).given(labels), compiled, (6, 2))
    found = sample(network(3).given(labels[4:]), compiled, (2, 2), first=4)
    expected = sample(network(3).given(labels[4:]), solver, (2, 2), first=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1  # other classes of the same model are no reason to compile again


@pytest.mark.slow
def test_a_changed_model_gives_its_own_samples(graphs: Graphs) -> None:
    """Neither new weights, nor another width of the data, nor another process are overlooked."""
    solver = Adams(steps=2)
    compiled = Compiled(solver)
    model = Denoiser(MLP(2, hidden=8, depth=1), VP(), 0.7).eval().requires_grad_(False)
    for change in ("none", "weights", "width", "process"):
        if change == "weights":
            model.network.get_submodule("last").bias.copy_(torch.tensor([1.0, -2.0]))  # type: ignore[operator]
        if change == "width":
            model.data_std = 1.4
        chosen = model.under(VE()) if change == "process" else model
        found, expected = (sample(chosen, each, (5, 2)) for each in (compiled, solver))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_a_graph_cannot_do_is_refused_in_one_line(graphs: Graphs) -> None:
    with pytest.raises(ValueError, match=r"^compile: expected a solver on a fixed grid.*got Adaptive.*$"):
        Compiled(Adaptive())
    with pytest.raises(ValueError, match=r"^on_step: expected None, and no trajectory.*Adams without Compiled$"):
        sample(mixture(), Compiled(Adams(steps=3)), (2, 2), trajectory=True)

    def reads_a_number(x: Tensor, t: Time) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    model = FunctionModel(reads_a_number, VP(), predicts="denoised")
    with pytest.raises(ValueError, match=r"^compile: expected a solve that torch.compile can make one graph of.*$"):
        sample(model, Compiled(Adams(steps=3)), (2, 2))


def test_a_missing_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._inductor.exc import InvalidCxxCompiler

        raise InvalidCxxCompiler

    monkeypatch.setattr(compilation, "BACKEND", missing)
    with pytest.raises(ValueError, match=r"^compile: torch.compile found no C\+\+ compiler.*compile=false.*$"):
        sample(mixture(), Compiled(Adams(steps=3)), (2, 2))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_machine_code_gives_the_same_samples(name: str) -> None:
    solver = dataclasses.replace(TABLES[name], steps=5)
    compiled = Compiled(solver)
    for model in (mixture(), network()):
        found, expected = (sample(model, each, (6, 2), seed=2) for each in (compiled, solver))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
