"""Posteriors of a simulator's parameters, by a conditional score-based model of simulations."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from backdrift.estimators.argument_checks import seed_of, whole_number
from backdrift.estimators.mean_network import MeanNetwork
from backdrift.estimators.table_checks import check_pairing
from backdrift.estimators.training import Budget, train
from backdrift.models import Denoiser, EDMLikelihoodTimes, LogNormalTimes, MixedTimes
from backdrift.posteriors.arguments import (
    check_bound_labels,
    check_labels,
    finite,
    labels_of,
    observations,
    parameter_rows,
    simulated,
)
from backdrift.posteriors.diagnosis import Diagnosis, diagnose_draws
from backdrift.posteriors.linear_gaussian import LinearGaussian
from backdrift.posteriors.observation_scale import ObservationScale
from backdrift.posteriors.parameter_maps import of_prior, standardising
from backdrift.posteriors.posterior_flow import BATCH, PosteriorFlow
from backdrift.posteriors.posterior_network import PosteriorNetwork
from backdrift.posteriors.sbi_interface import SBIPosterior
from backdrift.posteriors.simulation_checks import (
    check_dependence,
    check_support,
    simulations_to_fit,
    simulations_to_test,
    warn_of_another_prior,
    warn_of_exact_observations,
)
from backdrift.sde import VP, DataMoments
from backdrift.sde.checks import require_integer, require_number, require_positive
from backdrift.sde.value_types import got, require

FAR = 2.0
"""An observation is said to be far if its nearest simulation is so many times as far away as simulations are from
one another."""

TIMES = MixedTimes(LogNormalTimes(-0.8, 1.2), EDMLikelihoodTimes(1.0))
"""Half of the noise levels weigh errors as the likelihood does, and half lie where posteriors take their shape."""

WEIGHT_DECAY = 1e-2
"""Of the optimiser."""

COMPARED = 32
"""Simulations whose median numerical error is the least that is stated of any log-density."""


class SimulationPosterior(PosteriorFlow):
    r"""p(theta given x), the posterior of a simulator's parameters, learnt from pairs (theta, x).

    The parameters are mapped to the real line, z = h(theta), see `ParameterMap`, so that no posterior puts mass outside
    the support of the prior and each is normalised on it. A linear regression gives the residuals
    r = W (z - A x - b), and networks are trained by denoising score matching (Karras et al. 2022) to be the denoiser of
    r given x, as Sharrock et al. (2024) do for theta itself. The density is

    .. math:: \log p(\theta | x) = \log p_r(r | x) + \log|\det W| + \log|\det dz/d\theta|,

    with log p_r from the probability flow (Song et al. 2021, section 4.3). An untrained network gives the normal
    posterior N(A x + b, (W^T W)^{-1}) of z, and so training starts there. Each of the networks holds out another part
    of the simulations, whose denoising error under fixed noise decides when it stops. The mean of their denoisers is
    the model. Nothing is written to disk.

    Args:
        embedding: a network from observations `[batch, *shape]` to features `[batch, k]`, for images or series, which
            is copied for each member; or a function without arguments that makes one. None takes the observation
            itself.
        members: number of networks.
        hidden, depth: width of each network and number of its residual blocks.
        dropout: probability of dropping a unit in training; by default 0.1 below 5,000 simulations, and 0 from there.
        steps: steps of the optimiser for each network, at most; by default 2,000, and 4,000 from 5,000 simulations.
        batch_size: simulations in a step.
        learning_rate: the highest learning rate. It falls to 0 along a cosine.
        ema: decay of the running average of the weights. The average is the model.
        validation_fraction: the share of the simulations that each network holds out.
        patience: a network stops after so many steps without gain on what it holds out.
        noise: the least noise, in standard deviations of the residuals. The posterior is that of z with this noise.
        ode_steps: steps of the Runge-Kutta method of order 4 along the probability flow.
        verbose: whether to show progress of training on standard error.
        random_state: of the weights, the held-out simulations, the noise and, where `sample` is given none, the draws.

    Attributes:
        parameters_: the `ParameterMap`.
        observations_: the `ObservationScale`.
        parameter_names_, observation_names_: the columns of theta and x, if they were frames; otherwise None. Other
            frames must have the same columns in the same order.
        base_: the `LinearGaussian` that training started from.
        model_: the denoiser of r, which takes an observation in the units of the network as its condition.
        gains_: for each network the held-out log-likelihood less that of the linear normal posterior, in nats for each
            simulation. The weights were chosen by it, which makes it optimistic.
        n_steps_: the steps that each network took.

    Example:
        >>> from backdrift import SimulationPosterior
        >>> posterior = SimulationPosterior(random_state=0).fit(theta, x, prior=([-1, -1], [1, 1]))  # doctest: +SKIP
        >>> draws = posterior.sample(x_observed, 1000)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        embedding: nn.Module | Callable[[], nn.Module] | None = None,
        members: int = 3,
        hidden: int = 128,
        depth: int = 2,
        dropout: float | None = None,
        steps: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        ema: float = 0.995,
        validation_fraction: float = 0.1,
        patience: int = 600,
        noise: float = 0.005,
        ode_steps: int = 24,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.embedding = embedding
        self.members = members
        self.hidden = hidden
        self.depth = depth
        self.dropout = dropout
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ema = ema
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.noise = noise
        self.ode_steps = ode_steps
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, theta: Any, x: Any, *, prior: object = None) -> SimulationPosterior:
        """Learn the posterior from simulations. A second fit starts anew.

        Args:
            theta: parameters drawn from the prior, `[n, d]`; `[n]` for one parameter.
            x: what the simulator gave for each of them, `[n, *shape]`; `[n]` for one number. A simulation that failed
                has NaN or infinite numbers. It is left out, which does not change the posterior given an observation
                without any.
            prior: what `theta` was drawn from: a pair (lower, upper) of bounds, `[d]` each, infinite where there is
                none; a distribution of torch or a frozen one of scipy; or an object with `support`. None means that no
                parameter has a bound. The posterior is always that of the density which `theta` was drawn from.

        Raises:
            ValueError: if there are fewer than 20 simulations or another number of them in `x`, parameters are not
                finite numbers, one does not vary or lies outside the support, or an argument is out of range.

        Warns:
            UserWarning: if simulations failed, with their number; or if parameters were not drawn from a prior that is
                uniform between bounds or normal.
        """
        self._check_arguments()
        self.parameter_names_, self.observation_names_ = labels_of(theta), labels_of(x)
        check_bound_labels(prior, self.parameter_names_)
        check_pairing("theta", theta, "x", x)
        theta, x, kept = simulations_to_fit(theta, x)
        d = theta.shape[1]
        parameters = of_prior(prior, d)
        check_support("theta", theta, parameters)
        self.parameters_ = parameters if parameters.is_standard else standardising(parameters, theta)
        self.observation_shape_ = tuple(x.shape[1:])
        z = self.parameters_.to_real(theta)
        self._prior_moments = (z.mean(0), torch.cov(z.T).reshape(d, d))
        if parameters.is_standard:
            warn_of_another_prior(z, self.parameter_names_)
            self._prior_moments = (torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
        check_dependence(z)
        z, x = z[kept], x[kept].flatten(1)
        self.observations_ = ObservationScale.of(x)
        seen = self.observations_.standardised(x)
        self.base_ = LinearGaussian.fitted(z, seen)
        warn_of_exact_observations(self.base_, z, seen)
        self._compared = self.base_.residual(z, seen)[:COMPARED], seen[:COMPARED]
        self._usual_bounds = {}
        self._train(self.base_.residual(z, seen), seen)
        return self

    def _train(self, r: Tensor, x: Tensor) -> None:
        """Set `model_`, `gains_` and `n_steps_`."""
        n, d = r.shape
        small = n < 5000
        dropout = self.dropout if self.dropout is not None else (0.1 if small else 0.0)
        steps = self.steps if self.steps is not None else (2000 if small else 4000)
        budget = Budget(
            steps,
            self.batch_size,
            self.learning_rate,
            WEIGHT_DECAY,
            self.ema,
            self.patience,
            self.noise,
            self.verbose,
        )
        seed = seed_of(self.random_state)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(n, generator=generator)
        held = max(2, min(1000, round(self.validation_fraction * n)))
        moments = DataMoments(r.mean(0), r.var(0))
        trained: list[PosteriorNetwork] = []
        self.gains_, self.n_steps_ = [], []
        r32, x32 = r.float(), x.float()
        with torch.random.fork_rng(devices=[]):  # the weights and dropout draw from torch's own generator
            torch.default_generator.manual_seed(seed)
            for _ in range(self.members):
                out, kept = order[:held], order[held:]
                order = torch.cat((kept, out))  # the next network holds out other simulations
                made = self._embedding()
                network = PosteriorNetwork(d, self.observation_shape_, self.hidden, self.depth, dropout, made)
                model = Denoiser(network, VP(), data_std=1.0)
                best, gain, took = train(model, (r32[kept], x32[kept]), (r32[out], x32[out]), TIMES, budget, generator)
                assert isinstance(best.network, PosteriorNetwork)
                trained.append(best.network)
                self.gains_.append(gain)
                self.n_steps_.append(took)
        self.model_ = Denoiser(MeanNetwork(trained), VP(), data_std=1.0).eval().requires_grad_(False)
        self.model_.data_moments = moments

    def sample(
        self,
        x_o: Any,
        n: int = 1,
        *,
        repeated: bool = False,
        each: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """Draws of the parameters given an observation.

        Args:
            x_o: an observation, `[*shape]` or `[1, *shape]`; or several, `[k, *shape]`.
            n: number of draws.
            repeated: whether several observations are independent ones of the same parameters. Their posteriors are
                then composed, see `ComposedPosterior`, which is exact for normal posteriors and approximate for others.
            each: whether several observations are of parameters of their own, which gives draws for each.
            random_state: of the draws. The first draws of a seed are the same for any `n`.

        Returns:
            Parameters `[n, d]`, or `[k, n, d]` with `each`.

        Raises:
            ValueError: if `x_o` has another shape or values that are not finite numbers, or several observations are
                given without saying which of the two they are.

        Warns:
            UserWarning: if an observation is far from every simulation.
        """
        check_is_fitted(self, "model_")
        self._check_arguments()  # `set_params` may have changed them after the fit
        n = whole_number("n", n)
        x = self._observed(x_o, repeated, each)
        seed = seed_of(self.random_state if random_state is None else random_state)
        if repeated and len(x) > 1:
            return self._composed(x, n, seed).numpy()
        draws = self._draws(x, n, seed).numpy()
        return draws if each else draws[0]

    def log_prob(self, theta: Any, x_o: Any, *, each: bool = False, return_std: bool = False) -> Any:
        """The log-density of the posterior in nats, in the units of the parameters.

        Args:
            theta: parameters, `[m, d]`. Outside the support of the prior the log-density is minus infinity.
            x_o: an observation, `[*shape]` or `[1, *shape]`; with `each` one for each row of `theta`, `[m, *shape]`.
            each: see `x_o`.
            return_std: whether to return the numerical error of each value as well, as a standard deviation: log p plus
                and minus 1.96 of it holds the model's own log-density. It says nothing of how far the model is from the
                truth, which `diagnose` measures.

        Returns:
            log p, `[m]`, or the pair of log p and its error.

        Raises:
            ValueError: if a shape does not fit or a value is not a finite number.
        """
        check_is_fitted(self, "model_")
        self._check_arguments()
        d = len(self.parameters_.shift)
        check_labels("theta", theta, self.parameter_names_)
        given = finite("theta", theta)
        if given.ndim != 2 and not (d == 1 and given.ndim == 1):
            raise ValueError(f"theta: expected shape [m, {d}], got {list(given.shape)}")
        theta = parameter_rows("theta", given)
        if theta.shape[1] != d:
            raise ValueError(f"theta: expected shape [m, {d}], got {list(theta.shape)}")
        x = self._observed(x_o, False, each)
        if each and len(x) != len(theta):
            raise ValueError(f"x_o: expected {len(theta)} observations, one for each row of theta, got {len(x)}")
        log_p = torch.full((len(theta),), -math.inf, dtype=torch.float64)
        error = torch.zeros(len(theta), dtype=torch.float64)
        inside = self.parameters_.inside(theta).nonzero()[:, 0]
        for index in inside.split(BATCH) if len(inside) else ():
            rows = x[index] if each else x
            log_p[index], error[index] = self._log_density(theta[index], rows, return_std, int(index[0]))
        return (log_p.numpy(), error.numpy()) if return_std else log_p.numpy()

    def diagnose(
        self,
        theta_test: Any,
        x_test: Any,
        *,
        draws: int = 100,
        simulator: Callable[[np.ndarray], Any] | None = None,
        random_state: int | None = 0,
    ) -> Diagnosis:
        """Whether the posterior is calibrated on simulations that `fit` has not seen, see `diagnose_draws`.

        Args:
            theta_test: parameters drawn from the prior, `[m, d]`.
            x_test: what the simulator gave for each of them, `[m, *shape]`. Those that failed are left out, see `fit`.
            draws: posterior draws for each of them.
            simulator: takes parameters `[k, d]` to observations `[k, *shape]`, for posterior predictive checks.
            random_state: of the draws and the tests.

        Raises:
            ValueError: if a shape does not fit, a value is not a finite number, parameters lie outside the support of
                the prior or do not vary, or the simulator fails for all parameters.
        """
        check_is_fitted(self, "model_")
        check_labels("theta_test", theta_test, self.parameter_names_)
        check_labels("x_test", x_test, self.observation_names_)
        check_pairing("theta_test", theta_test, "x_test", x_test)
        theta, x = simulations_to_test(theta_test, x_test, self.parameters_, self.observation_shape_)
        draws, d = whole_number("draws", draws, 2), len(self.parameters_.shift)
        if simulator is not None and not callable(simulator):
            raise ValueError(f"simulator: expected a function of parameters [k, {d}], got {got(simulator)}")
        found = self.sample(x, draws, each=True, random_state=random_state)
        predicted = None
        if simulator is not None:
            predicted = np.stack(
                [simulated(simulator, found[:, k], tuple(x.shape[1:])) for k in range(min(draws, 50))], axis=1
            )
            if np.isnan(predicted).all():
                raise ValueError("simulator: expected finite observations, got none for any parameters")
        seen = self.observations_.standardised(x.flatten(1)).numpy()
        return diagnose_draws(found, theta.numpy(), seen, x.numpy(), predicted, random_state=random_state)

    def for_sbi(self, x_o: Any = None) -> SBIPosterior:
        """This posterior with the methods of sbi's posteriors, for the diagnostics and plots of that package.

        Args:
            x_o: the observation that is meant where `sample` or `log_prob` is given none.

        Raises:
            ValueError: if `x_o` has another shape or values that are not finite numbers.
        """
        check_is_fitted(self, "model_")
        return SBIPosterior(self, x_o)

    def _observed(self, x_o: Any, repeated: bool, each: bool) -> Tensor:
        """Observations in the units of the network, `[k, size]`, float64, with a warning where one is far."""
        check_labels("x_o", x_o, self.observation_names_)
        x = observations(x_o, self.observation_shape_, repeated, each)
        distance = self.observations_.distance(x)
        if float(distance.max()) > FAR:
            row = int(distance.argmax())
            which = (
                "x_o" if len(x) == 1 else f"x_o: {int((distance > FAR).sum())} of {len(x)} observations; number {row}"
            )
            warnings.warn(
                f"{which}: far from every simulation: the nearest one is {float(distance[row]):.3g} times as far away "
                "as 99% of the simulations are from their nearest neighbour; the posterior is extrapolated",
                stacklevel=3,
            )
        return self.observations_.standardised(x)

    def _check_arguments(self) -> None:
        given = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.get_params(deep=False).items()}
        for name in ("members", "hidden", "depth", "batch_size", "patience", "ode_steps"):
            require_integer(name, given[name], 1)
        if given["steps"] is not None:
            require_integer("steps", given["steps"], 1)
        for name in ("dropout", "ema"):
            if given[name] is not None:
                require_number(name, given[name], least=0, below=1)
        for name in ("validation_fraction", "noise"):
            require_number(name, given[name], above=0, below=1)
        require_positive(learning_rate=given["learning_rate"])
        require("verbose", given["verbose"], bool)
        if self.embedding is not None and not callable(self.embedding):
            raise ValueError(f"embedding: expected a network or a function that makes one, got {self.embedding!r}")

    def _embedding(self) -> nn.Module | None:
        """A new embedding for one member."""
        if self.embedding is None:
            return None
        given = self.embedding
        try:
            made = copy.deepcopy(given) if isinstance(given, nn.Module) else given()
        except TypeError as error:
            raise ValueError(
                f"embedding: expected a function that needs no arguments, got an error: {error}"
            ) from error
        if not isinstance(made, nn.Module):
            raise ValueError(f"embedding: expected a network or a function that makes one, got {got(made)}")
        return made.float()
