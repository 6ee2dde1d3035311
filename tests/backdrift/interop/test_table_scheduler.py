"""Our solvers as a scheduler of diffusers give the samples of our own `sample`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import Discrete, Model
from backdrift.solvers import DDIM, Adams, DPMSolver, Heun, NonStationary, UniPC, sample
from backdrift.solvers.tables.grid import Points, time_grid
from backdrift.solvers.tables.lower_begin import BEGIN_RATIO
from backdrift.solvers.tables.non_stationary import canonical

diffusers = pytest.importorskip("diffusers", reason='needs diffusers: pip install "backdrift[diffusers]"')
scheduling = pytest.importorskip("backdrift.interop.table_scheduler")
TableScheduler = scheduling.TableScheduler
from_diffusers = pytest.importorskip("backdrift.interop.diffusers").from_diffusers


class Exact(torch.nn.Module):
    """A network of diffusers' interface whose output is exact for a mixture in 4 dimensions."""

    dtype = torch.float64

    def __init__(self, scheduler: Any, kind: str) -> None:
        super().__init__()
        means = torch.tensor([[-1.0, 0.5, 0.0, 0.2], [1.0, 0.0, -0.5, 0.3]], dtype=torch.float64)
        self.sde = Discrete(scheduler.alphas_cumprod.double())
        self.mixture, self.kind = GaussianMixture(means, 0.3, sde=self.sde), kind

    def forward(self, x: Tensor, timestep: Any, return_dict: bool = True) -> Any:
        t = torch.as_tensor(timestep).double() + 1
        denoised = self.mixture.denoise(x.double(), t)
        shape = (-1, *(1,) * (x.ndim - 1)) if t.ndim else ()
        alpha, sigma = self.sde.alpha(t).reshape(shape), self.sde.sigma(t).reshape(shape)
        noise = (x - alpha * denoised) / sigma
        output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * denoised, "sample": denoised}[self.kind]
        return SimpleNamespace(sample=output.to(x.dtype))


def loop(scheduler: Any, network: Any, x: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample
    return x


def tuned(model: Any, steps: int) -> NonStationary:
    """A solver in the form in which `tune` returns one."""
    solver = Adams(steps=steps, begin="T").for_model(model)
    points = Points(model.sde, solver.times(model.sde))
    carries, weights = canonical(solver.table(model.sde), points)
    rows = [row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)]
    return NonStationary(ratios=points.ratio.tolist(), carries=carries.tolist(), weights=rows)


SOLVERS = [Adams(), DDIM(), Heun(), DPMSolver(order=3), UniPC(), Adams(final="stop", eps=5.0), "tuned"]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("epsilon", {}),
        ("v_prediction", {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"}),
        ("sample", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True, "clip_sample_range": 0.9}),
    ],
)
@pytest.mark.parametrize("start", ["auto", None])
def test_samples_are_our_own(solver: Any, kind: str, config: dict[str, Any], start: str | None) -> None:
    theirs = diffusers.DDIMScheduler(**{"clip_sample": False, "prediction_type": kind, **config})
    network = Exact(theirs, kind)
    model = from_diffusers((network, theirs))
    if solver == "tuned":
        solver = tuned(model, 6)
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=0.5, start=start)
    eps = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    begin = "T" if start is None else "auto"
    own = solver if isinstance(solver, NonStationary) else dataclasses.replace(solver, steps=6, begin=begin)
    expected = sample(model, own, x_T=model.sde.prior.std * eps)
    scheduler.set_timesteps(6)
    # The times are in float32, which rounds a timestep of 999 to 3e-5 of a step.
    assert float((loop(scheduler, network, scheduler.init_noise_sigma * eps, 6) - expected).abs().max()) < 1e-5


