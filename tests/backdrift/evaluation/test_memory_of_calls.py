"""The memory of each call that the page on devices states, against the tensors that are alive."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from torch import Tensor, nn

from backdrift import ScoreDensity
from backdrift.models import MMPS, Denoiser, Mask, Measurement
from backdrift.runs.configuration import Job, build
from backdrift.sde import VP
from backdrift.solvers import Adams, entropy, log_likelihood, particles, sample, tune

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "gpu_and_clusters.md"
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def model() -> Denoiser:
    """The network of `data=digits`. Its last map is left at zero, which memory does not depend on."""
    config: Any = Job("train", ("data=digits",)).config()
    condition = {"classes": 0, "vector": 0, "picture": 0}
    config.event = {"shape": list(SHAPE), "classes": 0, "std": 0.5, "condition": condition}
    network: nn.Module = build(config, "model")
    return Denoiser(network, VP(), 0.5).eval().requires_grad_(False)


def states(n: int) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def upper_half(model: Denoiser, n: int) -> MMPS:
    mask = Mask.half(SHAPE)
    y = mask(states(n))
    return MMPS(model, Measurement(mask, y, std=0.1), iterations=5)


def with_exact_divergences(model: Denoiser, n: int) -> object:
    """With as many products at once as for 256 samples of 64 numbers."""
    settings: dict[str, Any] = {"probes": "exact", "divergences": 1, "chunk": 16, "estimate_error": False}
    return log_likelihood(model, states(n), steps=2, **settings)


def fit_a_solver(model: Denoiser, n: int) -> object:
    return tune(model, Adams(), 8, shape=SHAPE, batch=n, iterations=1, reference_steps=1)


CALLS: dict[str, tuple[int, Callable[[Denoiser, int], object]]] = {
    "`sample`": (256, lambda model, n: sample(model, Adams(steps=6), (n, *SHAPE))),
    "`likelihood`": (256, lambda model, n: log_likelihood(model, states(n))),
    "`likelihood likelihood.probes=exact`": (256, with_exact_divergences),
    "`information`": (256, lambda model, n: entropy(model, states(n), strata=2, draws=2)),
    "`restore guide=mmps`": (152, lambda model, n: sample(upper_half(model, n), Adams(steps=2), (n, *SHAPE))),
    "`restore guide=particles`": (
        1024,
        lambda model, n: particles(upper_half(model, 1), SHAPE, particles=2, runs=n // 2, steps=1),
    ),
    "`tune`": (64, fit_a_solver),
}
"""How many samples are in memory at once with the defaults of the command, and the call for a number of them."""

PARTICLES = [12, 16, 20]
"""So many that they take more memory than the states by which the variances of the chain are found."""


def megabytes(call: Callable[[], object]) -> float:
    with LiveBytes() as counted:
        call()
    return counted.peak / 1e6


def stated(name: str) -> list[float]:
    """The figures of the page's row that begins with a name, in MB."""
    row = re.search(rf"^\| {re.escape(name)}[^|]*\|(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None, name
    return [float(figure.replace(",", "")) for figure in re.findall(r"([\d.,]+) MB", row[1])]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "`likelihood`" else []) for name in CALLS]
)
def test_the_page_states_the_memory_of_a_call(name: str, model: Denoiser) -> None:
    """For each sample, and for the batch of the command. The memory of three small batches lies on one line."""
    batch, call = CALLS[name]
    counts = PARTICLES if "particles" in name else [1, 2, 3]
    found = [megabytes(lambda n=n: call(model, n)) for n in counts]  # type: ignore[misc]
    each, beside = np.polyfit(counts, found, 1)
    assert found == pytest.approx([beside + each * n for n in counts], rel=0.03)
    assert stated(name) == pytest.approx([each, beside + batch * each], rel=0.05)


@pytest.mark.slow
def test_the_page_states_the_memory_of_the_density_of_a_table() -> None:
    """The same for 2,000 rows as for 1,000 but for the table itself, which is small."""
    rows = np.random.default_rng(0).normal(size=(2000, 10))
    found = []
    for n in (1000, 2000):
        density = ScoreDensity(steps=3, random_state=0)
        found.append([megabytes(lambda: density.fit(rows[:n]))])  # noqa: B023
        found[-1] += [megabytes(lambda: density.score_samples(rows[:n], return_std=True))]  # noqa: B023
    assert found[1] == pytest.approx(found[0], rel=0.2)
    assert stated("`ScoreDensity().fit`") == pytest.approx(found[0][:1], rel=0.1)
    assert stated("`score_samples`") == pytest.approx(found[0][1:], rel=0.1)
