"""Measure a trained denoiser's error along the noise, and from it information and entropy in nats."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from backdrift.evaluation import figures
from backdrift.evaluation.information_curves import information_curves
from backdrift.runs.output import chosen, new_folder, save_figures
from backdrift.runs.run import Run


def main(config: DictConfig) -> None:
    """Write `information.csv` and `information.png` into a new folder of the run.

    Raises:
        ValueError: if some values are not finite.
    """
    run = Run.open(config.run, config.trust)
    data, model = run.data(), run.gaussian_model(config.weights)
    values, _ = chosen(config, data)
    settings = {name: config[name] for name in ("levels", "strata", "draws", "seed")}
    curves = information_curves(model, data, values, **settings)
    if not all(math.isfinite(e.value) for e in (curves.entropy, *curves.mmse, *curves.information)):
        raise ValueError("information: some values are NaN or infinite")
    folder = new_folder(run, f"information-{config.split}", config)
    curves.save(folder / "information.csv")
    print(f"{config.split} set: {curves}")
    save_figures(folder, "information.csv", {"information.png": figures.information(curves)})
