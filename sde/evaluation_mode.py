"""A model in training mode may draw random numbers, or let its samples depend on one another."""

from __future__ import annotations

from torch import nn

from backdrift.sde.held import modules_of


def require_evaluation_mode(model: object, name: str = "model") -> None:
    """Raise unless every network in a model gives the same value at each evaluation, for each sample by itself.

    In training mode dropout draws random numbers, and batch normalisation uses the mean of the batch. A sampler or a
    likelihood would use a different function at each step. The mode is not changed here: another thread may be using
    the model. Networks without such parts may be in training mode.

    Args:
        model: any object that holds networks, see `held.modules_of`.
        name: of the argument, which the message begins with.

    Raises:
        ValueError: if a module in training mode is of this kind. The message names it.
    """
    for module in modules_of(model):
        if module.training and (reason := _unsteady(module)):
            raise ValueError(
                f"{name}: expected evaluation mode, but its {type(module).__name__} is in training mode and {reason}; "
                "call eval() on the network"
            )


def _unsteady(module: nn.Module) -> str | None:
    """What a module does in training mode that an evaluation must not do, or None."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "lets samples depend on their batch"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        share = module.p
    elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        share = module.dropout
    else:
        # Stochastic depth has no class in torch. Its classes elsewhere have this attribute.
        share = getattr(module, "drop_prob", None) or float(isinstance(module, nn.RReLU))
    return "draws random numbers" if share else None
