"""Class labels: one index for each sample, or one for all."""

from __future__ import annotations

import torch
from torch import Tensor

from backdrift.sde.tensor_checks import extremes


def require_labels(label: Tensor, classes: int | None = None, batch: int | None = None) -> None:
    """Raise unless `label` holds class indices. Their values are looked at on the host only.

    On another device an index out of range ends the process. `Denoiser.given` therefore looks at all labels once.

    Args:
        label: class indices, `[]` or `[batch]`.
        classes: the number of classes, or None where it is not known. The index `classes` is the null class.
        batch: the number of samples, or None where it is not known.

    Raises:
        TypeError: if `label` is not a tensor of integers.
        ValueError: if it has another shape, or an index is out of range.
    """
    if not isinstance(label, Tensor):
        raise TypeError(f"label: expected a tensor of class indices, got {label!r}; write torch.tensor({label!r})")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise TypeError(f"label: expected integer class indices, got a tensor of {label.dtype}")
    if label.ndim > 1 or (batch is not None and label.shape not in ((), (batch,))):
        size = "batch" if batch is None else batch
        raise ValueError(f"label: expected shape [] or [{size}], one for each sample, got {list(label.shape)}")
    if classes is None:
        return
    if classes == 0:
        raise ValueError("label: expected none, since the network is unconditional; build it with classes > 0")
    found = extremes(label)
    if found is not None and not 0 <= found[0] <= found[1] <= classes:
        wrong = found[0] if found[0] < 0 else found[1]
        raise ValueError(f"label: expected indices from 0 to {classes} ({classes} is no class), got {wrong:g}")
