"""List the solvers with their measured orders of convergence."""

from __future__ import annotations

from omegaconf import DictConfig

from backdrift.runs.configuration import build
from backdrift.solvers import CATALOGUE, certify


def main(config: DictConfig) -> None:
    """Measure every solver of the catalogue anew and print a line for each."""
    sde = build(config, "sde")
    print(f"{'name':<22}{'kind':<12}{'claimed':>8}{'measured':>10}{'NFE a step':>12}  source")
    for name, (solver, source) in CATALOGUE.items():
        found = certify(solver, sde)
        print(
            f"{name:<22}{found.kind:<12}{found.claimed:>8g}{found.measured:>10.2f}{found.nfe:>12.2f}  {source}",
            flush=True,
        )
