"""The network of a density of any columns given any others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backdrift.models import MLP
from backdrift.models.accepted_condition import AcceptedCondition


class SubsetNetwork(nn.Module):
    """F(z, c_noise, condition), which is 0 on columns that are no targets, and does not see their noise.

    The condition is `[2 d + classes]`: the given columns, with NaN for all others; 1 for each target and 0 for all
    others; and 1 at the class of the row. The network takes it as an input and as its conditioning.

    Args:
        d: number of columns.
        classes: of the rows.
        hidden, depth, dropout: see `MLP`.
    """

    def __init__(self, d: int, classes: int, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        known = 2 * d + classes
        self.d = d
        self.accepted = AcceptedCondition.of(vector=known)
        self.mlp = MLP(d + known, hidden, depth, dropout=dropout, vector=known)

    def forward(self, z: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        condition = condition.expand(len(z), -1)
        target = condition[:, self.d : 2 * self.d].to(z.dtype)
        seen = torch.cat([z * target, condition.nan_to_num().to(z.dtype)], 1)
        return self.mlp(seen, c_noise, condition)[:, : self.d] * target
