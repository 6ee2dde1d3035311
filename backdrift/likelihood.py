"""Log-likelihood of data under a trained model, in nats and bits per dimension."""

from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    raise ValueError("not written yet")
