"""Write a trained model for others: safetensors, torch.export, ONNX or diffusers, with a model card."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from backdrift.interop.export import export, push_to_hub, require_hub
from backdrift.runs.run import Run


def main(config: DictConfig) -> None:
    """Write the model of a run into the new folder `to`, and say by how much its outputs differ after the export.

    Raises:
        ValueError: if the folder is there already, the format does not fit the network, a package is missing, or the
            outputs differ by more than `export.TOLERANCE`. Nothing is left then.
        OSError: if it cannot be written.
    """
    if config.push_to_hub is not None:
        require_hub()  # before anything is written
    run = Run.open(config.run, config.trust)
    exported = export(run, Path(str(config.to)).expanduser(), config.format, config.weights)
    print(exported)
    if config.push_to_hub is not None:
        print(push_to_hub(exported.path, str(config.push_to_hub)))