def test_a_pipeline_takes_it() -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    for kind in (diffusers.DDPMPipeline, diffusers.DDIMPipeline):
        pipeline = kind(unet, diffusers.DDPMScheduler())
        model = from_diffusers(pipeline)
        pipeline.scheduler = TableScheduler.from_config(
            pipeline.scheduler.config, solver=Adams(), data_std=0.5, start=None
        )
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline(2, torch.Generator().manual_seed(3), num_inference_steps=5, output_type="np").images
        noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        ours = sample(model, Adams(steps=5, begin="T"), x_T=noise)
        assert torch.allclose(torch.from_numpy(made).permute(0, 3, 1, 2), (ours / 2 + 0.5).clamp(0, 1), atol=1e-4)


def test_a_solver_that_was_tuned_below_T_starts_there() -> None:
    """The noise is drawn at the scale of its first evaluation, and a state of add_noise there holds its part of x_0."""
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network, steps = Exact(theirs, "epsilon"), 4
    model = from_diffusers((network, theirs), data_std=0.7)
    begun = Adams(steps=steps).for_model(model)
    points = Points(model.sde, begun.times(model.sde))
    carries, weights = canonical(dataclasses.replace(begun, begin="T").table(model.sde, points.t), points)
    rows = [row[: k + 1].flip(0).tolist() for k, row in enumerate(weights)]
    solver = NonStationary(ratios=points.ratio.tolist(), carries=carries.tolist(), weights=rows, begin="lower")
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=0.7)
    scheduler.set_timesteps(steps)
    eps = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = loop(scheduler, network, scheduler.init_noise_sigma * eps, steps)
    assert float((made - sample(model, Adams(steps=steps), x_T=model.sde.prior.std * eps)).abs().max()) < 1e-5
    scheduler.set_timesteps(steps)
    x = state = scheduler.add_noise(
        torch.full((16, 4), 0.5, dtype=torch.float64), eps, scheduler.timesteps[:1].expand(16)
    )
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    own = dataclasses.replace(begun, grid=points.t.tolist(), begin="T")
    assert float((x - sample(model, own, x_T=state)).abs().max()) < 1e-5


def test_the_order_is_that_of_diffusers() -> None:
    """Pipelines that begin in the middle multiply by it. Heun has two evaluations a step, and one for the last."""
    config = diffusers.HeunDiscreteScheduler().config
    theirs, ours = diffusers.HeunDiscreteScheduler(), TableScheduler.from_config(config, solver=Heun())
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
    assert ours.order == theirs.order == 2 and len(ours.timesteps) == len(theirs.timesteps) == 11


@pytest.mark.parametrize("named", [True, False], ids=["set_begin_index", "by the first timestep"])
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("solver", SOLVERS[:-1], ids=str)
def test_a_start_in_the_middle_is_our_own_solver_on_the_times_that_are_left(
    solver: Any, strength: float, named: bool
) -> None:
    """The steps of `get_timesteps` in the pipelines from picture to picture, from alpha x_0 + sigma eps there."""
    steps, theirs = 6, diffusers.DDIMScheduler(clip_sample=False)
    network = Exact(theirs, "epsilon")
    model = from_diffusers((network, theirs))
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=0.5, start=None)
    scheduler.set_timesteps(steps)
    skipped = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[skipped * scheduler.order :]
    if named:
        scheduler.set_begin_index(skipped * scheduler.order)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 16, 4, generator=generator, dtype=torch.float64)
    x = start = scheduler.add_noise(x0, eps, timesteps[:1].expand(16))
    for t in timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample

    own = dataclasses.replace(solver, steps=steps, data_std=0.5, begin="T")
    grid = own.times(model.sde)[skipped:]
    torch.testing.assert_close(start, model.sde.alpha(grid[0]) * x0 + model.sde.sigma(grid[0]) * eps, rtol=0, atol=1e-5)
    left = dataclasses.replace(own, grid=grid.tolist(), steps=steps - skipped)
    if len(grid) > 1:
        expected = sample(model, left, x_T=start)
    else:  # one step to the data from the only time that is left, as `final` says
        alpha, denoised = model.sde.alpha(grid), model.denoise(start, grid[0])
        expected = (start / alpha + denoised) / 2 if own.final == "half_step" else denoised
    assert float((x - expected).abs().max()) < 1e-5
    # and anew from the noise
    scheduler.set_timesteps(steps)
    assert scheduler.begin_index is None and len(scheduler.timesteps) > len(timesteps)


