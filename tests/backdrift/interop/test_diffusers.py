"""Networks and schedulers of diffusers as models: their outputs and trajectories, by diffusers itself and by formulas.

The formulas are transcribed in float64. diffusers itself keeps its tables in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.interop.diffusers import DiffusersModel, from_diffusers
from backdrift.models import Guided, Label, Picture, Vector
from backdrift.sde import VP, Discrete, Rectified
from backdrift.solvers import DDIM, Adams, DPMSolverPP2M, Heun, log_likelihood, sample

diffusers = pytest.importorskip("diffusers", reason='needs diffusers: pip install "backdrift[diffusers]"')

STEPS = 8
"""A divisor of 1000, as diffusers' DDIM needs it for consistent times; see `SchedulerReading.times`."""
TABLES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal SNR": {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
CASES = [
    (table, prediction)
    for table in TABLES
    for prediction in PREDICTIONS
    if not (table == "zero terminal SNR" and prediction == "epsilon")
]


@pytest.fixture(scope="module")
def unet() -> Any:
    """A tiny U-Net with attention and random weights, in float64."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    return network.double().eval()


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def made(name: str, table: str, prediction: str, **arguments: Any) -> Any:
    """A scheduler of diffusers with a table, without clipping and with times up to the noise."""
    config = {**TABLES[table], "prediction_type": prediction, "timestep_spacing": "trailing", **arguments}
    if name == "DDIMScheduler":
        config["clip_sample"] = False
    if name == "HeunDiscreteScheduler" and config.pop("rescale_betas_zero_snr", False):
        cumulative = made("EulerDiscreteScheduler", table, prediction).alphas_cumprod.double()
        before = torch.cat([torch.ones(1), cumulative[:-1]])
        config["trained_betas"] = (1 - cumulative / before).tolist()
    return getattr(diffusers, name)(**config)


def by_diffusers(scheduler: Any, unet: Any, x: Tensor) -> Tensor:
    """The sample of a scheduler of diffusers, in its usual loop."""
    scheduler.set_timesteps(STEPS)
    x = x * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(scheduler.scale_model_input(x, t).double(), t).sample
            x = scheduler.step(output, t, x).prev_sample
    return x


class Formula:
    """The denoiser of a network, with the formulas of its prediction type in float64."""

    def __init__(self, unet: Any, alphas_cumprod: Tensor, prediction: str) -> None:
        self.unet, self.table, self.prediction = unet, alphas_cumprod.double(), prediction

    def alpha_sigma(self, k: int) -> tuple[Tensor, Tensor]:
        return self.table[k].sqrt(), (1 - self.table[k]).sqrt()

    @torch.no_grad()
    def denoise(self, x: Tensor, k: int) -> Tensor:
        alpha, sigma = self.alpha_sigma(k)
        output = self.unet(x, k).sample
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha
        return alpha * x - sigma * output if self.prediction == "v_prediction" else output


def ddim(model: Formula, x: Tensor, steps: list[int]) -> Tensor:
    """Song, Meng & Ermon (2021), eq. 12 with sigma = 0."""
    for k, after in zip(steps, [*steps[1:], None], strict=True):
        alpha, sigma = model.alpha_sigma(k)
        denoised = model.denoise(x, k)
        if after is None:
            return denoised
        alpha_s, sigma_s = model.alpha_sigma(after)
        x = alpha_s * denoised + sigma_s * (x - alpha * denoised) / sigma
    return x


def dpm_solver_pp_2m(model: Formula, x: Tensor, steps: list[int]) -> Tensor:
    """Lu et al. (2022b), algorithm 2, with a last step to the data."""
    before, h_before = None, 0.0
    for k, after in zip(steps, [*steps[1:], None], strict=True):
        alpha, sigma = model.alpha_sigma(k)
        denoised = model.denoise(x, k)
        if after is None:
            return denoised
        alpha_s, sigma_s = model.alpha_sigma(after)
        h = float((alpha_s / sigma_s).log() - (alpha / sigma).log())
        mixed = denoised
        if before is not None:
            r = h_before / h
            mixed = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * before
        x = sigma_s / sigma * x - alpha_s * math.expm1(-h) * mixed
        before, h_before = denoised, h
    return x


def heun(model: Formula, x: Tensor, steps: list[int], second: bool = True) -> Tensor:
    """Karras et al. (2022), algorithm 1, in x^ = x/alpha; Euler's method without `second`."""
    ratio = {k: model.alpha_sigma(k)[1] / model.alpha_sigma(k)[0] for k in steps}
    hat = x / model.alpha_sigma(steps[0])[0]
    for k, after in zip(steps, [*steps[1:], None], strict=True):
        s, s_after = ratio[k], ratio[after] if after is not None else torch.zeros(())
        slope = (hat - model.denoise(model.alpha_sigma(k)[0] * hat, k)) / s
        new = hat + (s_after - s) * slope
        if second and after is not None:
            end = (new - model.denoise(model.alpha_sigma(after)[0] * new, after)) / s_after
            new = hat + (s_after - s) * (slope + end) / 2
        hat = new
    return hat


