"""Networks of a posterior: they see the noised parameters beside the observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backdrift.models import MLP
from backdrift.models.accepted_condition import AcceptedCondition


class PosteriorNetwork(nn.Module):
    """F(r, c_noise, x): an `MLP` that takes the observation as an input and as its condition.

    Args:
        d: number of parameters.
        shape: of an observation.
        hidden, depth, dropout: of the MLP.
        embedding: a network that takes observations `[batch, *shape]` to features `[batch, k]`. None takes the
            observation itself, flattened.

    Raises:
        ValueError: if the embedding does not return `[batch, k]`.
    """

    def __init__(
        self,
        d: int,
        shape: Sequence[int],
        hidden: int,
        depth: int,
        dropout: float,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.d, self.shape, self.embedding = d, tuple(shape), embedding
        size = int(torch.Size(shape).numel())
        self.accepted = AcceptedCondition.of(vector=size)
        try:
            features = self.embedded(torch.zeros(2, size))
        except (RuntimeError, TypeError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"embedding: expected a network that takes observations of shape {[2, *shape]}, got an error: {said}"
            ) from error
        if features.ndim != 2 or len(features) != 2:
            raise ValueError(f"embedding: expected features [batch, k], got shape {list(features.shape)}")
        k = features.shape[1]
        self.mlp = MLP(d + k, hidden, depth, dropout=dropout, vector=k)

    def embedded(self, x: Tensor) -> Tensor:
        """Features `[batch, k]` of flattened observations `[batch, size]`."""
        return x if self.embedding is None else self.embedding(x.reshape(-1, *self.shape))

    def forward(self, r: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        """F, `[batch, d]`.

        Args:
            r: `[batch, d]`.
            c_noise: `[batch]`.
            condition: flattened observations, `[size]` for all or `[batch, size]`.
        """
        features = self.embedded(condition.reshape(-1, condition.shape[-1]))
        each = features.expand(len(r), -1)
        out = self.mlp(torch.cat((r, each.to(r.dtype)), 1), c_noise, features[0] if len(features) == 1 else features)
        return out[:, : self.d]
