"""Draw samples from a trained model."""

from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    raise ValueError("not written yet")