def test_where_no_step_begins_is_refused() -> None:
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    config = theirs.config
    scheduler = TableScheduler.from_config(config, solver=Heun())
    with pytest.raises(ValueError, match=r"^begin_index: expected set_timesteps"):
        scheduler.set_begin_index(2)
    scheduler.set_timesteps(6)
    with pytest.raises(ValueError, match=r"^begin_index: expected an index at which a step of Heun begins, got 3; "):
        scheduler.set_begin_index(3)
    with pytest.raises(ValueError, match=r"^begin_index: expected an integer from 0 to 10"):
        scheduler.set_begin_index(11)
    fitted = TableScheduler.from_config(config, solver=tuned(from_diffusers((Exact(theirs, "epsilon"), theirs)), 4))
    fitted.set_timesteps(4)
    fitted.set_begin_index(0)
    with pytest.raises(ValueError, match=r"^begin_index: .* got 1; its weights were tuned for the way from the noise"):
        fitted.set_begin_index(1)


class StartsAt(Discrete):
    """The same process, with another time at which grids begin."""

    start = 0.0

    def __init__(self, alphas_cumprod: Tensor, start: float) -> None:
        super().__init__(alphas_cumprod)
        self.start = start


class GivenFirst(Model):
    """A model whose first evaluation gives what it is told."""

    def __init__(self, model: Any, first: Tensor) -> None:
        self.model, self.sde, self.first = model, model.sde, [first]

    def denoise(self, x: Tensor, t: Any) -> Tensor:
        return self.first.pop() if self.first else self.model.denoise(x, t)


@pytest.mark.parametrize("solver", [Adams(), Adams(predict="noise", order=3), Heun()], ids=str)
def test_a_later_start_is_the_flow_of_a_constant_denoiser_to_there(solver: Any) -> None:
    """x' = sigma' eps + alpha' (1 - r'/r_T) D(sigma' eps, t'), and from there the solver on its own times."""
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network = Exact(theirs, "epsilon")
    model, steps, d = from_diffusers((network, theirs)), 6, 0.7
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=d)
    scheduler.set_timesteps(steps)
    sde, ratio = model.sde, BEGIN_RATIO * steps * d
    first = sde.t_from_log_snr(-2 * torch.tensor(ratio, dtype=torch.float64).log())
    assert abs(float(scheduler.timesteps[0] + 1 - first)) < 1e-3
    assert scheduler.init_noise_sigma == pytest.approx(float(sde.sigma(first)), abs=1e-7)
    eps = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = sde.sigma(first) * eps
    at_T = float(sde.sigma(1000.0) / sde.alpha(1000.0))
    denoised = model.denoise(x, first)
    begun = x + sde.alpha(first) * (1 - ratio / at_T) * denoised
    own = dataclasses.replace(solver, steps=steps, data_std=d)
    times = time_grid(solver.grid, StartsAt(sde.alphas_cumprod, float(first)), steps - 1, own.end(sde), d)
    own = dataclasses.replace(own, grid=times.tolist())
    expected = sample(GivenFirst(model, denoised), own, x_T=begun)
    assert float((loop(scheduler, network, x, steps) - expected).abs().max()) < 1e-5
    # A state that add_noise made at the first timestep holds its part of x_0.
    scheduler.set_timesteps(steps)
    y = state = scheduler.add_noise(denoised, eps, scheduler.timesteps[:1].expand(16))
    for t in scheduler.timesteps:
        y = scheduler.step(network(y, t).sample, t, y).prev_sample
    assert float((y - sample(model, own, x_T=state)).abs().max()) < 1e-5