METHODS: dict[str, tuple[Callable[..., Any], str, dict[str, Any], Callable[..., Tensor]]] = {
    "DDIM": (DDIM, "DDIMScheduler", {}, ddim),
    "DPM-Solver++(2M)": (DPMSolverPP2M, "DPMSolverMultistepScheduler", {"lower_order_final": False}, dpm_solver_pp_2m),
    "Euler": (DDIM, "EulerDiscreteScheduler", {}, lambda model, x, steps: heun(model, x, steps, second=False)),
    "Heun": (Heun, "HeunDiscreteScheduler", {}, heun),
}


OFTEN = [
    ("linear", "epsilon", "DDIM"),
    ("scaled linear", "v_prediction", "DPM-Solver++(2M)"),
    ("cosine", "sample", "Euler"),
    ("scaled linear", "epsilon", "Heun"),
    ("zero terminal SNR", "v_prediction", "DDIM"),
    ("zero terminal SNR", "sample", "DPM-Solver++(2M)"),
]
"""The trajectories of the normal tests. All are compared with `-m slow`."""


@pytest.mark.parametrize(
    ("table", "prediction", "method"),
    [
        pytest.param(*case, method, marks=() if (*case, method) in OFTEN else pytest.mark.slow)
        for case in CASES
        for method in METHODS
    ],
)
def test_trajectories_are_those_of_diffusers(
    unet: Any, noise: Tensor, table: str, prediction: str, method: str
) -> None:
    solver, name, arguments, formula = METHODS[method]
    scheduler = made(name, table, prediction, **arguments)
    model = from_diffusers((unet, scheduler))
    times = model.times(STEPS)
    ours = sample(model, solver(steps=STEPS, grid=times), x_T=noise)

    scheduler.set_timesteps(STEPS)
    timesteps = list(dict.fromkeys(int(t) for t in scheduler.timesteps))  # Heun's come twice
    assert [t - 1 for t in times] == timesteps
    exact = formula(Formula(unet, scheduler.alphas_cumprod, prediction), noise, timesteps)
    size = float(exact.abs().max())
    alpha = math.sqrt(float(scheduler.alphas_cumprod[-1]))
    # Heun's states x/alpha have the size 1/alpha at the first time, 20,000 with the cosine, and are rounded in each of
    # up to 2 STEPS evaluations.
    rounding = 2 * STEPS * 2**-50 / alpha if method == "Heun" else 0.0
    assert float((ours - exact).abs().max()) < max(1e-10 * size, rounding)

    in_ratio = "Discrete" in name  # the state of these schedulers is x/alpha
    start = noise / (alpha * float(scheduler.init_noise_sigma)) if in_ratio else noise
    theirs = by_diffusers(made(name, table, prediction, **arguments), unet, start)
    # Their states x/alpha and noise levels are in float32, and are rounded in each of up to 2 STEPS evaluations. At
    # alpha = 2^-12 they are 4096 times as large as the data.
    tolerance = max(1e-5, 2 * STEPS * 2**-24 / alpha) if in_ratio else 1e-5
    assert float((ours - theirs).abs().max()) < tolerance * max(size, 1)


