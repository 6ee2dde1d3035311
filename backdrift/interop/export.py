"""Models out: a folder with a trained model in the format of another library, and a card that describes it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from backdrift import __version__
from backdrift.data.fingerprint import sha256_of
from backdrift.interop import export_graph
from backdrift.interop.export_diffusers import write_diffusers
from backdrift.interop.model_card import model_card
from backdrift.models.accepted_condition import accepted_by
from backdrift.runs.atomic import force, naming
from backdrift.runs.exported import CONFIG, FORMAT, VERSION, WEIGHTS, read
from backdrift.runs.provenance import Provenance
from backdrift.runs.run import Run
from backdrift.runs.trained_model import TrainedModel

Format = Literal["safetensors", "torch_export", "onnx", "diffusers"]

TOLERANCE = 1e-5
"""The largest difference of a denoiser's outputs after an export, divided by the largest output or 1."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        format: of the model in it.
        difference: the largest difference of the outputs after the export, divided by the largest output or 1.
    """

    path: Path
    format: str
    difference: float

    def __str__(self) -> str:
        return f"{self.path}: {self.format}; the outputs differ by {self.difference:.2g} after the export"


def export(run: Run, to: Path, chosen: Format = "safetensors", weights: str = "ema") -> Exported:
    """Write the model of a run into a new folder.

    The model is read again from what was written, and the denoisers of both are compared on states of all noise levels.

    - "safetensors": `model.safetensors` and `config.json`, which `backdrift.load` reads with torch, numpy and
      safetensors alone;
    - "torch_export": `denoiser.pt2`, the denoiser as a program of `torch.export`, for any batch;
    - "onnx": `denoiser.onnx`, the same for any runtime of ONNX;
    - "diffusers": `unet/` and `scheduler/`, where the network is a `UNet2D`.

    Args:
        run: the run.
        to: the folder, which must not be there yet. It appears whole or not at all.
        chosen: the format.
        weights: "ema" for the running average, "model" for the weights as trained.

    Raises:
        ValueError: if the folder is there, the format does not fit the model, a package is missing, or the outputs
            differ by more than `TOLERANCE`.
        OSError: naming the folder, if it cannot be written.
    """
    if to.exists():
        raise ValueError(f"to={to}: expected a folder that is not there yet, as nothing is overwritten")
    model, provenance = run.model(weights), Provenance.now(run, f"no solver, exported as {chosen}", None, weights)
    hidden = to.with_name(f".writing-{to.name}-{os.getpid()}")
    try:
        with naming(to):
            hidden.mkdir(parents=True)
            difference = WRITERS[chosen](hidden, run, model, provenance)
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"format={chosen}: the outputs differ by {difference:.2g} after the export, expected at most "
                    f"{TOLERANCE:g}; nothing was written"
                )
            accepted = accepted_by(model.network)
            card = model_card(run.path, _plain(run), run.card, provenance, _versions(run), chosen, accepted)
            (hidden / "README.md").write_text(card, encoding="utf-8")
            for file in hidden.rglob("*"):
                force(file)
            hidden.rename(to)
            force(to.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return Exported(to, chosen, difference)


def write_safetensors(folder: Path, run: Run, model: TrainedModel, provenance: Provenance) -> float:
    """`model.safetensors`, with a header that says what it is, and `config.json`; the difference after reading."""
    config = _plain(run)
    header = {"format": "pt", "backdrift": __version__, "network": config["model"]["_target_"], "config": CONFIG}
    state = {name: value.detach().contiguous().cpu() for name, value in model.network.state_dict().items()}
    save_file(state, folder / WEIGHTS, header)
    values = {
        "format": FORMAT,
        "version": VERSION,
        "backdrift": __version__,
        "network": config["model"],
        "sde": config["sde"],
        "preconditioning": config.get("preconditioning", {"_target_": "backdrift.models.Denoiser", "_partial_": True}),
        "data_std": config["event"]["std"],
        "card": run.card.to_dict(),
        "sha256": sha256_of(folder / WEIGHTS),
        "provenance": provenance.to_dict(),
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    again, _ = read(folder, export_graph.CPU, tuple(_packages(config)))
    return export_graph.difference(model, again.score, run.card.units.shape, "score")


def _packages(config: Any) -> set[str]:
    """The packages that a config names. The run was opened, so that the user has said that he trusts them."""
    if isinstance(config, dict):
        own = {str(config["_target_"]).partition(".")[0]} if "_target_" in config else set()
        return own.union(*map(_packages, config.values()))
    return set().union(*map(_packages, config)) if isinstance(config, list) else set()


def _graph(write: Callable[[Path, nn.Module, tuple[int, ...]], float]) -> Writer:
    return lambda folder, run, model, _: write(folder, export_graph.as_module(model), run.card.units.shape)


Writer = Callable[[Path, Run, TrainedModel, Provenance], float]
"""Writes a model into a folder, and returns the difference of the outputs after the export."""

WRITERS: dict[str, Writer] = {
    "safetensors": write_safetensors,
    "torch_export": _graph(export_graph.write_program),
    "onnx": _graph(export_graph.write_onnx),
    "diffusers": lambda folder, run, model, _: write_diffusers(folder, model, run.card.units.shape),
}


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the Hugging Face hub, which is made private where it is not there yet.

    Returns:
        What was done, in one line.

    Raises:
        ValueError: if huggingface_hub is not installed, or the upload fails.
    """
    require_hub()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise ValueError(f"push_to_hub={repository}: {' '.join(str(error).split())[:300]}; see {folder}") from error
    return f"{folder}: uploaded to https://huggingface.co/{repository}"


def require_hub() -> None:
    """Raise `ValueError` unless huggingface_hub is installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise ValueError("push_to_hub: needs huggingface_hub; pip install 'backdrift[hub]'") from error


def _plain(run: Run) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(run.config, resolve=True)
    return dict(values)


def _versions(run: Run) -> dict[str, Any]:
    file = run.path / "versions.json"
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return values if isinstance(values, dict) else {}
