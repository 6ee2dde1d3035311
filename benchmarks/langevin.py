"""Effective draws per gradient on a Bayesian logistic regression, beside numpyro's HMC and NUTS.

    python benchmarks/langevin.py                      # ours alone
    pip install numpyro && python benchmarks/langevin.py

The posterior is `models.targets.LogisticRegression()`: scikit-learn's breast-cancer data, 31 dimensions.
All adapt a dense mass matrix in as many warm-up steps, chain by chain, start from N(0, I) and are
judged by the same function (arviz-stats) on as many gradients as their draws took. Figures are the
least over the components, for the mean, for the standard deviation, and the lesser of the two. HMC
is tuned by hand: each trajectory length is a row. A leapfrog step of HMC, a step of MALA and one of BAOAB take one
gradient each; gradients of the warm-up are not counted, for anyone.

Measured (8 chains of 1500 draws; ours the mean of 3 seeds, numpyro 0.22 one seed), ESS/gradient for
means, for standard deviations:

    MALA 0.104, 0.172    adjusted BAOAB 0.137, 0.122    BAOAB 0.118, 0.131    ULA 0.021, 0.049
    HMC of length 1.6: 0.056, 0.172    1.8: 0.124, 0.164    2.0: 0.211, 0.098    2.2: 0.295, 0.059
    NUTS 0.127, 0.057

HMC is the better tool where its trajectory length can be tuned and means are what is wanted: past a
quarter period its draws are anticorrelated. Its length has to be right, though (0.8 gave 0.002), and by the
lesser of the two figures the one-gradient samplers are level with it, without a length to tune.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from arviz_stats.base import array_stats

from models.targets import LogisticRegression
from solvers import BAOAB, MALA, ULA, AdjustedBAOAB, mcmc

CHAINS, WARMUP = 8, 1000
LENGTHS = (1.0, 1.3, 1.6, 1.8, 2.0, 2.2, 2.6)


class Result(NamedTuple):
    """One sampler's row: draws `[chains, draws, d]` and the gradients that they took, all chains together."""

    name: str
    draws: np.ndarray[Any, Any]
    gradients: int
    seconds: float


def ours(draws: int, seed: int) -> Iterator[Result]:
    target = LogisticRegression()
    samplers = {
        "MALA": MALA(),
        "adjusted BAOAB": AdjustedBAOAB(),
        "BAOAB (unadjusted: biased)": BAOAB(),
        "ULA (unadjusted: biased)": ULA(),
    }
    for name, sampler in samplers.items():
        chains = mcmc(target, sampler, target.start(CHAINS, seed), draws, warmup=WARMUP, whitening="dense", seed=seed)
        yield Result(name, chains.draws.numpy(), CHAINS * chains.gradients, chains.seconds)


def numpyro_samplers(draws: int, seed: int) -> Iterator[Result]:
    import jax
    from numpyro.infer import HMC, MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    target = LogisticRegression()
    design, y = jax.numpy.asarray(target.design.numpy()), jax.numpy.asarray(target.labels.numpy())

    def potential(w: Any) -> Any:
        logit = design @ w
        return -(y @ logit - jax.nn.softplus(logit).sum() - 0.5 * w @ w)

    kernels = {
        f"HMC, length {length}": HMC(potential_fn=potential, dense_mass=True, trajectory_length=length)
        for length in LENGTHS
    }
    kernels["NUTS"] = NUTS(potential_fn=potential, dense_mass=True)
    starts = jax.numpy.asarray(target.start(CHAINS, seed).numpy())
    for name, kernel in kernels.items():
        run = MCMC(
            kernel,
            num_warmup=WARMUP,
            num_samples=draws,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        begin = time.perf_counter()
        run.run(jax.random.PRNGKey(seed), init_params=starts, extra_fields=("num_steps",))
        steps = int(np.asarray(run.get_extra_fields()["num_steps"]).sum())
        yield Result(name, np.asarray(run.get_samples(group_by_chain=True)), steps, time.perf_counter() - begin)


def least(draws: np.ndarray[Any, Any], method: str) -> float:
    return float(np.min(array_stats.ess(draws, chain_axis=0, draw_axis=1, method=method)))


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--draws", type=int, default=2000, help="of each chain")
    options.add_argument("--seeds", type=int, default=3, help="independent repetitions, averaged")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    kinds = ["ours"]
    try:
        import numpyro  # noqa: F401

        kinds.append("numpyro")
    except ImportError:
        print("numpyro is not installed: ours alone (pip install numpyro)\n")
    print("| sampler | gradients a draw | ESS/gradient, mean | sd | lesser | spread over seeds | R-hat |")
    print("| --- " * 7 + "|")
    for kind in kinds:
        rows: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(chosen.seeds):
            for result in (ours if kind == "ours" else numpyro_samplers)(chosen.draws, seed):
                of_mean, of_sd = (least(result.draws, method) / result.gradients for method in ("mean", "sd"))
                rhat = float(np.max(array_stats.rhat(result.draws, chain_axis=0, draw_axis=1)))
                cost = result.gradients / result.draws[..., 0].size
                rows.setdefault(result.name, []).append((cost, of_mean, of_sd, min(of_mean, of_sd), rhat))
        for name, values in rows.items():
            cost, of_mean, of_sd, lesser, rhat = np.mean(values, axis=0)
            spread = np.std([value[3] for value in values], ddof=1) if len(values) > 1 else float("nan")
            label = name if kind == "ours" else f"numpyro {name}"
            print(
                f"| {label} | {cost:.2f} | {of_mean:.4f} | {of_sd:.4f} | {lesser:.4f} | {spread:.4f} | {rhat:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
