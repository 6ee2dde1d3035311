"""Our scheduler in pipelines of diffusers: from text, from picture to picture, and with a part painted anew.

The networks have random weights. The samples are those of our own `sample`, and with a solver that diffusers has as
well, those of diffusers' own scheduler.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models import Guided, Picture
from backdrift.solvers import DDIM, Adams, Heun, TableSolver, sample

diffusers = pytest.importorskip("diffusers", reason='needs diffusers: pip install "backdrift[diffusers]"')
pytest.importorskip("transformers", reason="the pipelines of diffusers need it: pip install transformers")
TableScheduler = pytest.importorskip("backdrift.interop.table_scheduler").TableScheduler
from_diffusers = pytest.importorskip("backdrift.interop.diffusers").from_diffusers

pytestmark = pytest.mark.slow  # since transformers alone takes seconds to import

STEPS, SCALE = 6, 3.0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


TEXT, EMPTY = normal(1, 5, 16, seed=1), normal(1, 5, 16, seed=2)
KEYS: dict[str, Any] = {
    "prompt_embeds": TEXT,
    "negative_prompt_embeds": EMPTY,
    "guidance_scale": SCALE,
    "output_type": "latent",
}
LATENTS = normal(1, 4, 8, 8, seed=3).float().double()  # some pipelines round it to float32


def base(**arguments: Any) -> Any:
    """The scheduler that Stable Diffusion comes with."""
    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, **arguments,
    )  # fmt: skip


def pipeline(kind: str, scheduler: Any, channels: int = 4, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    made = getattr(diffusers, kind)(
        vae=vae.eval().to(dtype), unet=unet.eval().to(dtype), scheduler=scheduler, text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def table(solver: TableSolver, **arguments: Any) -> Any:
    return TableScheduler.from_config(base().config, solver=solver, **arguments)


def guided(made: Any, *conditions: Any) -> Guided:
    model = from_diffusers(made, data_std=1.0)
    with_text, without = (model.given(*conditions, encoder_hidden_states=tokens) for tokens in (TEXT, EMPTY))
    return Guided(with_text, without, SCALE)


def times(model: Any, solver: TableSolver) -> Tensor:
    """The times of a solver for a network that predicts the noise, which begins below T."""
    return type(solver)(steps=STEPS, data_std=1.0, begin="lower").times(model.sde)


def own(model: Any, solver: TableSolver, grid: Tensor, x: Tensor) -> Tensor:
    """Our samples from the state x at the first of these times."""
    return sample(model, type(solver)(steps=len(grid), data_std=1.0, grid=grid.tolist(), begin="T"), x_T=x)


def require_same(found: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    """The timesteps of a pipeline are in float32, which a network with random weights shows."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < rtol * float(expected.abs().max())