class Erring(Exact):
    """A network whose noise is off by 0.02, as that of a trained one is."""

    def forward(self, x: Tensor, timestep: Any, return_dict: bool = True) -> Any:
        error = 0.02 * torch.cos(20 * x + torch.arange(4))
        return SimpleNamespace(sample=super().forward(x, timestep).sample + error)


@pytest.mark.parametrize(("kind", "times_nearer"), [(Exact, 1.5), (Erring, 3.0)])
def test_a_later_start_ends_nearer_to_the_exact_flow(kind: type[Exact], times_nearer: float) -> None:
    """At T = 1000 the denoiser errs by sigma/alpha = 157 times 0.02. The median distance in 5 steps says so."""
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network = kind(theirs, "epsilon")
    eps = torch.randn(256, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = sample(from_diffusers((network, theirs)), Adams(steps=200), x_T=eps)
    far = {}
    for start in (None, "auto"):
        scheduler = TableScheduler.from_config(theirs.config, solver=Adams(), data_std=0.7, start=start)
        scheduler.set_timesteps(5)
        ends = loop(scheduler, network, scheduler.init_noise_sigma * eps, 5)
        far[start] = float((ends - exact).square().mean(1).sqrt().median())
    assert far[None] > times_nearer * far["auto"]


@pytest.mark.parametrize(
    "solver", [Adams(order=2, predict="noise"), DDIM(grid=[1000.0, 500.0, 20.0]), "tuned"], ids=str
)
def test_it_is_saved_and_loaded(solver: Any, tmp_path: Path) -> None:
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network, steps = Exact(theirs, "epsilon"), 3
    if solver == "tuned":
        solver = tuned(from_diffusers((network, theirs)), steps)
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=0.4)
    scheduler.save_pretrained(tmp_path)
    again = TableScheduler.from_pretrained(tmp_path)
    assert type(again.solver) is type(solver) and again.config["data_std"] == 0.4
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(loop(scheduler, network, x, steps), loop(again, network, x, steps))
    # and a change of the solver alone
    other = TableScheduler.from_config(again.config, solver=DDIM())
    assert type(other.solver) is DDIM


def test_values_that_a_config_has_by_default_are_kept() -> None:
    """DDIM clips by default, and an own default of no clipping must not replace that."""
    assert TableScheduler.from_config(diffusers.DDIMScheduler().config).reading.clip == 1.0
    assert TableScheduler.from_config(diffusers.DPMSolverMultistepScheduler().config).reading.clip is None


def test_half_precision_rounds_no_state() -> None:
    """What a pipeline sees is rounded to bfloat16; the next step continues from the state before rounding."""
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network = Exact(theirs, "epsilon")
    scheduler = TableScheduler.from_config(theirs.config, solver=DDIM())
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    exact = loop(scheduler, network, x.double(), 50)

    def rounded_output(value: Tensor, t: Any) -> Any:
        return network(scheduler._states[-1] if scheduler._states else value.float(), t)

    half = loop(scheduler, rounded_output, x.bfloat16(), 50)
    assert half.dtype == torch.bfloat16
    first = loop(scheduler, network, x.bfloat16().double(), 50)
    torch.testing.assert_close(half.double(), first, rtol=2**-7, atol=1e-3)
    assert bool((exact - first).abs().max() < 0.1)


def test_a_flow_matching_config() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler = TableScheduler.from_config(theirs.config, solver=DDIM())
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()

    def called(x: Tensor, t: Any) -> Any:
        return SimpleNamespace(sample=network(x) * (t / 1000))

    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    model = from_diffusers((lambda x, t: called(x, t.reshape(-1, 1, 1, 1)), theirs))
    with torch.no_grad():
        ours = sample(model, DDIM(steps=5, data_std=1.0), x_T=x)
        assert float((loop(scheduler, called, x, 5) - ours).abs().max()) < 1e-5
    added = scheduler.add_noise(x, torch.ones_like(x), torch.tensor([250.0, 1000.0]))
    torch.testing.assert_close(added, torch.stack([0.75 * x[0] + 0.25, torch.ones_like(x[1])]))