@pytest.mark.parametrize(("table", "prediction"), CASES)
def test_outputs_are_the_formulas(unet: Any, noise: Tensor, table: str, prediction: str) -> None:
    scheduler = made("DDIMScheduler", table, prediction)
    model, formula = from_diffusers((unet, scheduler)), Formula(unet, scheduler.alphas_cumprod, prediction)
    for k in (0, 1, 500, 999):
        with torch.no_grad():
            ours, exact = model.denoise(noise, torch.tensor(k + 1.0)), formula.denoise(noise, k)
            each = model.denoise(noise, torch.full((2,), k + 1.0))
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(each, exact, rtol=1e-10, atol=1e-10)


def test_linspace_in_diffusers_ddim_is_inconsistent(unet: Any, noise: Tensor) -> None:
    """diffusers steps to t - N//steps, and evaluates at the next even time. The formula with both ends is theirs."""
    scheduler = made("DDIMScheduler", "linear", "epsilon", timestep_spacing="linspace")
    theirs = by_diffusers(scheduler, unet, noise)
    model = Formula(unet, scheduler.alphas_cumprod, "epsilon")
    x = noise
    for k in map(int, scheduler.timesteps):
        alpha, sigma = model.alpha_sigma(k)
        denoised, after = model.denoise(x, k), k - 1000 // STEPS
        alpha_s, sigma_s = model.alpha_sigma(after) if after >= 0 else (torch.ones(()), torch.zeros(()))
        x = alpha_s * denoised + sigma_s * (x - alpha * denoised) / sigma
    assert float((theirs - x).abs().max()) < 1e-5 * float(x.abs().max())
    consistent = from_diffusers((unet, scheduler))
    ours = sample(consistent, DDIM(steps=STEPS, grid=consistent.times(STEPS)), x_T=noise)
    assert float((ours - theirs).abs().max()) > 1e-3 * float(x.abs().max())
    exact = ddim(model, noise, [round(t) - 1 for t in consistent.times(STEPS)])
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 7, 20])
def test_times_are_the_timesteps_of_diffusers(unet: Any, spacing: str, steps: int) -> None:
    scheduler = made("DDIMScheduler", "linear", "epsilon", timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    model = from_diffusers((unet, scheduler))
    expected = scheduler.timesteps.double() + 1
    assert model.times(steps) == pytest.approx(expected.tolist(), abs=1e-9)


def test_clipping_is_that_of_diffusers(unet: Any, noise: Tensor) -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample_range=0.4)
    model = from_diffusers((unet, scheduler))
    assert model.clip == 0.4 and from_diffusers((unet, scheduler), clip=None).clip is None
    ours = sample(model, DDIM(steps=STEPS, grid=model.times(STEPS)), x_T=noise)
    scheduler.set_timesteps(STEPS)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    assert float((ours - x).abs().max()) < 1e-5 and float(ours.abs().max()) <= 0.4


def test_flow_matching_has_the_velocity_of_the_straight_path(unet: Any, noise: Tensor) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    model = from_diffusers((unet, scheduler))
    assert model.sde == Rectified(T=1.0)
    with torch.no_grad():
        for t in (0.1, 0.999, 1.0):
            exact = noise - t * unet(noise, 1000 * t).sample
            torch.testing.assert_close(model.denoise(noise, t), exact, rtol=1e-9, atol=1e-9)
        # Their Euler steps, from x + (s' - s) v, and ours on the same times.
        scheduler.set_timesteps(STEPS)
        s, x = scheduler.sigmas.double(), noise
        for k in range(STEPS):
            x = x + (s[k + 1] - s[k]) * unet(x, 1000 * s[k]).sample
    ours = sample(model, DDIM(steps=STEPS, grid=s[:-1].tolist()), x_T=noise)
    assert float((ours - x).abs().max()) < 1e-9 * float(x.abs().max())


