"""Odd calls of solvers. The normal suite has a sample of them, and all of them are slow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from odd_calls import INF, NAN, NORMAL, Call, D, X, a_few, model, network, outcome, require_right, state
from torch import Tensor

from backdrift import models, sde, solvers
from backdrift.models import (
    GaussianMixture,
)


def seeds_and_sizes() -> list[Call]:
    """How many samples, and of which seed."""
    ddim = solvers.DDIM(steps=4)
    own = NORMAL
    draw = solvers.sample
    whole = draw(own, solvers.Ancestral(steps=3), (4, 2), seed=3)
    last = draw(own, ddim, (3, 2), seed=2, first=2**62)[2:]
    calls: list[Call] = []
    for name, shape in {
        "an empty shape": (), "only a batch": (3,), "a negative batch": (-1, 2), "half a sample": (2.5, 2),
        "a text": "32", "a bool": (True, 2), "None inside": (None, 2), "too much": (2**40, 2**40),
    }.items():  # fmt: skip
        calls.append(Call(f"shape is {name}", partial(draw, own, ddim, shape), "shape: "))
    for name, seed in {"-1": -1, "1.5": 1.5, "text": "1", "None": None, "True": True}.items():
        calls.append(Call(f"seed {name}", partial(draw, own, ddim, (3, 2), seed=seed), "seed: "))
    for name, first in {"-1": -1, "0.5": 0.5, "2**63": 2**63, "2**70": 2**70}.items():
        calls.append(Call(f"first {name}", partial(draw, own, ddim, (3, 2), first=first), "first: "))
    calls += [
        Call("no samples", lambda: draw(own, ddim, (0, 2)), torch.zeros(0, 2, dtype=D)),
        Call(
            "no samples, with noise", lambda: draw(own, solvers.Ancestral(steps=3), (0, 2)), torch.zeros(0, 2, dtype=D)
        ),
        Call("first 2**62", lambda: draw(own, ddim, (1, 2), seed=2, first=2**62 + 2), last),
        Call(
            "a huge seed",
            lambda: draw(own, ddim, (2, 2), seed=10**50)[1:],
            draw(own, ddim, (1, 2), seed=10**50, first=1),
        ),
        Call("a part of a batch", lambda: draw(own, solvers.Ancestral(steps=3), (2, 2), seed=3, first=2), whole[2:]),
    ]
    return calls


def starts_and_models() -> list[Call]:
    """Where samples start, and of which model."""
    ddim = solvers.DDIM(steps=4)
    own = NORMAL
    draw = solvers.sample
    return [
        Call("x_T of integers", lambda: draw(own, ddim, x_T=X.long()), "x_T: "),
        Call("x_T a vector", lambda: draw(own, ddim, x_T=X[0]), "x_T: "),
        Call("x_T nan", lambda: draw(own, ddim, x_T=X * NAN), "x_T: "),
        Call("x_T of other columns", lambda: draw(own, ddim, x_T=state(3, 5)), "x: "),
        Call("shape of other columns", lambda: draw(own, ddim, (3, 5)), "shape: "),
        Call("x_T and another shape", lambda: draw(own, ddim, (4, 2), x_T=X), "shape: "),
        Call("neither shape nor x_T", lambda: draw(own, ddim), "shape: "),
        Call(
            "float32 of a float64 model",
            lambda: draw(own, ddim, (3, 2), dtype=torch.float32),
            draw(own, ddim, (3, 2)).float(),
        ),
        Call("dtype of integers", lambda: draw(own, ddim, (3, 2), dtype=torch.long), "dtype: "),
        Call("dtype as text", lambda: draw(own, ddim, (3, 2), dtype="float32"), "dtype: "),  # type: ignore[call-overload]
        Call("no device", lambda: draw(own, ddim, (3, 2), device="nowhere"), "device: "),
        Call(
            "a device that is not there",
            lambda: draw(own, ddim, (3, 2), device="xpu:7"),
            "device: expected one that is there",
        ),
        Call("solver by name", lambda: draw(own, "ddim", (3, 2)), "solver: "),  # type: ignore[call-overload]
        Call("solver as a class", lambda: draw(own, solvers.DDIM, (3, 2)), "solver: "),  # type: ignore[call-overload]
        Call("model as a class", lambda: draw(GaussianMixture, ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("a network as a model", lambda: draw(network(), ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("no model", lambda: draw(None, ddim, (3, 2)), "model: "),  # type: ignore[call-overload]
        Call("dropout", lambda: draw(model(dropout=0.5), ddim, (3, 2)), "model: "),
        Call("dropout, evaluated", lambda: draw(model(dropout=0.5).eval(), ddim, (3, 2)), draw(model(), ddim, (3, 2))),
        Call("labels of another batch", lambda: draw(model(2).given(torch.tensor([0, 1])), ddim, (3, 2)), "label: "),
    ]


def steps_and_paths() -> list[Call]:
    """Steps, grids, random numbers and paths."""
    own = NORMAL
    draw = solvers.sample
    return [
        Call("a solver of steps 0", lambda: solvers.DDIM(steps=0), "steps: "),
        Call("a solver of steps 2.5", lambda: solvers.Heun(steps=2.5), "steps: "),  # type: ignore[arg-type]
        Call("eps after T", lambda: draw(own, solvers.DDIM(eps=2.0), (3, 2)), "eps: "),
        Call("grid unknown", lambda: draw(own, solvers.DDIM(grid="best"), (3, 2)), "grid: "),
        Call("grid outside", lambda: draw(own, solvers.DDIM(steps=3, grid=[2.0, 1.0, 0.1]), (3, 2)), "grid: "),
        Call("Noise of a negative seed", lambda: solvers.Noise(-1, (2, 2)), "seed: "),
        Call("Noise of no shape", lambda: solvers.Noise(0, ()), "shape: "),
        Call("simulation of integers", lambda: solvers.simulate(sde.VP(), X.long(), [0.0, 1.0]), "x0: "),
        Call("simulation beyond T", lambda: solvers.simulate(sde.VP(), X, [0.5, 1.5, 2.0]), "t: "),
        Call("simulation there and back", lambda: solvers.simulate(sde.VP(), X, [0.0, 1.0, 0.5]), "times: "),
        Call("simulation at nan", lambda: solvers.simulate(sde.VP(), X, [0.0, NAN]), "times: "),
        Call("simulation of one time", lambda: solvers.simulate(sde.VP(), X, [0.0])[0], X),
        Call("Brownian path outside", lambda: solvers.BrownianPath(0, (2, 2))(2.0), "t: "),
    ]


def estimators() -> list[Call]:
    """What every estimator of a density refuses."""
    calls: list[Call] = []
    estimators: dict[str, Callable[..., Any]] = {
        "log_likelihood": solvers.log_likelihood, "elbo": solvers.elbo, "log_density": solvers.log_density,
        "encode": solvers.encode, "entropy": solvers.entropy,
    }  # fmt: skip
    for name, call in estimators.items():
        calls += [
            Call(f"{name} of integers", partial(call, NORMAL, X.long()), "x: "),
            Call(f"{name} of nobody", partial(call, NORMAL, X[:0]), "x: "),
            Call(f"{name} of a vector", partial(call, NORMAL, X[0]), "x: "),
            Call(f"{name} of a list", partial(call, NORMAL, [[0.0, 1.0]]), "x: "),
            Call(f"{name} of other columns", partial(call, NORMAL, state(3, 5)), "x: "),
            Call(f"{name} of a network", partial(call, network(), X), "model: "),
            Call(f"{name} with dropout", partial(call, model(dropout=0.5), X), "model: "),
            Call(f"{name} with eps = 2", partial(call, NORMAL, X, eps=2.0), "eps: "),
        ]
        if name != "encode":
            calls.append(
                Call(f"{name} with seed -1", partial(call, NORMAL, X, seed=-1, **random_probes(call)), "seed: ")
            )
            calls.append(Call(f"{name} from -1", partial(call, NORMAL, X, first=-1, **random_probes(call)), "first: "))
    return calls


def random_probes(call: Callable[..., Any]) -> dict[str, Any]:
    """Exact divergences draw nothing, and need no seed."""
    return {"probes": 1} if call is solvers.log_likelihood else {}


def in_inference_mode(call: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return call().clone()


def likelihoods() -> list[Call]:
    """Log-likelihoods by the probability flow."""
    exact = torch.distributions.Normal(0, 1).log_prob(X).sum(1)
    likelihood = solvers.log_likelihood
    return [
        Call("log-likelihood of N(0, 1)", lambda: likelihood(NORMAL, X, prior=NORMAL).log_prob, exact),
        Call(
            "in inference mode", lambda: in_inference_mode(lambda: likelihood(NORMAL, X, prior=NORMAL).log_prob), exact
        ),
        Call("x with gradients", lambda: likelihood(NORMAL, X.clone().requires_grad_()), "x: "),
        Call("x of nan", lambda: likelihood(NORMAL, X * NAN), "x: "),
        Call("x of inf", lambda: likelihood(NORMAL, X * INF), "x: "),
        Call("no steps", lambda: likelihood(NORMAL, X, steps=0), "steps: "),
        Call("method unknown", lambda: likelihood(NORMAL, X, method="rk5"), "method: "),  # type: ignore[arg-type]
        Call("probes 'all'", lambda: likelihood(NORMAL, X, probes="all"), "probes: "),  # type: ignore[arg-type]
        Call("probes 0", lambda: likelihood(NORMAL, X, probes=0), "probes: "),
        Call("chunk 0", lambda: likelihood(NORMAL, X, chunk=0), "chunk: "),
        Call("rtol -1", lambda: likelihood(NORMAL, X, method="adaptive", rtol=-1.0), "rtol: "),
        Call("prior without density", lambda: likelihood(NORMAL, X, prior=3), "prior: "),  # type: ignore[arg-type]
        Call("calibration 0", lambda: likelihood(NORMAL, X, calibration=0.0), "calibration: "),
    ]


def codes_and_bounds() -> list[Call]:
    """Information, bounds, latent codes and chains of a model."""
    return [
        Call("information at 0", lambda: solvers.mutual_information(NORMAL, X, 0.0), "t: "),
        Call("information at 2", lambda: solvers.mutual_information(NORMAL, X, 2.0), "t: "),
        Call(
            "entropy relative to itself",
            lambda: torch.tensor(solvers.relative_entropy(NORMAL, NORMAL, X).value),
            torch.tensor(0.0),
        ),
        Call("no strata", lambda: solvers.elbo(NORMAL, X, strata=0), "strata: "),
        Call("decode integers", lambda: solvers.decode(NORMAL, X.long()), "latent: "),
        Call("decode and encode", lambda: solvers.decode(NORMAL, solvers.encode(NORMAL, X).latent), X),
        Call("interpolate other shapes", lambda: solvers.interpolate(NORMAL, X, X[:1]), "b: "),
        Call("interpolate in integers", lambda: solvers.interpolate(NORMAL, X, X.long()), "b: "),
        Call("one point between", lambda: solvers.interpolate(NORMAL, X, X, points=1), "points: "),
        Call("calibrate without exact", lambda: solvers.calibrate(NORMAL, X), "probes: "),
        Call("a position of VP", lambda: solvers.position_log_likelihood(NORMAL, X), "model: "),
        Call("chain at time 2", lambda: solvers.Chain(sde.VP(), [0.5, 2.0]), "times: "),
        Call("chain step 9", lambda: solvers.DDPM.linear(4).forward(X, 9), "i: "),
        Call("chain of betas 2", lambda: solvers.DDPM([0.1, 2.0]), "betas: "),
        Call("parts of no size", lambda: solvers.Independent([NORMAL], [0]), "sizes: "),
        Call("parts of another length", lambda: solvers.Independent([NORMAL], [2]).denoise(state(3, 3), 0.5), "x: "),
    ]


def chains() -> list[Call]:
    """Markov chains and tuning."""
    mala = solvers.MALA(step=0.5)
    density = models.LogDensity(lambda x: -0.5 * x.square().sum(1))
    run = solvers.mcmc
    return [
        Call("starts of integers", lambda: run(density, mala, X.long(), 5), "x0: "),
        Call("no chains", lambda: run(density, mala, X[:0], 5), "x0: "),
        Call("starts of nan", lambda: run(density, mala, X * NAN, 5), "x0: "),
        Call("no draws", lambda: run(density, mala, X, 0), "draws: "),
        Call("seed -1", lambda: run(density, mala, X, 5, seed=-1), "seed: "),
        Call("first -1", lambda: run(density, mala, X, 5, first=-1), "first: "),
        Call("thin 0", lambda: run(density, mala, X, 5, thin=0), "thin: "),
        Call("no target", lambda: run(3, mala, X, 5), "target: "),  # type: ignore[arg-type]
        Call("a model needs a time", lambda: run(model(), mala, X, 5), "target: "),
        Call("sampler as a class", lambda: run(density, solvers.MALA, X, 5), "sampler: "),  # type: ignore[arg-type]
        Call("step -1", lambda: solvers.MALA(step=-1.0), "step: "),
        Call("one value for all", lambda: run(lambda x: x.sum(), mala, X, 5), "target: "),
        Call(
            "chain 2 of 3 alone",
            lambda: run(density, mala, X[1:2], 5, first=1).draws,
            run(density, mala, X, 5).draws[1:2],
        ),
        Call("tune for 0 evaluations", lambda: solvers.tune(NORMAL, nfe=0, shape=(2,)), "nfe: "),
        Call("tune for no shape", lambda: solvers.tune(NORMAL, shape=()), "shape: "),
        Call("tune a random solver", lambda: solvers.tune(NORMAL, solvers.Ancestral(), shape=(2,)), "solver: "),
        Call("tune with dropout", lambda: solvers.tune(model(dropout=0.5), shape=(2,)), "model: "),
        Call("certify a name", lambda: solvers.certify("ddim"), "solver: "),  # type: ignore[arg-type]
        Call("uniform grid of no step", lambda: solvers.time_grid("uniform", sde.VP(), 0, 0.1), "steps: "),
        Call("grid back", lambda: solvers.time_grid([0.1, 1.0], sde.VP(), 1, 0.1), "grid: "),
    ]


def every_solver() -> list[Call]:
    """All solvers of the catalogue and the others: empty batches, parts of batches, and models that are none."""
    calls: list[Call] = []
    names = [
        "Adams", "Adaptive", "Ancestral", "DPMSolver", "DPMSolverPP2M", "DPMSolverPP2S", "DDIM", "Euler",
        "EulerMaruyama", "ExponentialRK3", "Heun", "TorchDiffEq", "IPNDM", "Restart",
        "ReverseDiffusion", "RungeKutta", "SASolver", "ScipyODE",
        "StochasticAdams", "TorchSDE", "UniPC", "AnnealedLangevin",
    ]  # fmt: skip
    for name in names:
        solver = getattr(solvers, name)(**({} if name in ("Adaptive", "ScipyODE", "TorchDiffEq") else {"steps": 4}))
        whole = solvers.sample(NORMAL, solver, (3, 2), seed=5)
        calls += [
            Call(f"{name}, nobody", partial(solvers.sample, NORMAL, solver, (0, 2)), torch.zeros(0, 2, dtype=D)),
            Call(f"{name}, a part", partial(solvers.sample, NORMAL, solver, (1, 2), seed=5, first=2), whole[2:]),
            Call(f"{name} of integers", partial(solvers.sample, NORMAL, solver, x_T=X.long()), "x_T: "),
            Call(f"{name} of other columns", partial(solvers.sample, NORMAL, solver, x_T=state(3, 5)), "x: "),
            Call(f"{name} with dropout", partial(solvers.sample, model(dropout=0.5), solver, (3, 2)), "model: "),
        ]
    return calls


def other_solvers() -> list[Call]:
    """Brownian paths and Langevin samplers."""
    return [
        Call("Brownian path of no depth", lambda: solvers.BrownianPath(0, (1, 2), depth=-1), "depth: "),
        Call(
            "Brownian path at its start",
            lambda: solvers.BrownianPath(0, (1, 2), dtype=D)(0.0),
            torch.zeros(1, 2, dtype=D),
        ),
        Call("Brownian path of no shape", lambda: solvers.BrownianPath(0, ()), "shape: "),
        Call("BAOAB friction -1", lambda: solvers.BAOAB(friction=-1.0), "friction: "),
        Call("ULA of a model", lambda: solvers.mcmc(NORMAL, solvers.ULA(step=0.1), X, 0), "draws: "),
        Call("ladder of one", lambda: solvers.ParallelTempering([], solvers.MALA(step=0.1)), "temperatures: "),
    ]


CALLS = [
    *seeds_and_sizes(),
    *starts_and_models(),
    *steps_and_paths(),
    *estimators(),
    *likelihoods(),
    *codes_and_bounds(),
    *chains(),
    *every_solver(),
    *other_solvers(),
]


@pytest.mark.parametrize("call", a_few(CALLS, 14), ids=lambda call: call.name)
def test_some_odd_calls(call: Call) -> None:
    assert outcome(call) in ("refused", "right")


@pytest.mark.slow
def test_all_odd_calls() -> None:
    require_right(CALLS, least=150)
