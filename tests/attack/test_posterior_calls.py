"""Odd calls of posteriors from simulations. The normal suite has a sample of them, and all of them are slow."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from odd_calls import INF, NAN, Call, a_few, outcome, require_right
from scipy import stats

from backdrift import SimulationPosterior
from backdrift.posteriors import diagnose_draws, log_evidence, truncated_rounds
from backdrift.posteriors.observation_scale import ObservationScale
from backdrift.posteriors.parameter_maps import of_prior
from backdrift.posteriors.prior_support import bounds_of

RANDOM = np.random.default_rng(0)
N = 60
THETA = RANDOM.uniform(-1, 1, (N, 2))
SEEN = np.c_[THETA[:, 0], THETA.sum(1)] + 0.1 * RANDOM.standard_normal((N, 2))
SMALL: dict[str, Any] = {"members": 1, "hidden": 8, "depth": 1, "steps": 1, "random_state": 0}
DAYS = pandas.DataFrame({"a": pandas.date_range("2020", periods=N)})
Uniform, Normal = torch.distributions.Uniform, torch.distributions.Normal


@functools.cache
def fitted() -> SimulationPosterior:
    return SimulationPosterior(**SMALL).fit(THETA, SEEN, prior=(-1, 1))


@functools.cache
def likelihood() -> SimulationPosterior:
    return SimulationPosterior(**SMALL).fit(SEEN, THETA)


def fit(theta: Any = THETA, x: Any = SEEN, prior: object = None, **arguments: Any) -> SimulationPosterior:
    return SimulationPosterior(**{**SMALL, **arguments}).fit(theta, x, prior=prior)


def priors() -> list[Call]:
    """What people take for a prior of two parameters. The bounds of those that are one are known."""
    box = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    refused: dict[str, object] = {
        "one bound": [-1], "three bounds": (0, 1, 2), "text": "uniform", "a number": 3, "texts": ("a", "b"),
        "complex": (-1j, 1j), "nan": (NAN, 1), "None": (None, 1), "equal": (1, 1), "swapped": (1, -1),
        "bounds of three": ([-1] * 3, [1] * 3), "distributions": [Uniform(-1.0, 1.0), Uniform(-1.0, 1.0)],
        "a dictionary": {"a": (-1, 1)}, "three uniform": Uniform(-torch.ones(3), torch.ones(3)), "a class": Uniform,
        "three normal": stats.multivariate_normal([0] * 3, np.eye(3)), "Bernoulli": torch.distributions.Bernoulli(0.5),
        "classes": torch.distributions.Categorical(torch.ones(2)), "counts": torch.distributions.Poisson(torch.ones(2)),
        "counts of scipy": stats.poisson(3), "not frozen counts": stats.poisson,
        "Dirichlet": torch.distributions.Dirichlet(torch.ones(2)),
    }  # fmt: skip
    bounds: dict[str, object] = {
        "numbers": (-1, 1), "lists": ([-1, -1], [1, 1]), "an array": box.numpy(), "tensors": tuple(box),
        "uniform": Uniform(-torch.ones(2), torch.ones(2)), "one uniform": Uniform(-1.0, 1.0),
        "independent": torch.distributions.Independent(Uniform(-torch.ones(2), torch.ones(2)), 1),
        "of scipy": stats.uniform(-1, 2), "arrays of scipy": stats.uniform([-1, -1], [2, 2]),
    }  # fmt: skip
    calls = [Call(f"prior, {name}", partial(of_prior, prior, 2), "prior: ") for name, prior in refused.items()]
    for name, prior in bounds.items():
        calls.append(Call(f"bounds, {name}", partial(support, prior), box))
    calls.append(Call("bounds of no prior", lambda: bounds_of(None), "prior: "))
    return calls


def support(prior: object) -> torch.Tensor:
    found = of_prior(prior, 2)
    return torch.stack([found.lower, found.upper])


def simulations() -> list[Call]:
    """Simulations that cannot be learnt from."""
    wrong: dict[str, tuple[Any, Any, str]] = {
        "no theta": (None, SEEN, "theta: "), "no x": (THETA, None, "x: "), "dates": (DAYS, SEEN, "theta: "),
        "dates seen": (THETA, DAYS, "x: "), "words": ([["a", "b"]] * N, SEEN, "theta: "),
        "ragged": ([[1], [1, 2]] * 30, SEEN, "theta: "), "one number": (1.0, SEEN, "theta: "),
        "few": (THETA[:5], SEEN[:5], "theta: "), "unequal": (THETA, SEEN[1:], "x: "),
        "nan": (THETA * NAN, SEEN, "theta: "), "inf": (THETA, SEEN * INF, "x: "),
        "complex": (THETA, SEEN * 1j, "x: "), "constant": (THETA * 0, SEEN, "theta: "),
        "twice the same": (THETA[:, [0, 0]], SEEN, "theta: "), "huge": (THETA * 1e200, SEEN, "theta: "),
        "huge seen": (THETA, SEEN * 1e200, "x: "), "tiny": (THETA * 1e-200, SEEN, "theta: "),
        "no columns": (THETA, SEEN[:, :0], "x: "),
    }  # fmt: skip
    calls = [Call(f"simulations, {name}", partial(fit, a, b), said) for name, (a, b, said) in wrong.items()]
    linear = torch.nn.Linear
    embeddings: dict[str, Any] = {
        "a class": linear, "another size": linear(5, 2), "nothing": lambda: None, "a number": 3,
        "another shape": torch.nn.Unflatten(1, (2, 1)),
    }  # fmt: skip
    return calls + [
        Call(f"embedding, {name}", partial(fit, embedding=made), "embedding: ") for name, made in embeddings.items()
    ]


def observations() -> list[Call]:
    """Observations and parameters of another kind or shape, counts and seeds."""
    calls = []
    seen: dict[str, Any] = {
        "None": None, "short": [0.0], "several": SEEN[:2], "nan": [NAN, 0], "text": "a", "none": SEEN[:0],
        "more axes": SEEN[None], "a number": 3.0, "huge": [1e200, 0],
    }  # fmt: skip
    for name, x in seen.items():
        calls.append(Call(f"sample given {name}", partial(drawn, 2, 0, x), "x_o: "))
    theta: dict[str, Any] = {
        "None": None,
        "a vector": [0.0, 0.0],
        "three": [[0] * 3],
        "nan": [[NAN, 0]],
        "no rows": THETA[:0],
    }
    for name, one in theta.items():
        calls.append(Call(f"log_prob of {name}", partial(log_density, one), "theta: "))
    counts: list[Any] = [0, -1, 2.5, None, True, "3"]
    calls += [Call(f"{n!r} draws", partial(drawn, n), "n: ") for n in counts]
    seeds: list[Any] = [-1, 2**32, "a", np.random.default_rng(0)]
    calls += [Call(f"the seed {seed!r}"[:25], partial(drawn, 2, seed), "random_state: ") for seed in seeds]
    calls.append(Call("a count of NumPy", lambda: drawn(np.int64(2)) - drawn(2), np.zeros((2, 2))))
    calls.append(Call("outside", lambda: fitted().log_prob([[3.0, 0.0]], [0, 0]), np.array([-INF])))
    return calls


def drawn(n: Any, seed: Any = 0, x: Any = (0, 0)) -> np.ndarray:
    return fitted().sample(x, n, random_state=seed)


def log_density(theta: Any) -> Any:
    return fitted().log_prob(theta, [0, 0])


def diagnoses() -> list[Call]:
    """Tests of calibration, the interface of sbi, evidences and rounds."""

    def test(**changed: Any) -> Any:
        given = {"theta_test": THETA[:30], "x_test": SEEN[:30], "draws": 3} | changed
        return fitted().diagnose(**given)

    number: Any = 3
    sbi = lambda: fitted().for_sbi([0, 0])  # noqa: E731
    calls = [
        Call("few pairs", lambda: test(theta_test=THETA[:5], x_test=SEEN[:5]), "theta_test: "),
        Call("pairs of one parameter", lambda: test(theta_test=THETA[:30, :1]), "theta_test: "),
        Call("unequal pairs", lambda: test(x_test=SEEN[:31]), "x_test: "),
        Call("one draw", lambda: test(draws=1), "draws: "),
        Call("no simulator", lambda: test(simulator=3), "simulator: "),
        Call("a simulator of another shape", lambda: test(simulator=lambda t: t[:, :1]), "simulator: "),
        Call("a simulator of nan", lambda: test(simulator=lambda t: t * NAN), "simulator: "),
        Call("draws of another shape", lambda: diagnose_draws(np.zeros((30, 2, 1)), THETA[:30], SEEN[:30]), "draws: "),
        Call("sbi, a number", lambda: sbi().sample(number), "sample_shape: "),
        Call("sbi, no draws", lambda: sbi().sample((0,)), "sample_shape: "),
        Call("sbi, negative", lambda: sbi().sample((-1,)), "sample_shape: "),
        Call("sbi, no observations", lambda: sbi().sample_batched((2,), None), "x_o: "),
        Call("sbi, no rows", lambda: sbi().log_prob_batched(torch.zeros(5, 0, 2), SEEN[:0]), "theta: "),
        Call("sbi, gradients", lambda: sbi().log_prob(torch.zeros(2), track_gradients=True), "track_gradients: "),
        Call("evidence of no posterior", lambda: log_evidence(3, likelihood(), [0, 0], prior=(-1, 1)), "posterior: "),  # type: ignore[arg-type]
        Call(
            "evidence, not fitted",
            lambda: log_evidence(SimulationPosterior(), likelihood(), [0, 0], prior=(-1, 1)),
            "posterior: ",
        ),
    ]
    wrong: dict[str, object] = {
        "narrow": (-1e-3, 1e-3), "swapped": (1, -1), "of three": ([-1] * 3, [1] * 3), "texts": ("a", "b"),
        "infinite": (-INF, 1), "three normal": stats.multivariate_normal([0] * 3, np.eye(3)), "None": None,
    }  # fmt: skip
    for name, prior in wrong.items():
        call = partial(evidence, prior)
        calls.append(Call(f"evidence, prior {name}", call, "prior: "))
    box = ([-1, -1], [1, 1])
    rounds: dict[str, tuple[Any, Any, str]] = {
        "no simulator": (3, box, "simulator: "), "nothing": (lambda t: None, box, "simulator: "),
        "swapped": (lambda t: t, (box[1], box[0]), "prior: "), "equal": (lambda t: t, (box[0], box[0]), "prior: "),
        "normal": (lambda t: t, Normal(torch.zeros(2), torch.ones(2)), "prior: "),
    }  # fmt: skip
    for name, (simulator, prior, said) in rounds.items():
        call = partial(truncated_rounds, simulator, prior, [0, 0], simulations=20)
        calls.append(Call(f"rounds, {name}", call, said))
    no_estimator: Any = SimulationPosterior
    calls.append(
        Call("rounds of a class", lambda: truncated_rounds(np.copy, box, [0, 0], estimator=no_estimator), "estimator: ")
    )
    return calls


def evidence(prior: object) -> Any:
    return log_evidence(fitted(), likelihood(), [0.0, 0.0], prior=prior, n=2, random_state=0)


CALLS = [*priors(), *simulations(), *observations(), *diagnoses()]


@pytest.mark.parametrize("call", a_few(CALLS, 15), ids=lambda call: call.name)
def test_some_odd_calls(call: Call) -> None:
    assert outcome(call) in ("refused", "right")


@pytest.mark.slow
def test_all_odd_calls() -> None:
    require_right(CALLS, least=90)


def test_an_outlier_does_not_set_the_scale_of_an_observation() -> None:
    """One of 200 numbers is 1e12. The others keep their width of 1, that of half of the middle 68% of N(0, 1).

    The quantiles of 200 numbers have a standard error of sqrt(0.16 * 0.84/200)/0.24 = 0.11.
    """
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((200, 3)))
    x[0, 0] = 1e12
    x[:, 1] = 3.0  # a number that never varies
    x[:150, 2] = 0.0  # three quarters are the same
    scale = ObservationScale.of(x)
    assert abs(float(scale.width[0]) - 1) < 4 * 0.11
    assert float(scale.width[1]) == 1
    assert float(scale.width[2]) == pytest.approx(float(x[:, 2].std()))
