"""Our deterministic solvers as a scheduler of diffusers. Importing this file imports diffusers."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from backdrift.interop.diffusers_scheduler import read_scheduler, require_known_config
from backdrift.interop.pipeline_rows import evaluations, evaluations_of_a_step, rows_of_the_rest, with_so_many
from backdrift.interop.solver_in_config import AnySolver, described, solver_from
from backdrift.sde import tweedie
from backdrift.sde.checks import require_integer, require_positive
from backdrift.sde.value_types import got
from backdrift.solvers import NonStationary, Row, Table, TableSolver
from backdrift.solvers.model import HALF
from backdrift.solvers.tables.grid import Points

try:
    import diffusers
    from diffusers import ConfigMixin, DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput

    from backdrift.interop.given_times import given_times
except ImportError as error:
    raise ImportError('TableScheduler needs diffusers: pip install "backdrift[diffusers]"') from error

TOLERANCE = 1e-3
"""Timesteps that differ by less are the same: pipelines keep them in float32."""

_WHERE_STEPS_BEGIN = {
    False: "the evaluations within a step are none",
    True: "its weights were tuned for the way from the noise, so take another solver to begin in the middle",
}


class TableScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler of diffusers that takes the steps of one of our deterministic solvers, tuned ones included.

        >>> pipeline.scheduler = TableScheduler.from_config(pipeline.scheduler.config, solver=Adams())
        >>> pipeline(num_inference_steps=10)

    Its samples are those of `sample(from_diffusers(pipeline), solver, x_T=noise)`, to rounding. The steps are taken in
    their order. A pipeline may begin in the middle, as one from picture to picture does: then the samples are those of
    the solver on the times that are left, `grid=times[k:]` with that many steps, from the noise level there.

    Main arguments:
        solver: a deterministic solver on a fixed grid, such as `Adams()`, `Heun()`, or the `solver` of a `Tuned`; or
            the dictionary that a saved config has in its place. By default `Adams()`. `set_timesteps` sets its steps.
        data_std: the standard deviation of the data, where the solver has none of its own: 1 for latents, which are
            scaled to it, and about 0.5 for pictures in [-1, 1].
        start: "auto" begins as the solver's own `begin` says: by default at less noise than there is at T, where the
            network predicts the noise and the steps are few, see `solvers.tables.lower_begin`. None begins at T, as
            solvers with begin="T" do.

    Other arguments:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: as in diffusers' `DDIMScheduler`.
        rescale_betas_zero_snr, clip_sample, clip_sample_range: likewise.
        prediction_type: likewise, and "flow_prediction" for flow matching.
        thresholding: must be False.
        timestep_spacing, steps_offset: kept for pipelines that read them. The solver's grid chooses the times.

    Attributes:
        timesteps: of all evaluations of the network, `[n]` in float32. They need not be whole numbers.
        init_noise_sigma: the standard deviation of the noise that the samples start from. `DDPMPipeline` and
            `DDIMPipeline` start from 1 all the same, which is off by 0.5% in 5 steps and by less in more.
        order: evaluations of a step, the last one aside: 2 for `Heun`, as in diffusers. Pipelines that begin in the
            middle count by it. It is 1 where steps differ in their evaluations.
        begin_index: the index in `timesteps` of the first evaluation, or None if it is the first of all.

    Raises:
        ValueError: if the solver is stochastic or unknown, or the config is refused, see `from_diffusers`.
        TypeError: if the solver is of another kind.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012 - as diffusers has it
    order = 1
    begin_index: int | None = None

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        solver: AnySolver | Mapping[str, Any] | None = None,
        data_std: float = 1.0,
        start: Literal["auto"] | None = "auto",
    ) -> None:
        require_positive(data_std=data_std)
        require_integer("num_train_timesteps", num_train_timesteps, 1)
        if start not in ("auto", None):
            raise ValueError(f"start: expected 'auto' or None, got {start!r}")
        self.solver = solver_from(solver)
        self.register_to_config(solver=described(self.solver))
        if prediction_type == "flow_prediction":
            self.reading = read_scheduler(FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_train_timesteps))
            # Pipelines that have times of their own leave them to a scheduler which says this.
            self.register_to_config(use_flow_sigmas=True)
        else:
            known = {name: value for name, value in self.config.items() if name not in ("solver", "data_std", "start")}
            try:
                theirs = DDPMScheduler.from_config({**known, "_class_name": "DDPMScheduler"})
            except NotImplementedError as error:  # of diffusers, for a schedule that it does not know
                raise ValueError(
                    f"beta_schedule: expected one of DDPMScheduler, such as linear, got {beta_schedule!r}"
                ) from error
            self.reading, self.alphas_cumprod = read_scheduler(theirs), theirs.alphas_cumprod
        self.reading = dataclasses.replace(self.reading, clip=clip_sample_range if clip_sample else None)
        self.init_noise_sigma = float(self.reading.sde.prior.std)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps, dtype=torch.float32).flip(0)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler with the process and the conventions of a config, as `pipeline.scheduler.config` is one.

        A value that the config has only by default in its own class, such as `clip_sample=True` of `DDIMScheduler`, is
        kept. Settings of the other scheduler's own solver, such as `solver_order`, have no meaning here. They stay in
        the config, so that the way back, `DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)`, finds
        them again.

        Args:
            config: the config.
            return_unused_kwargs: as in diffusers.
            kwargs: arguments of this class, above all `solver` and `data_std`.

        Raises:
            ValueError: if the config is that of another process, or the network has a learned variance.
            TypeError: if an argument is not one of this class.
        """
        own = cls._get_init_keys(cls) - {"self"}
        unknown = [name for name in kwargs if name not in own]
        if unknown and not return_unused_kwargs:
            raise TypeError(f"{unknown[0]}: expected one of the arguments {', '.join(sorted(own))}")
        if not isinstance(config, Mapping):
            raise ValueError(
                f"config: expected that of a scheduler, as `pipeline.scheduler.config` is, got {got(config)}"
            )
        known = {name: value for name, value in dict(config).items() if name != "_use_default_values"}
        if "FlowMatch" in str(config.get("_class_name", "")) or "base_shift" in config:
            known["prediction_type"] = "flow_prediction"  # their schedulers of flow matching have no entry for it
        require_known_config(known)
        return super().from_config(known, return_unused_kwargs, **kwargs)

    @property
    def compatibles(self) -> list[Any]:
        """The schedulers of diffusers that sample from the same networks and read this config."""
        if self.config["prediction_type"] != "flow_prediction":
            return self._get_compatibles()
        return [diffusers.FlowMatchEulerDiscreteScheduler, diffusers.FlowMatchHeunDiscreteScheduler]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Make the table of the solver with so many steps, or on given times, and begin anew.

        A step of some solvers takes several evaluations, so `timesteps` may be longer.

        Args:
            num_inference_steps: the steps of the solver. A tuned solver has its own number, and takes no other.
            device: of `timesteps`.
            timesteps: the timesteps at which the steps begin, in place of the grid of the solver. The last step goes
                to the data, or with final="stop" the solver stops at the last one.
            sigmas: the same as noise levels: sigma/alpha, with a last one of 0, or for flow matching the times that
                diffusers' `FlowMatchEulerDiscreteScheduler` takes, which the config and `mu` shift.
            mu: how far `sigmas` are shifted for the size of a picture. The solver's own grid does not use it.

        Raises:
            ValueError: if the solver takes no such number of steps, or no such times.
        """
        solver = self._solver_on(num_inference_steps, timesteps, sigmas, mu)
        rows = self._first_rows(solver, from_T=True)
        self.num_inference_steps = len(solver.ratios) if isinstance(solver, NonStationary) else solver.steps
        self.begin_index, self._from_T = None, True
        self.timesteps = self.reading.timestep(evaluations(rows)).to(device)
        self._solver = solver
        self.order = evaluations_of_a_step(rows)
        self._take(rows)

    def _solver_on(
        self,
        steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
    ) -> AnySolver:
        """The solver with so many steps, or with given times as its grid."""
        if timesteps is None and sigmas is None:
            if steps is None:
                raise ValueError("num_inference_steps: expected a number of steps, timesteps or sigmas, got none")
            require_integer("num_inference_steps", steps, 1)
            return self._begun(self._with_steps(steps))
        if isinstance(self.solver, NonStationary):
            raise ValueError("timesteps: expected none with a tuned solver, which has times of its own")
        times = given_times(self.reading, self.config, timesteps, sigmas, mu)
        if steps not in (None, len(times)):
            raise ValueError(f"num_inference_steps: expected {len(times)}, the number of times given, got {steps}")
        if self.solver.needs_ratio:
            times[0] = min(times[0], self.reading.sde.start)
        data_std = self.solver.data_std or self.config["data_std"]
        on_times = dataclasses.replace(self.solver, grid=times, data_std=data_std)
        return with_so_many(on_times, len(times) - (self.solver.final == "stop"))

    def _begun(self, solver: AnySolver) -> AnySolver:
        """The solver with the begin of its grid as `start` and the prediction of the network say."""
        if isinstance(solver, NonStationary):
            return solver
        if self.config["start"] is None:
            return dataclasses.replace(solver, begin="T")
        return dataclasses.replace(solver, begin=solver.begin_for(self.reading))

    def _first_rows(self, solver: AnySolver, from_T: bool) -> Sequence[Row]:
        """The rows of all steps: for noise, where the grid may begin below T, or for a state at the grid's first time.

        Below T the first row scales the noise and evaluates nothing. Here the noise is drawn at that scale.
        """
        sde = self.reading.sde
        self.init_noise_sigma = float(sde.prior.std)
        if not from_T and isinstance(solver, NonStationary):
            return Table(tuple(solver.rows(Points(sde, solver.times(sde))))).numbers().rows
        if not from_T and isinstance(solver, TableSolver):
            return dataclasses.replace(solver, begin="T").table(sde, solver.times(sde)).numbers().rows
        rows = solver.table(sde).numbers().rows
        if rows[0].at is not None:
            return rows
        self.init_noise_sigma *= float(rows[0].carry)
        return rows[1:]

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at `timesteps[begin_index]`, with the noise level there. Call it between `set_timesteps` and `step`.

        Pipelines from picture to picture call it. Without it the first `timestep` that `step` is called with says where
        to begin.

        Args:
            begin_index: an index in `timesteps` at which a step of the solver begins.

        Raises:
            ValueError: if no step begins there, or the solver was tuned: its weights are for the way from the noise.
        """
        if self.num_inference_steps is None:
            raise ValueError("begin_index: expected set_timesteps(num_inference_steps) before it")
        require_integer("begin_index", begin_index, 0, len(self.timesteps) - 1)
        rows = self._rows_from(begin_index)
        if rows is None:
            raise ValueError(
                f"begin_index: expected an index at which a step of {type(self.solver).__name__} begins, got "
                f"{begin_index}; " + _WHERE_STEPS_BEGIN[isinstance(self.solver, NonStationary)]
            )
        self.begin_index = begin_index
        self._take(rows)

    def _take(self, rows: Sequence[Row]) -> None:
        """Run these rows from now on."""
        self._expected = self.reading.timestep(evaluations(rows)).tolist()
        self._rows: Iterator[Row] = iter(rows)
        self._row: Row | None = next(self._rows)
        self._states: deque[Tensor] = deque(maxlen=1 + max(row.base for row in rows))
        self._values: deque[Tensor] = deque(maxlen=max(1, *(len(row.weights) for row in rows)))
        self._returned: Tensor | None = None

    def _rows_from(self, index: int) -> Sequence[Row] | None:
        """The rows of the solver on the times from `timesteps[index]` on, or None if no step of it begins there."""
        if index == 0:
            return self._first_rows(self._solver, self._from_T)
        if isinstance(self._solver, NonStationary):
            return None
        return rows_of_the_rest(self._solver, self.reading, self.timesteps[index:])

    def _with_steps(self, steps: int) -> AnySolver:
        if isinstance(self.solver, NonStationary):
            if steps != len(self.solver.ratios):
                own = len(self.solver.ratios)
                raise ValueError(f"num_inference_steps: expected {own}, which the solver was tuned for, got {steps}")
            return self.solver
        data_std = self.solver.data_std or self.config["data_std"]
        return dataclasses.replace(self.solver, steps=steps, data_std=data_std)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state itself: the network is given x_t = alpha x_0 + sigma eps as it is."""
        return sample

    @torch.no_grad()
    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = True,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The next state, from the output of the network at the current one.

        States and coefficients are in float32 where the sample is in half precision.

        Args:
            model_output: what the network returned at `sample` and `timestep`.
            timestep: the next one of `timesteps`. The first call may have any of them at which a step begins.
            sample: the state, as the last step returned it. A pipeline may have changed it.
            eta: must be 0, since the solvers draw no noise.
            use_clipped_model_output: not used. The noise is always that of the clipped denoiser.
            generator: not used, for the same reason as `eta`.
            return_dict: whether to return an object with `prev_sample`, and not a tuple.

        Raises:
            ValueError: if `timestep` is not the next one, or `eta` is not 0.
        """
        if eta != 0:
            raise ValueError(f"eta: expected 0, since {type(self.solver).__name__} draws no noise, got {eta}")
        if self.num_inference_steps is None:
            raise ValueError("timesteps: expected set_timesteps(num_inference_steps) before the first step")
        if not self._states and self.begin_index is None:
            self._begin_at(float(timestep))
        if not self._expected or abs(float(timestep) - self._expected[0]) > TOLERANCE:
            due = f"{self._expected[0]:g}, as steps are taken in order," if self._expected else "none, as all are done,"
            raise ValueError(f"timestep: expected {due} got {float(timestep):g}; set_timesteps begins anew")
        self._expected.pop(0)
        x = self._state(sample)
        assert self._row is not None and self._row.at is not None
        value = model_output.to(x.dtype)
        denoised = tweedie(value, x, self._row.at, self.reading.sde, self.reading.predicts, "denoised")
        if self.reading.clip is not None:
            denoised = denoised.clamp(-self.reading.clip, self.reading.clip)
        self._values.appendleft(denoised + self._row.slope * x)
        x = self._advanced()
        self._returned = x.to(sample.dtype)
        return SchedulerOutput(prev_sample=self._returned) if return_dict else (self._returned,)

    def _begin_at(self, timestep: float) -> None:
        """Begin at the first of `timesteps` that is `timestep` and at which a step begins, if there is one."""
        near = (self.timesteps - timestep).abs() <= TOLERANCE
        for index in near.nonzero().flatten().tolist():
            rows = self._rows_from(index) if index else None
            if rows is not None:
                self.begin_index = index
                self._take(rows)
                return

    def _state(self, sample: Tensor) -> Tensor:
        """The state of `sample` in float32 or better. What the last step returned has it without rounding."""
        x = sample.float() if sample.dtype in HALF else sample
        if not self._states:
            self._states.append(x)
        elif sample is not self._returned:
            self._states[-1] = x
        return self._states[-1]

    def _advanced(self) -> Tensor:
        """Run the row of this evaluation, and those after it that need none."""
        while self._row is not None:
            row = self._row
            x = row.carry * self._states[-1 - row.base]
            for weight, value in zip(row.weights, self._values, strict=False):
                x = x + weight * value
            self._states.append(x)
            self._row = next(self._rows, None)
            if self._row is not None and self._row.at is not None:
                break
        return self._states[-1]

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x_0 + sigma eps at timesteps, one for each sample.

        At the first of `timesteps` such a state holds its part of x_0, so that the next `step` adds none.
        """
        first = None if self.num_inference_steps is None else float(self.timesteps[0])
        if first is not None and bool((timesteps.double() - first).abs().max() <= TOLERANCE):
            self._from_T = False
            self._take(self._first_rows(self._solver, from_T=False))
        sde = self.reading.sde
        times = timesteps.to(original_samples.dtype)
        t = sde.time(times) if hasattr(sde, "time") else times / self.reading.train_steps
        return sde.perturb(original_samples, t.to(original_samples.device), noise)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """The same as `add_noise`, under the name that pipelines of flow matching call."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])
