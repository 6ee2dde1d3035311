"""What samplers of posteriors cost: evaluations of the denoiser and products with its Jacobian, counted as they run.

The count is the same for all libraries. The denoiser is replaced by one that counts its samples, and whose result
passes through an identity that counts the vectors pulled back through it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from posterior_problems import PROBLEMS, Prior
from posterior_samplers import Sampler
from torch import Tensor

from backdrift.sde import GaussianSDE, Time

STEPS, SAMPLES = 20, 4


@dataclass(frozen=True)
class Cost:
    """Evaluations and products for a sample, divided by the steps."""

    problem: str
    name: str
    setting: str
    evaluations: float
    products: float

    @property
    def key(self) -> tuple[str, str, str]:
        return self.problem, self.name, self.setting


class Counter:
    """Samples that were evaluated, and vectors that were pulled back."""

    evaluations = 0
    products = 0


class _Counted(torch.autograd.Function):
    """The identity, whose backward pass counts the samples.

    It has no rule for `vmap`, so that vectors come one after the other and none is missed.
    """

    @staticmethod
    def forward(x: Tensor, counter: Counter) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Counter], output: Tensor) -> None:
        ctx.counter = inputs[1]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.counter.products += len(slope)
        return slope, None


class CountedPrior(Prior):
    """A prior that counts."""

    def __init__(self, prior: Prior, counter: Counter) -> None:
        super().__init__(prior.components, prior.sde)
        self.counter = counter

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        self.counter.evaluations += len(x)
        return _Counted.apply(super().denoise(x, t), self.counter)

    def under(self, sde: GaussianSDE) -> CountedPrior:
        return CountedPrior(Prior(self.components, sde), self.counter)


def cost(problem_name: str, sampler: Sampler) -> Cost:
    """Run a sampler with four samples and count.

    Particles take as many as they are, whatever the number of samples: their counts are for one particle.
    """
    problem, counter = PROBLEMS[problem_name](0), Counter()
    problem = replace(problem, prior=CountedPrior(problem.prior, counter))
    sampler.run(problem, STEPS, SAMPLES, 0)
    particles = sampler.name.startswith("particles")
    total = STEPS * (int(sampler.name.rsplit(", ", 1)[1]) if particles else SAMPLES)
    return Cost(
        problem_name,
        sampler.name,
        sampler.setting,
        round(counter.evaluations / total, 3),
        round(counter.products / total, 3),
    )


def stored(path: Path) -> dict[tuple[str, str, str], Cost]:
    if not path.exists():
        return {}
    found = [Cost(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return {one.key: one for one in found}


def costs(problem_name: str, samplers: Iterable[Sampler], path: Path) -> None:
    """Count what is not stored yet, and store it."""
    found = stored(path)
    for sampler in samplers:
        if (problem_name, sampler.name, sampler.setting) in found:
            continue
        try:
            one = cost(problem_name, sampler)
        except NotImplementedError:
            continue
        found[one.key] = one
        rows = [json.dumps(asdict(value)) for value in found.values()]
        path.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
