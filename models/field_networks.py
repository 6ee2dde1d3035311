"""Networks of the library diffusers as networks F(z, c_noise) of ours: a U-Net and a diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from backdrift.models.accepted_condition import AcceptedCondition, Classes, Length
from backdrift.models.conditions import Label, Picture
from backdrift.models.mlp import VectorEmbedding
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
    """What both have in common: the checks of the state, and the conditions.

    diffusers' networks add the embedding of a class to that of the time. A vector takes the same way, as an embedding
    of ours, and a picture stands with its mask in channels beside those of the image.

    Attributes:
        network: the module of diffusers.
        accepted: the kind of condition that the network takes. It takes one kind.
        vector: the embedding of a vector; None without one.
        null: the index that the module of diffusers takes for no class; None where it takes no classes.
    """

    network: nn.Module

    def __init__(self, channels: int, classes: int, vector: int, picture: int) -> None:
        super().__init__()
        self.channels = channels
        self.accepted = AcceptedCondition.of(classes, vector, picture)
        self.vector: VectorEmbedding | None = None
        self.null: int | None = None

    def run(self, z: Tensor, c_noise: Tensor, condition: Tensor | None, sides: int) -> Tensor:
        """The output of the network, computed in the dtype of its weights.

        Args:
            z: `[batch, channels, height, width]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            condition: see `UNet2D.forward`.
            sides: what height and width must be multiples of.

        Raises:
            ValueError: if a shape does not fit, or a label is out of range.
            TypeError: if z, a vector or a picture does not hold floating-point numbers, or a label integers.
        """
        require_state(z, "z")
        if z.ndim != 4 or z.shape[1] != self.channels or z.shape[2] % sides or z.shape[3] % sides:
            raise ValueError(
                f"z: expected shape [batch, {self.channels}, height, width] with sides that {sides} divides, got "
                f"{list(z.shape)}"
            )
        if condition is not None:
            self.accepted.require_value(condition, z.shape[0])
        dtype = next(self.network.parameters()).dtype
        time, states, embedded = c_noise.to(dtype).expand(z.shape[0]), z.to(dtype), None
        if self.accepted.kind is Picture:
            states = torch.cat((states, self.accepted.beside(states, condition)), dim=1)
        if self.vector is not None:
            embedded = self.vector(condition).expand(z.shape[0], -1)
        elif self.null is not None:
            known = condition if self.accepted.kind is Label else None
            embedded = (torch.full((), self.null, device=z.device) if known is None else known).expand(z.shape[0])
        value: Tensor = self.network(states, timestep=time, class_labels=embedded).sample
        return value.to(z.dtype)


class UNet2D(_FieldNetwork):
    """diffusers' `UNet2DModel`, the U-Net of Ho et al. (2020), as F(z, c_noise).

    Its time is c_noise, as in Karras et al. (2022), so that diffusers' EDM schedulers read its weights as we do.

    Args:
        channels: channels of an image.
        widths: channels at each level, the finest first; each a multiple of `groups`.
        blocks: residual blocks at each level.
        attention: the levels with self-attention; level 0 is the finest. The middle of the network has it as well.
        classes: number of classes; 0 without classes.
        dropout: probability of dropping a unit inside a block, in training mode.
        groups: of the group normalisations.
        head: channels of one head of attention.
        vector: length of the vector that the network is conditioned on; 0 without one.
        picture: channels of the picture that the network is conditioned on, which has the size of the image; 0 without.

    Raises:
        ValueError: if diffusers is not installed, a number is out of range, `attention` names a level that there is
            not, or there is more than one kind of condition.
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
        vector: Length = 0,
        picture: Length = 0,
    ) -> None:
        super().__init__(channels, classes, vector, picture)
        if attention and max(attention) >= len(widths):
            raise ValueError(f"attention: expected levels below {len(widths)}, got {list(attention)}")
        wrong = [width for width in widths if width % groups or width % head]
        if wrong:
            raise ValueError(f"widths: expected multiples of groups={groups} and of head={head}, got {wrong[0]}")
        down = ["AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(widths))]
        up = ["AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(range(len(widths)))]
        self.sides = 2 ** (len(widths) - 1)
        self.network = _diffusers().UNet2DModel(
            in_channels=channels + 2 * picture,
            out_channels=channels,
            block_out_channels=tuple(widths),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            layers_per_block=blocks,
            num_class_embeds=classes + 1 if classes else None,
            class_embed_type="identity" if vector else None,
            dropout=dropout,
            norm_num_groups=groups,
            attention_head_dim=head,
        )
        if classes:
            self.null = classes
        if vector:
            self.vector = VectorEmbedding(vector, 4 * widths[0])

    def forward(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(z, c_noise), with the shape and the dtype of z, see `_FieldNetwork.run` for what is raised.

        Args:
            z: `[batch, channels, height, width]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            condition: class indices, `[]` or `[batch]`; vectors, `[vector]` or `[batch, vector]`; or pictures,
                `[picture, height, width]` or `[batch, picture, height, width]`. None, the index `classes`, and a vector
                or a picture of NaN mean no condition.
        """
        return self.run(z, c_noise, condition, self.sides)


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
        classes: number of classes; 0 without classes.
        dropout: probability of dropping a unit, in training mode.
        vector: length of the vector that the network is conditioned on; 0 without one.
        picture: channels of the picture that the network is conditioned on, which has the size of the image; 0 without.

    Raises:
        ValueError: if diffusers is not installed, a number is out of range, `patch` does not divide `size`, or there
            is more than one kind of condition.
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
        vector: Length = 0,
        picture: Length = 0,
    ) -> None:
        super().__init__(channels, classes, vector, picture)
        if size % patch:
            raise ValueError(f"patch: expected a number that divides size={size}, got {patch}")
        self.size = size
        network = _diffusers().DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=head,
            in_channels=channels + 2 * picture,
            out_channels=channels,
            num_layers=layers,
            dropout=dropout,
            sample_size=size,
            patch_size=patch,
            num_embeds_ada_norm=max(classes, 1),
        )
        for block in network.transformer_blocks:
            embedding = block.norm1.emb
            embedding.class_embedder.dropout_prob = 0.0  # the training drops labels, by numbers of its own
            if vector:
                embedding.class_embedder = nn.Identity()
        self.network = network
        if vector:
            self.vector = VectorEmbedding(vector, heads * head)
        else:
            self.null = max(classes, 1)  # the module always has a table of classes

    def forward(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F(z, c_noise), with the shape and the dtype of z.

        Args:
            z: `[batch, channels, size, size]`.
            c_noise: log(s)/4, `[]` or `[batch]`.
            condition: as of `UNet2D.forward`.

        Raises:
            ValueError: if an argument has another shape, or a label is not one of the classes.
        """
        if z.ndim == 4 and z.shape[2:] != (self.size, self.size):
            raise ValueError(f"z: expected {self.size} x {self.size} pixels, got {z.shape[2]} x {z.shape[3]}")
        return self.run(z, c_noise, condition, 1)
