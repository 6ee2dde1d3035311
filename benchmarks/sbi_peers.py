"""NPSE and FMPE of sbi with their defaults, on simulations from a file. `sbi.py` runs this in an environment with sbi:

    python -I sbi_peers.py NPSE simulations.npz draws.npz

With -I the folder of this file is not searched, in which `sbi.py` would hide the package sbi. The file of simulations
holds theta and x, the observations `observed`, the seed, and the prior: `lower` and `upper`, or `mean` and
`covariance`. The file of draws holds 1,000 of each posterior, within the prior, as sbi gives them; the share of raw
draws outside the prior; and the seconds of the fit and of the draws.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import sbi
import torch
from sbi.inference import FMPE, NPSE
from sbi.utils import BoxUniform

DRAWS = 1000


def prior_of(sent: dict[str, np.ndarray]) -> torch.distributions.Distribution:
    if "lower" in sent:
        return BoxUniform(torch.as_tensor(sent["lower"]).float(), torch.as_tensor(sent["upper"]).float())
    mean, covariance = (torch.as_tensor(sent[name]).float() for name in ("mean", "covariance"))
    return torch.distributions.MultivariateNormal(mean, covariance)


def outside(theta: torch.Tensor, sent: dict[str, np.ndarray]) -> float:
    """The share of draws outside the bounds of the prior."""
    if "lower" not in sent:
        return 0.0
    lower, upper = torch.as_tensor(sent["lower"]), torch.as_tensor(sent["upper"])
    return float(((theta < lower) | (theta > upper)).any(1).double().mean())


def main() -> None:
    name, source, target = sys.argv[1:]
    torch.set_num_threads(1)
    sent = dict(np.load(source))
    torch.manual_seed(int(sent["seed"]))
    theta, x, observed = (torch.as_tensor(sent[key]).float() for key in ("theta", "x", "observed"))
    began = time.process_time()
    inference = {"NPSE": NPSE, "FMPE": FMPE}[name](prior_of(sent), show_progress_bars=False)
    inference.append_simulations(theta, x).train()
    posterior = inference.build_posterior()
    fitted = time.process_time()
    settings = {"show_progress_bars": False}
    draws = [posterior.sample((DRAWS,), x=row[None], **settings) for row in observed]
    drawn = time.process_time()
    raw = [posterior.sample((DRAWS,), x=row[None], reject_outside_prior=False, **settings) for row in observed]
    np.savez(
        target,
        draws=torch.stack(draws).numpy(),
        outside=np.array([outside(one, sent) for one in raw]),
        cpu=fitted - began,
        cpu_draws=drawn - fitted,
        version=sbi.__version__,
    )


if __name__ == "__main__":
    main()
