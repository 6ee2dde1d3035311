"""Pipelines, networks and schedulers of diffusers as models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from backdrift.interop.called_network import CalledNetwork
from backdrift.interop.diffusers_scheduler import SchedulerReading, Spacing, read_scheduler
from backdrift.models import Picture, Vector
from backdrift.sde import DataMoments, FunctionModel, Time
from backdrift.sde.checks import require_positive
from backdrift.sde.evaluation_mode import require_evaluation_mode
from backdrift.sde.value_types import got

PICTURE = "picture"
"""The name of a given picture among the arguments. No network of diffusers has one of this name."""


class DiffusersNetwork(CalledNetwork):
    """A network of diffusers as a function of a state and a time: it is called with the timestep.

    Args:
        network: such as a `UNet2DModel`, `UNet2DConditionModel` or a transformer.
        reading: of the scheduler that the network was trained with.
        learned_variance: see `CalledNetwork`.
    """

    def __init__(self, network: Any, reading: SchedulerReading, learned_variance: bool = False) -> None:
        super().__init__(network, learned_variance)
        self.reading = reading

    def __call__(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Tensor:
        time = torch.as_tensor(time, dtype=x.dtype, device=x.device)
        return super().__call__(x, self.reading.timestep(time), *positional, **arguments)

    def ask(self, x: Tensor, time: Tensor, *positional: Any, **arguments: Any) -> Any:
        """The network at the state, with a given picture as further channels after it."""
        picture = arguments.pop(PICTURE, None)
        if picture is not None:
            if picture.shape[2:] != x.shape[2:]:
                raise ValueError(
                    f"condition: expected a picture of {list(x.shape[2:])} pixels, as the state has, got "
                    f"{list(picture.shape[2:])}"
                )
            x = torch.cat([x, picture.to(x.dtype)], 1)
        return super().ask(x, time, *positional, **arguments)


class DiffusersModel(FunctionModel):
    """A network of diffusers as a model, see `from_diffusers`.

    Args:
        network: the network.
        reading: of its scheduler.
        clip: the largest magnitude of the denoiser, or None.
        vae: the autoencoder that the network's latents come from, or None.
        learned_variance: whether the network returns variances as well.
        data_moments, data_std: see `FunctionModel`.

    Attributes:
        network, reading, clip, vae: the arguments.
    """

    def __init__(
        self,
        network: Any,
        reading: SchedulerReading,
        clip: float | None = None,
        vae: Any = None,
        learned_variance: bool = False,
        data_moments: DataMoments | None = None,
        data_std: float = 1.0,
    ) -> None:
        function = DiffusersNetwork(network, reading, learned_variance)
        super().__init__(function, reading.sde, reading.predicts, data_moments, data_std)
        self.network, self.reading, self.clip, self.vae = network, reading, clip, vae

    def given(self, condition: Any = None, **arguments: Any) -> DiffusersModel:
        """The same network given a condition.

        Args:
            condition: a class, a `Label` or a tensor of integers, is the argument `class_labels` of the network, and a
                tensor of other numbers, `[batch, tokens, dim]`, is `encoder_hidden_states`. A `Vector` is a single
                token. A `Picture` is joined to the state as further channels, as networks for inpainting and for
                higher resolution take it.
            arguments: of the network's `forward`, by name, such as `encoder_hidden_states` or `added_cond_kwargs`. See
                `FunctionModel.given` for one value for all samples or one for each.

        Raises:
            TypeError: if `condition` is none of these.
            ValueError: if the network has no argument of a name.
        """
        if isinstance(condition, Picture):
            other = super().given(**arguments)
            other.arguments = {**other.arguments, PICTURE: condition}
            return other
        if isinstance(condition, Vector):
            condition = condition.value.reshape(-1, 1, condition.value.shape[-1])
        if condition is not None:
            value = getattr(condition, "value", condition)
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"condition: expected a Label, a Vector, a Picture or a tensor, got {type(condition).__name__}"
                )
            name = "encoder_hidden_states" if value.is_floating_point() else "class_labels"
            arguments = {name: condition, **arguments}
        return super().given(**arguments)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        denoised = super().denoise(x, t)
        return denoised if self.clip is None else denoised.clamp(-self.clip, self.clip)

    def times(self, steps: int, spacing: Spacing | None = None) -> list[float]:
        """The times of diffusers' own timesteps, for the argument `grid` of a solver; see `SchedulerReading.times`."""
        return self.reading.times(steps, spacing)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """The latents of pictures `[batch, channels, height, width]` in [-1, 1], as the autoencoder's means.

        Raises:
            ValueError: if the pipeline has no autoencoder.
        """
        vae = self._require_vae()
        mean = vae.encode(pictures.to(vae.dtype)).latent_dist.mean.to(pictures.dtype)
        return (mean - (vae.config.get("shift_factor") or 0.0)) * vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents, in [-1, 1] up to what the decoder exceeds it by.

        Raises:
            ValueError: if the pipeline has no autoencoder.
        """
        vae = self._require_vae()
        scaled = latents / vae.config["scaling_factor"] + (vae.config.get("shift_factor") or 0.0)
        return vae.decode(scaled.to(vae.dtype)).sample.to(latents.dtype)

    def _require_vae(self) -> Any:
        if self.vae is None:
            raise ValueError("vae: expected a pipeline with an autoencoder, got one without")
        return self.vae


def from_diffusers(
    source: Any,
    *,
    clip: float | Literal["config"] | None = "config",
    data_std: float | None = None,
    data_moments: DataMoments | None = None,
) -> DiffusersModel:
    """A network of diffusers as a model, for every solver, likelihood and posterior of this package.

        >>> model = from_diffusers("path/of/a/pipeline")
        >>> x = sample(model, Adams(steps=10), (8, 3, 32, 32))
        >>> log_likelihood(model, x)

    The scheduler's config says the process (its table of betas, or flow matching), and what the network predicts. Its
    spacing of timesteps is used where a grid is asked for, `DDIM(steps=20, grid=model.times(20))`. Its clipping of the
    denoiser, `clip_sample`, is part of the model: the noise of a step is that of the clipped denoiser, as in diffusers'
    DDIM with `use_clipped_model_output=True`, and the derivative of a clipped denoiser is 0 in the likelihood.

    The pictures of a latent pipeline have no density here. Likelihoods are densities of the latents z that its
    autoencoder makes, in nats for each sample z, and the autoencoder is no bijection: no Jacobian turns them into
    densities of pictures. `model.encode` and `model.decode` lead from pictures to latents and back.

    Classes, embeddings of text and other arguments of the network are given by
    `model.given(encoder_hidden_states=...)`. Guidance is `Guided(with_text, with_empty_text, scale)` of two of these.

    Args:
        source: a pipeline, a folder or the name of one, or a pair (network, scheduler).
        clip: the largest magnitude of the denoiser, or None for no clipping. By default the config of the scheduler
            decides.
        data_std: the standard deviation of the data, by default 1 with an autoencoder, whose latents are scaled to it,
            and 0.5 without, for pictures in [-1, 1].
        data_moments: the mean and the variance of each component of the data, where they are known.

    Raises:
        ValueError: if the pipeline holds no network or no scheduler, or its conventions are not supported. The message
            names the entry of the config: dynamic thresholding and a continuous timestep are refused, as is a predicted
            noise with zero terminal SNR.
        OSError: if there is no whole pipeline in the folder `source`.
        ImportError: if `source` is a folder and diffusers is not installed.
    """
    if clip not in ("config", None):
        require_positive(clip=clip)
    network, scheduler, vae = _parts(source)
    if not hasattr(scheduler, "config"):
        raise ValueError(f"scheduler: expected a scheduler of diffusers, with `config`, got {got(scheduler)}")
    reading = read_scheduler(scheduler)
    require_evaluation_mode(network, "network")
    return DiffusersModel(
        network,
        reading,
        clip=reading.clip if clip == "config" else clip,
        vae=vae,
        learned_variance=str(scheduler.config.get("variance_type", "")).startswith("learned"),
        data_moments=data_moments,
        data_std=(1.0 if vae is not None else 0.5) if data_std is None else data_std,
    )


def _parts(source: Any) -> tuple[Any, Any, Any]:
    """The network, the scheduler and the autoencoder (or None) of a pipeline, a folder or a pair."""
    if isinstance(source, tuple) and len(source) == 2:
        return *source, None
    if isinstance(source, (str, Path)):
        source = _pipeline(source)
    network = getattr(source, "unet", None) or getattr(source, "transformer", None)
    scheduler = getattr(source, "scheduler", None)
    if network is None or scheduler is None:
        raise ValueError(
            f"source: expected a pipeline with a unet or transformer and a scheduler, a folder, or a pair "
            f"(network, scheduler), got {type(source).__name__}"
        )
    return network, scheduler, getattr(source, "vae", None)


def _pipeline(folder: str | Path) -> Any:
    """The pipeline in a folder."""
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError('source: a folder needs diffusers: pip install "backdrift[diffusers]"') from error
    try:
        return DiffusionPipeline.from_pretrained(str(folder))
    except OSError as error:
        said = " ".join(str(error).split())
        raise OSError(f"source={folder}: expected the folder or the name of a whole pipeline ({said})") from error
