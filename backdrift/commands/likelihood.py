"""Score data under a trained model: log-likelihoods in nats and bits per dimension, with their errors."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdrift.data.views import readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.scoring import score
from backdrift.runs.configuration import blamed
from backdrift.runs.output import chosen, new_folder, save_figures
from backdrift.runs.run import Run


def main(config: DictConfig) -> None:
    """Write `likelihood.csv`, `histogram.png` and `extremes.png` into a new folder of the run.

    Raises:
        ValueError: if some log-likelihoods are not finite.
    """
    run = Run.open(config.run, config.trust)
    data, model = run.data(), run.model(config.weights)
    values, labels = chosen(config, data)
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    try:
        scores = score(model, data.units, values, **settings)
    except (TypeError, ValueError) as error:
        raise blamed(config, "likelihood", error) from error
    broken = int((~scores.log_prob.isfinite()).sum())
    if broken:
        raise ValueError(f"likelihood: {broken} of {len(values)} values are NaN or infinite; increase likelihood.steps")

    folder = new_folder(run, f"likelihood-{config.split}", config)
    scores.save(folder / "likelihood.csv", labels, data.class_names)
    print(f"{config.split} set: {scores}")
    most_is = "high" if data.levels is None else "low"
    drawn = {
        "histogram.png": figures.likelihood_histogram({f"{config.split} set": scores.values}, scores.unit),
        "extremes.png": figures.most_and_least_likely(
            readable_data(data.units, values), scores.values, scores.unit, most_is, columns=data.columns
        ),
    }
    save_figures(folder, "likelihood.csv", drawn)