@pytest.mark.parametrize("table", ["linear", pytest.param("zero terminal SNR", marks=pytest.mark.slow)])
def test_the_likelihood_of_a_network_with_attention(unet: Any, table: str) -> None:
    """Exact and random probes agree within the stated errors, on samples of the network itself."""
    model = from_diffusers((unet, made("DDIMScheduler", table, "v_prediction")))
    x = 0.5 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = log_likelihood(model, x, steps=8, probes="exact")
    random = log_likelihood(model, x, steps=8, probes=8, seed=1)
    assert bool((exact.standard_error == 0).all()) and bool((random.standard_error > 0).all())
    # Exact and random probes are not integrated in the same way, so each has a solver error of its own.
    stated = 4.5 * random.standard_error + exact.solver_error + random.solver_error
    assert bool(((exact.log_prob - random.log_prob).abs() < stated).all())
    # In few steps the solver error of random probes is a nat or two, of log-densities near -20 nats.
    assert float(stated.max()) < 5


def test_half_precision_stays_inside(noise: Tensor) -> None:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    scheduler = made("DDIMScheduler", "linear", "v_prediction")
    x = sample(from_diffusers((network, scheduler)), Adams(steps=8), (2, 1, 8, 8))
    half = sample(from_diffusers((network.to(torch.bfloat16), scheduler)), Adams(steps=8), (2, 1, 8, 8))
    assert half.dtype == torch.float32
    assert float((half - x).abs().max()) < 2**-6 * float(x.abs().max())  # the network's own rounding is 2^-8


def test_conditions_reach_the_network(noise: Tensor) -> None:
    """Text embeddings and classes: one for all, one for each, of selected samples, and in guidance."""
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6, attention_head_dim=4, num_class_embeds=3,
    ).double().eval()  # fmt: skip
    model = from_diffusers((network, made("DDIMScheduler", "linear", "sample")))
    texts = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor(301.0)
    with torch.no_grad():
        expected = network(noise, 300, texts, class_labels=torch.tensor([1, 1])).sample
        given = model.given(texts).given(Label(torch.tensor(1)))
        torch.testing.assert_close(given.denoise(noise, t), expected)
        torch.testing.assert_close(given.select(torch.tensor([1])).denoise(noise[1:], t), expected[1:])
        empty = model.given(encoder_hidden_states=torch.zeros(1, 5, 6).double(), class_labels=torch.tensor([1]))
        base = network(noise, 300, torch.zeros(2, 5, 6).double(), class_labels=torch.tensor([1, 1])).sample
        torch.testing.assert_close(Guided(given, empty, 3.0).denoise(noise, t), base + 3 * (expected - base))
    with pytest.raises(
        ValueError, match=r"^encoder_hidden_state: expected one of the arguments .*encoder_hidden_states"
    ):
        model.given(encoder_hidden_state=texts)
    with pytest.raises(ValueError, match=r"^encoder_hidden_states: expected a first axis of 1 or 3"):
        given.denoise(torch.zeros(3, 1, 8, 8).double(), t)


def test_a_vector_is_one_token_and_a_picture_further_channels(noise: Tensor) -> None:
    """The network at [x, picture] and with the vector as its only token; guidance is empty + w (given - empty)."""
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=6,
        attention_head_dim=4,
    ).double().eval()  # fmt: skip
    scheduler = made("DDIMScheduler", "linear", "epsilon")
    model, t = from_diffusers((network, scheduler)), torch.tensor(301.0)
    alpha, sigma = Formula(network, scheduler.alphas_cumprod, "epsilon").alpha_sigma(300)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    pictures = torch.randn(2, 2, 8, 8, generator=generator, dtype=torch.float64)

    def expected(picture: Tensor, tokens: Tensor) -> Tensor:
        eps = network(torch.cat([noise, picture], 1), 300, tokens).sample
        return (noise - sigma * eps) / alpha

    with torch.no_grad():
        given = model.given(Vector(vectors)).given(Picture(pictures))
        with_both = expected(pictures, vectors[:, None])
        torch.testing.assert_close(given.denoise(noise, t), with_both, rtol=1e-10, atol=1e-10)
        chosen = given.select(torch.tensor([1]))
        torch.testing.assert_close(chosen.denoise(noise[1:], t), with_both[1:], rtol=1e-10, atol=1e-10)
        empty = model.given(Picture(pictures)).given(Vector(torch.zeros(6).double()))
        base = expected(pictures, torch.zeros(2, 1, 6).double())
        guided = Guided(given, empty, 2.5).denoise(noise, t)
        torch.testing.assert_close(guided, base + 2.5 * (with_both - base), rtol=1e-10, atol=1e-10)
        with pytest.raises(ValueError, match=r"^condition: expected a picture of \[8, 8\] pixels, .* got \[4, 4\]"):
            given.given(Picture(pictures[..., :4, :4])).denoise(noise, t)
    with pytest.raises(TypeError, match=r"^condition: expected a Label, a Vector, a Picture or a tensor, got str"):
        model.given("a cat")