@pytest.mark.parametrize("strength", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("solver", [Adams(), Heun(), DDIM()], ids=str)
def test_from_picture_to_picture(solver: TableSolver, strength: float) -> None:
    made = pipeline("StableDiffusionImg2ImgPipeline", table(solver))
    found = made(image=LATENTS, strength=strength, num_inference_steps=STEPS, generator=seeded(0), **KEYS).images
    model = guided(made)
    left = times(model, solver)[STEPS - int(STEPS * strength) :]
    require_same(found, own(model, solver, left, model.sde.perturb(LATENTS, left[0], normal(1, 4, 8, 8, seed=0))))


@pytest.mark.parametrize("solver", [Adams(), Heun()], ids=str)
def test_from_text_with_a_generator_for_each_picture(solver: TableSolver) -> None:
    made = pipeline("StableDiffusionPipeline", table(solver))
    keys = {**KEYS, "height": 16, "width": 16, "num_inference_steps": STEPS}
    both = made(num_images_per_prompt=2, generator=[seeded(4), seeded(5)], **keys).images
    eps = torch.cat([normal(1, 4, 8, 8, seed=seed) for seed in (4, 5)])
    whole = type(solver)(steps=STEPS, data_std=1.0, begin="lower")
    model = guided(made)
    require_same(both, sample(model, whole, x_T=model.sde.prior.std * eps))
    require_same(made(generator=seeded(5), **keys).images, both[1:])


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_network_for_inpainting_is_given_the_mask_and_the_rest(strength: float) -> None:
    """Its last five channels are the mask and the picture with a hole, and no step mixes anything in."""
    made = pipeline("StableDiffusionInpaintPipeline", table(Adams()), channels=9)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask[..., :8] = 1
    held = normal(1, 4, 8, 8, seed=6)
    found = made(
        image=LATENTS, mask_image=mask, masked_image_latents=held, strength=strength, num_inference_steps=STEPS,
        generator=seeded(0), height=16, width=16, **KEYS,
    ).images  # fmt: skip
    model = guided(made, Picture(torch.cat([mask[..., ::2, ::2], held], 1)))
    eps = normal(1, 4, 8, 8, seed=0)
    if strength == 1:
        expected = sample(model, Adams(steps=STEPS, data_std=1.0, begin="lower"), x_T=model.sde.prior.std * eps)
    else:
        left = times(model, Adams())[STEPS - int(STEPS * strength) :]
        expected = own(model, Adams(), left, model.sde.perturb(LATENTS, left[0], eps))
    require_same(found, expected)


def test_each_step_of_inpainting_mixes_the_known_part_in_with_its_noise() -> None:
    """x' = m (step of x) + (1 - m) (alpha x_0 + sigma eps), with alpha = 1 and sigma = 0 after the last step."""
    made = pipeline("StableDiffusionInpaintPipeline", table(DDIM()))
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask[..., :8] = 1
    found = made(
        image=LATENTS, mask_image=mask, masked_image_latents=LATENTS, strength=0.7, num_inference_steps=STEPS,
        generator=seeded(0), height=16, width=16, **KEYS,
    ).images  # fmt: skip
    model, eps, m = guided(made), normal(1, 4, 8, 8, seed=0), mask[..., ::2, ::2]
    left = times(model, DDIM())[STEPS - int(STEPS * 0.7) :].tolist()
    x = model.sde.perturb(LATENTS, left[0], eps)
    for t, s in zip(left, [*left[1:], None], strict=True):
        step = DDIM(steps=1, grid=[t] if s is None else [t, s], final="denoise" if s is None else "stop", begin="T")
        x = m * sample(model, step, x_T=x) + (1 - m) * (LATENTS if s is None else model.sde.perturb(LATENTS, s, eps))
    require_same(found, x)


GIVEN: list[dict[str, Any]] = [{"timesteps": [900, 600, 300, 50]}, {"sigmas": [9.0, 3.0, 1.0, 0.3, 0.0]}]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: next(iter(given)))
def test_given_times_are_those_of_diffusers(given: dict[str, Any]) -> None:
    """DDIM is Euler's method in sigma/alpha, which diffusers has as a scheduler of its own."""
    euler = diffusers.EulerDiscreteScheduler.from_config(base(timestep_spacing="leading").config)
    keys = {**KEYS, "height": 16, "width": 16, **given}
    eps, ours = normal(1, 4, 8, 8, seed=0), table(DDIM())
    theirs, found = (
        pipeline("StableDiffusionPipeline", scheduler)(latents=eps / std, **keys).images
        for scheduler, std in ((euler, 1.0), (ours, ours.init_noise_sigma))
    )
    if "sigmas" in given:  # its timesteps are interpolated in log sigma between those of the table
        require_same(found, theirs, rtol=5e-3)
    else:
        require_same(found, theirs)


def flow_pipeline(kind: str, scheduler: Any) -> Any:
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=16, sample_size=16, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    others = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    made = getattr(diffusers, kind)(transformer=transformer.eval(), vae=vae.eval(), scheduler=scheduler, **others)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("kind", ["", "Img2Img", "Inpaint"])
def test_flow_matching_is_diffusers_own_on_its_own_times(kind: str) -> None:
    """DDIM is Euler's method of flow matching. The times are those of shift = 3, in float32 as the network is."""
    base = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    picture = torch.rand(1, 3, 16, 16, generator=seeded(7)) * 2 - 1
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    keys = {"image": picture, "strength": 0.6} if kind else {}
    keys |= {"mask_image": mask} if kind == "Inpaint" else {}
    pooled = {"pooled_prompt_embeds": TEXT[:, 0].float(), "negative_pooled_prompt_embeds": EMPTY[:, 0].float()}
    embedded = {**KEYS, "prompt_embeds": TEXT.float(), "negative_prompt_embeds": EMPTY.float(), **pooled}
    theirs, ours = (
        flow_pipeline(f"StableDiffusion3{kind}Pipeline", scheduler)(
            sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], height=16, width=16, generator=seeded(0), **embedded, **keys
        ).images
        for scheduler in (base, TableScheduler.from_config(base.config, solver=DDIM()))
    )
    require_same(ours, theirs)


def test_half_precision_is_near_to_whole() -> None:
    """The network, its input and the latents of the pipeline are in bfloat16, of 8 bits; the steps are not."""
    keys = {"image": LATENTS, "strength": 0.5, "num_inference_steps": STEPS}
    whole, half = (
        pipeline("StableDiffusionImg2ImgPipeline", table(Adams()), dtype=dtype)(
            generator=seeded(0),
            **{**keys, **KEYS, "prompt_embeds": TEXT.to(dtype), "negative_prompt_embeds": EMPTY.to(dtype)},
        ).images.double()
        for dtype in (torch.float32, torch.bfloat16)
    )
    require_same(half, whole, rtol=0.03)  # SCALE triples the rounding of the network, 2^-8
