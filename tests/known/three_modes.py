"""Three correlated modes in the plane, of different weights."""

import torch

from backdrift.models import GaussianMixture
from backdrift.sde import GaussianSDE


def mixture(sde: GaussianSDE, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    means = torch.tensor([[1.0, -1.0], [-1.5, 0.5], [0.5, 2.0]], dtype=dtype)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.4, 0.0], [-0.3, 0.2]]], dtype=dtype)
    return GaussianMixture(means, roots @ roots.mT, torch.tensor([0.5, 0.3, 0.2], dtype=dtype), sde)