def test_add_noise_is_that_of_diffusers() -> None:
    theirs = diffusers.DDIMScheduler()
    ours = TableScheduler.from_config(theirs.config)
    x, eps, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([10, 700])
    torch.testing.assert_close(ours.add_noise(x, eps, t), theirs.add_noise(x, eps, t))
    torch.testing.assert_close(ours.scale_noise(x, t, eps), theirs.add_noise(x, eps, t))


@pytest.mark.parametrize("solver", [Adams(), Heun(), Adams(final="stop")], ids=str)
def test_given_timesteps_are_the_grid_of_the_solver(solver: Any) -> None:
    theirs = diffusers.DDIMScheduler(clip_sample=False)
    network = Exact(theirs, "epsilon")
    model = from_diffusers((network, theirs))
    scheduler = TableScheduler.from_config(theirs.config, solver=solver, data_std=0.5)
    given = [900, 700.5, 300, 20]
    steps = 4 - (solver.final == "stop")
    own = dataclasses.replace(solver, steps=steps, grid=[901, 701.5, 301, 21], data_std=0.5)
    eps = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for times in (given, np.array(given), torch.tensor(given)):
        scheduler.set_timesteps(timesteps=times)
        assert scheduler.num_inference_steps == steps
        x = scheduler.init_noise_sigma * eps
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        assert float((x - sample(model, own, x_T=model.sde.prior.std * eps)).abs().max()) < 1e-5
    # and from the middle
    k = scheduler.order
    scheduler.set_begin_index(k)
    assert len(scheduler._expected) == len(scheduler.timesteps) - k


def test_given_noise_levels_are_those_of_the_process() -> None:
    scheduler = TableScheduler.from_config(diffusers.DDIMScheduler().config, solver=DDIM())
    sde, levels = scheduler.reading.sde, [157.4, 10.0, 1.0, 0.1]  # the largest one rounded up from 157.4066...
    scheduler.set_timesteps(sigmas=[*levels, 0.0])
    t = scheduler.timesteps.double() + 1
    torch.testing.assert_close((sde.sigma(t) / sde.alpha(t)).tolist(), levels, rtol=1e-4, atol=0)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler = TableScheduler.from_config(flow.config, solver=Adams())
    scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=0.3)
    # 2 s/(1 + s), and the first one where alpha is not 0 yet
    assert scheduler.timesteps.tolist() == pytest.approx([1000 * scheduler.reading.sde.start, 2000 / 3], rel=1e-6)


def test_the_way_back_to_a_scheduler_of_diffusers_loses_nothing(tmp_path: Path) -> None:
    """The settings of the other scheduler stay in the config, saved or not."""
    settings = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, "beta_end": 0.03}
    theirs = diffusers.DPMSolverMultistepScheduler(**settings)
    ours = TableScheduler.from_config(theirs.config, solver=DDIM())
    assert type(theirs) in ours.compatibles
    ours.save_pretrained(tmp_path)
    for scheduler in (ours, TableScheduler.from_pretrained(tmp_path)):
        back = diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config)
        assert {name: back.config[name] for name in settings} == settings
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    ours = TableScheduler.from_config(flow.config)
    assert type(flow) in ours.compatibles and diffusers.DDIMScheduler not in ours.compatibles
    back = diffusers.FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    assert back.config.shift == 3 and back.config.use_dynamic_shifting


