"""Score data under a trained model: log-likelihoods in nats and bits per dimension, with their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backdrift.data.views import readable_data
from backdrift.evaluation import figures
from backdrift.evaluation.batchwise import Batchwise
from backdrift.evaluation.scoring import STAGE, collected, score
from backdrift.runs.configuration import blamed
from backdrift.runs.device import device_named
from backdrift.runs.output import new_folder
from backdrift.runs.progress import Progress
from backdrift.runs.provenance import Provenance
from backdrift.runs.rows_to_score import rows_to_score
from backdrift.runs.run import Run
from backdrift.runs.unfinished import Unfinished


def main(config: DictConfig) -> None:
    """Write `likelihood.csv`, `histogram.png` and `extremes.png` into a new folder of the run.

    After an interruption the rows that are scored are in a table of their own, and the same command goes on.

    Raises:
        ValueError: if some log-likelihoods are not finite.
        KeyboardInterrupt: with what is kept, after Ctrl-C or SIGTERM.
    """
    device, run = device_named(config.device), Run.open(config.run, config.trust, config.data.changed)
    rows, model, card = rows_to_score(config, run), run.model(config.weights, device), run.card
    values = rows.values
    settings: dict[str, Any] = OmegaConf.to_container(config.likelihood)  # type: ignore[assignment]
    integrator = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    provenance = Provenance.now(run, integrator, settings.get("seed", 0), config.weights)
    kept = Unfinished.of(run, "likelihood", provenance, config, model, values)

    def write_part(folder: Path) -> str:
        done = kept.finished(STAGE)
        assert done is not None
        scores = collected(done, card.units, {"seed": 0, **settings})
        part = provenance.of_part(len(scores.log_prob), len(values))
        scores.save(folder / "likelihood.csv", rows.labels, card.classes, part, rows.places)
        return f"{part.rows} rows are scored in {folder / 'likelihood.csv'}"

    with kept.interruptible(write_part), Progress("likelihood", len(values)) as progress:
        try:
            scores = score(model, card.units, values, work=Batchwise(progress, kept), **settings)
        except (TypeError, ValueError) as error:
            raise blamed(config, "likelihood", error) from error
    broken = int((~scores.log_prob.isfinite()).sum())
    if broken:
        raise ValueError(f"likelihood: {broken} of {len(values)} values are NaN or infinite; increase likelihood.steps")

    with new_folder(run, rows.stem, config, provenance) as folder:
        with folder.new("likelihood.csv") as file:
            scores.save(file, rows.labels, card.classes, provenance, rows.places)
        print(f"{rows.name}: {scores}")
        drawn = figures.likelihood_histogram({rows.name: scores.values}, scores.unit)
        folder.save_figure("histogram.png", drawn)
        most_is, shown = "high" if card.units.levels is None else "low", readable_data(card.units, values)
        drawn = figures.most_and_least_likely(shown, scores.values, scores.unit, most_is, columns=card.columns)
        folder.save_figure("extremes.png", drawn)
    kept.discard()
    print(folder)
