"""The mean of several networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MeanNetwork(nn.Module):
    """The mean of several networks, so that the denoiser is the mean of their denoisers.

    Args:
        members: one or more networks with the same arguments. They are called as `network(z, c_noise)`, or as
            `network(z, c_noise, condition)` where there is a condition.

    Raises:
        ValueError: if there are no members.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members: expected at least one network, got none")
        self.members = nn.ModuleList(members)
        self.accepted = members[0].accepted

    def forward(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        given = () if condition is None else (condition,)
        return torch.stack([member(z, c_noise, *given) for member in self.members]).mean(0)