def test_latents_have_a_decoder(unet: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=1, down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), scaling_factor=0.3,
    ).eval()  # fmt: skip

    class Pipeline:
        scheduler = made("DDIMScheduler", "scaled linear", "epsilon")

    pipeline: Any = Pipeline()
    pipeline.unet, pipeline.vae = unet, vae
    model = from_diffusers(pipeline)
    assert model.data_std == 1.0
    pictures = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = model.encode(pictures)
    with torch.no_grad():
        torch.testing.assert_close(latents, vae.encode(pictures).latent_dist.mean * 0.3)
        torch.testing.assert_close(model.decode(latents), vae.decode(latents / 0.3).sample)
    with pytest.raises(ValueError, match=r"^vae: expected a pipeline with an autoencoder"):
        from_diffusers((unet, pipeline.scheduler)).decode(latents)


def test_a_folder_of_a_pipeline(unet: Any, noise: Tensor, tmp_path: Path) -> None:
    pipeline = diffusers.DDPMPipeline(unet, made("DDPMScheduler", "linear", "epsilon"))
    pipeline.save_pretrained(tmp_path / "pipeline")
    model = from_diffusers(tmp_path / "pipeline")
    with torch.no_grad():
        here = from_diffusers(pipeline).denoise(noise.float().to(noise), 400.0)
        there = model.denoise(noise.float(), 400.0)
    assert float((here - there).abs().max()) < 1e-4 * float(here.abs().max())


def test_another_process_asks_at_the_same_noise(unet: Any, noise: Tensor) -> None:
    """D depends on x/alpha and sigma/alpha alone."""
    model = from_diffusers((unet, made("DDIMScheduler", "linear", "epsilon")))
    other = model.under(VP(beta_max=15.0))
    for t in (0.1, 0.7):
        own = model.sde.t_from_log_snr(other.sde.log_snr(t))
        scale = float(model.sde.alpha(own) / other.sde.alpha(t))
        with torch.no_grad():
            torch.testing.assert_close(other.denoise(noise, t), model.denoise(scale * noise, own), rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match=r"^sde: expected a process with sigma/alpha of at most 157"):
        model.under(VP(beta_max=30.0))


def refused(unet: Any, **config: Any) -> DiffusersModel:
    return from_diffusers((unet, diffusers.DDIMScheduler(**config)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda unet: refused(unet, thresholding=True), "thresholding: expected False"),
        (
            lambda unet: refused(unet, rescale_betas_zero_snr=True),
            "prediction_type: expected 'v_prediction' or 'sample'",
        ),
        (lambda unet: refused(unet, prediction_type="x"), "prediction_type: expected one of epsilon"),
        (lambda unet: from_diffusers((unet, diffusers.EDMEulerScheduler())), "scheduler: expected one with a table"),
        (
            lambda unet: from_diffusers((unet, diffusers.EulerDiscreteScheduler(timestep_type="continuous"))),
            "timestep_type: expected 'discrete'",
        ),
        (lambda unet: from_diffusers(unet), "source: expected a pipeline"),
        (lambda unet: refused(unet).times(0), "steps: "),
        (lambda unet: refused(unet).times(5, "even"), "spacing: expected one of leading"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_read_is_refused(unet: Any, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(unet)


def test_the_table_is_taken_as_it_is(unet: Any) -> None:
    scheduler = made("DDIMScheduler", "cosine", "sample")
    sde = from_diffusers((unet, scheduler)).sde
    assert isinstance(sde, Discrete) and torch.equal(sde.alphas_cumprod, scheduler.alphas_cumprod.double())