def test_a_pipeline_with_our_scheduler_is_read_as_before() -> None:
    theirs = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample_range=2.0)
    network = Exact(theirs, "epsilon")
    before = from_diffusers((network, theirs))
    after = from_diffusers((network, TableScheduler.from_config(theirs.config)))
    assert torch.equal(after.sde.alphas_cumprod, before.sde.alphas_cumprod) and after.clip == before.clip == 2
    flow = TableScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler().config)
    assert type(from_diffusers((network, flow)).sde).__name__ == "Rectified"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        (
            "EDMEulerScheduler",
            {},
            "^beta_schedule: expected the config of a scheduler with one",
        ),
        ("IPNDMScheduler", {}, "^beta_schedule: expected the config"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "^timestep_type: expected 'discrete', got 'contin"),
        ("CogVideoXDDIMScheduler", {}, r"^snr_shift_scale: expected 1.0, got 3.0"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "^invert_sigmas: expected False, got True"),
    ],
)
def test_another_process_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    theirs = getattr(diffusers, name)(**settings)
    with pytest.raises(ValueError, match=said):
        TableScheduler.from_config(theirs.config)
    if settings:
        with pytest.raises(ValueError, match=said):
            from_diffusers((lambda x, t: x, theirs))


def test_misuse_is_refused() -> None:
    config = diffusers.DDIMScheduler().config
    with pytest.raises(ValueError, match=r"^solver: expected a deterministic one, got DDIM"):
        TableScheduler.from_config(config, solver=DDIM(eta=1.0))
    with pytest.raises(TypeError, match=r"^solver: expected a solver on a fixed grid"):
        TableScheduler.from_config(config, solver=3)
    with pytest.raises(ValueError, match=r"^solver: expected the class of a solver"):
        TableScheduler.from_config(config, solver={"class": "sample"})
    with pytest.raises(ValueError, match=r"^grid: expected a name or numbers"):
        TableScheduler.from_config(
            config, solver=DDIM(grid=lambda sde, n, first, last: torch.linspace(first, last, n + 1))
        )
    with pytest.raises(ValueError, match=r"^variance_type: "):
        TableScheduler.from_config(diffusers.DDPMScheduler(variance_type="learned_range").config)
    with pytest.raises(TypeError, match=r"^slover: expected one of"):
        TableScheduler.from_config(config, slover=DDIM())
    with pytest.raises(ValueError, match=r"^start: expected 'auto' or None, got 'T'"):
        TableScheduler.from_config(config, start="T")
    scheduler = TableScheduler.from_config(config, start=None)
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"^timesteps: expected set_timesteps"):
        scheduler.step(x, 1, x)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"^timestep: expected 999, as steps are taken in order, got 998"):
        scheduler.step(x, 998, x)
    scheduler.set_begin_index(1)
    with pytest.raises(ValueError, match=r"^timestep: expected .*, as steps are taken in order, got 999"):
        scheduler.step(x, scheduler.timesteps[0], x)
    for given, said in (
        ({"timesteps": [900, 1], "sigmas": [1.0, 0.0]}, "^timesteps: expected timesteps or sigmas, got both"),
        ({}, "^num_inference_steps: expected a number of steps, timesteps or sigmas, got none"),
        ({"timesteps": [1, 900]}, "^timesteps: expected numbers that fall from the noise to the data, got"),
        ({"timesteps": []}, "^timesteps: expected numbers that fall"),
        ({"timesteps": [1000, 1]}, "^timesteps: expected numbers from 0 to 999, got"),
        ({"sigmas": [10.0, 1.0]}, r"^sigmas: expected numbers of sigma/alpha from at most 157\.\d+ to a last one of 0"),
        ({"sigmas": [200.0, 0.0]}, "^sigmas: expected numbers of sigma/alpha from at most"),
        ({"timesteps": [900, 1], "num_inference_steps": 3}, "^num_inference_steps: expected 2, the number of times"),
    ):
        with pytest.raises(ValueError, match=said):
            scheduler.set_timesteps(**given)
    with pytest.raises(ValueError, match=r"^timesteps: expected none with a tuned solver"):
        TableScheduler.from_config(
            config,
            solver=tuned(from_diffusers((Exact(diffusers.DDIMScheduler(), "epsilon"), diffusers.DDIMScheduler())), 3),
        ).set_timesteps(timesteps=[900, 500, 100])
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"^eta: expected 0"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=0.5)
