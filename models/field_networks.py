"""Networks of the library diffusers as networks F(z, c_noise) of ours: a U-Net and a diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from backdrift.models.accepted_condition import AcceptedCondition, Classes
from backdrift.sde.arguments import checked
from backdrift.sde.tensor_checks import require_state
from backdrift.sde.value_types import Count, Filled, NonNegativeCount, Share

__all__ = ["DiT", "UNet2D"]


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError("model: this network needs diffusers; pip install 'backdrift[diffusers]'") from error
    return diffusers


class _FieldNetwork(nn.Module):
    """What both have in common: the checks of the state, and the classes.

    Attributes:
        network: the module of diffusers.
        accepted: classes from 0, or no condition. The class after the last one is the null class.
    """

    network: nn.Module

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.accepted = AcceptedCondition.of(classes)

    def inputs(
        self, z: Tensor, c_noise: Tensor, label: Tensor | None, sides: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The state, c_noise and the class for each sample, in the dtype of the weights.

        Raises:
            ValueError: if a shape does not fit, or a label is out of range.
            TypeError: if z does not hold floating-point numbers, or a label integers.
        """
        require_state(z, "z")
        if z.ndim != 4 or z.shape[1] != self.channels or z.shape[2] % sides or z.shape[3] % sides:
            raise ValueError(
                f"z: expected shape [batch, {self.channels}, height, width] with sides that {sides} divides, got "
                f"{list(z.shape)}"
            )
        dtype = next(self.network.parameters()).dtype
        time = c_noise.to(dtype).expand(z.shape[0])
        if self.accepted.kind is None:
            if label is not None:
                raise ValueError("label: expected none, since the network is unconditional")
            return z.to(dtype), time, None
        if label is None:
            label = torch.full((z.shape[0],), self.accepted.size, device=z.device)
        else:
            # The null class is one more than a user may name.
            AcceptedCondition.of(classes=self.accepted.size + 1).require_value(label, z.shape[0])
        return z.to(dtype), time, label.expand(z.shape[0])


class UNet2D(_FieldNetwork):
    """diffusers' `UNet2DModel`, the U-Net of Ho et al. (2020), as F(z, c_noise).

    Its time is c_noise, as in Karras et al. (2022), so that diffusers' EDM schedulers read its weights as we do.

    Args:
        channels: channels of an image.
        widths: channels at each level, the finest first; each a multiple of `groups`.
        blocks: residual blocks at each level.
        attention: the levels with self-attention; level 0 is the finest. The middle of the network has it as well.
        classes: number of classes; 0 for an unconditional network.
        dropout: probability of dropping a unit inside a block, in training mode.
        groups: of the group normalisations.
        head: channels of one head of attention.

    Raises:
        ValueError: if diffusers is not installed, a number is out of range, or `attention` names a level that there is
            not.
    """

    @checked
    def __init__(
        self,
        channels: Count,
        widths: Annotated[Sequence[Count], Filled()] = (32, 64, 128),
        blocks: Count = 1,
        attention: Sequence[NonNegativeCount] = (),
        classes: Classes = 0,
        dropout: Share = 0.0,
        groups: Count = 8,
        head: Count = 8,
    ) -> None:
        super().__init__(channels, classes)
        if attention and max(attention) >= len(widths):
            raise ValueError(f"attention: expected levels below {len(widths)}, got {list(attention)}")
        wrong = [width for width in widths if width % groups or width % head]
        if wrong:
            raise ValueError(f"widths: expected multiples of groups={groups} and of head={head}, got {wrong[0]}")
        down = ["AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(widths))]
        up = ["AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(range(len(widths)))]
        self.sides = 2 ** (len(widths) - 1)
        self.network = _diffusers().UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            layers_per_block=blocks,
            num_class_embeds=classes + 1 if classes else None,
            dropout=dropout,
            norm_num_groups=groups,
            attention_head_dim=head,
        )

    def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F(z, c_noise), with the shape and the dtype of z, see `_FieldNetwork.inputs` for what is raised.

        Args:
            z: `[batch, channels, height, width]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            label: class indices, `[]` or `[batch]`. None and the index `classes` mean no class.
        """
        value: Tensor = self.network(*self.inputs(z, c_noise, label, self.sides)).sample
        return value.to(z.dtype)


class DiT(_FieldNetwork):
    """diffusers' `DiTTransformer2DModel`, the diffusion transformer of Peebles & Xie (2023), as F(z, c_noise).

    It is for square images of one size.

    Args:
        channels: channels of an image.
        size: its height and width.
        patch: side of the square of pixels that become one token; it divides `size`.
        layers: number of transformer blocks.
        heads: of attention in each block.
        head: channels of one head; the width of the network is heads times head.
        classes: number of classes; 0 for an unconditional network.
        dropout: probability of dropping a unit, in training mode.

    Raises:
        ValueError: if diffusers is not installed, a number is out of range, or `patch` does not divide `size`.
    """

    @checked
    def __init__(
        self,
        channels: Count,
        size: Count,
        patch: Count = 2,
        layers: Count = 4,
        heads: Count = 4,
        head: Count = 32,
        classes: Classes = 0,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(channels, classes)
        if size % patch:
            raise ValueError(f"patch: expected a number that divides size={size}, got {patch}")
        self.size = size
        self.network = _diffusers().DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=head,
            in_channels=channels,
            out_channels=channels,
            num_layers=layers,
            dropout=dropout,
            sample_size=size,
            patch_size=patch,
            num_embeds_ada_norm=max(classes, 1),
        )
        for part in self.network.modules():  # the training drops labels, by numbers of its own; nothing here does
            if hasattr(part, "dropout_prob"):
                setattr(part, "dropout_prob", 0.0)  # noqa: B010  (to mypy every attribute of a module is a tensor)

    def forward(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F(z, c_noise), with the shape and the dtype of z.

        Args:
            z: `[batch, channels, size, size]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            label: class indices, `[]` or `[batch]`. None and the index `classes` mean no class.

        Raises:
            ValueError: if an argument has another shape, or a label is not one of the classes.
        """
        if z.ndim == 4 and z.shape[2:] != (self.size, self.size):
            raise ValueError(f"z: expected {self.size} x {self.size} pixels, got {z.shape[2]} x {z.shape[3]}")
        states, time, classes = self.inputs(z, c_noise, label, 1)
        if classes is None:
            classes = torch.ones(z.shape[0], dtype=torch.long, device=z.device)  # the null class of one class
        value: Tensor = self.network(states, timestep=time, class_labels=classes).sample
        return value.to(z.dtype)
