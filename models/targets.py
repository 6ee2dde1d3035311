"""Example densities for Markov chains, with the moments and exact draws that are known."""

from __future__ import annotations

import copy
import math
from typing import Annotated

import torch
from torch import Tensor

from backdrift.models.energy import Function, LogDensity
from backdrift.models.mixture import GaussianMixture
from backdrift.sde.arguments import checked
from backdrift.sde.checks import require_positive
from backdrift.sde.value_types import Positive, Range

Dimension = Annotated[int, Range(least=1, most=10_000)]
"""The dimension of an example. Whitening keeps a square matrix of this size for each chain."""


class ExampleDensity(LogDensity):
    """A log-density with a name, and with its moments and exact draws where they are known.

    Its own tensors are float64. A chain runs in the dtype and on the device of its starting points.

    Args:
        name: the name of the density.
        function, slope: see `LogDensity`.
        coordinates: a name for each component.

    Attributes:
        name, coordinates: the arguments.
        dim: size of a sample.
        mean, sd: exact mean and standard deviation of each component at temperature 1, `[dim]`, or None.
    """

    mean: Tensor | None = None
    sd: Tensor | None = None

    def __init__(
        self,
        name: str,
        function: Function,
        slope: Function | None = None,
        coordinates: tuple[str, ...] = (),
    ) -> None:
        super().__init__(function, slope)
        self.name, self.coordinates = name, coordinates

    @property
    def dim(self) -> int:
        """Size of a sample."""
        return len(self.coordinates)

    def start(self, chains: int, seed: int = 0) -> Tensor:
        """Starting points of chains, `[chains, dim]`, from a density wider than this one: by default N(0, 4 I)."""
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.randn(chains, self.dim, generator=generator, dtype=torch.float64, device="cpu")

    def tempered(self, temperature: float) -> ExampleDensity:
        """The density p^{1/temperature}. Its moments are not known.

        Raises:
            ValueError: if the temperature is not positive.
        """
        other = copy.copy(self)
        require_positive(temperature=temperature)
        other.temperature = self.temperature * temperature
        other.mean = other.sd = None
        return other

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of the density at temperature 1, `[n, dim]`.

        Raises:
            NotImplementedError: if there is no known way to make them.
        """
        raise NotImplementedError(f"{self.name}: no exact draws are known")


def _names(letter: str, n: int) -> tuple[str, ...]:
    """The names x1, x2, … for a letter x."""
    return tuple(f"{letter}{i + 1}" for i in range(n))


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


class IllConditionedGaussian(ExampleDensity):
    """N(0, diag(s^2)), with standard deviations s spaced geometrically from 1 to sqrt(condition).

    Args:
        dim: dimension.
        condition: ratio of the largest variance to the smallest.

    Raises:
        ValueError: if `dim` is not a positive integer, or `condition` is not positive.
    """

    @checked
    def __init__(self, dim: Dimension = 10, condition: Positive = 100.0) -> None:
        variance = torch.logspace(0, math.log10(condition), dim, dtype=torch.float64, device="cpu")
        super().__init__(
            "gaussian",
            lambda x: -0.5 * (x.square() / variance.to(x)).sum(-1),
            lambda x: -x / variance.to(x),
            _names("x", dim),
        )
        self.mean, self.sd = torch.zeros(dim, dtype=torch.float64, device="cpu"), variance.sqrt()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        assert self.sd is not None
        return self.sd * _normal((n, self.dim), generator)


class Mixture(ExampleDensity):
    """Four Gaussians in the plane, with unequal weights and shapes and little mass between them.

    Args:
        distance: distance of the means from the origin.

    Raises:
        ValueError: if `distance` is not positive.
    """

    @checked
    def __init__(self, distance: Positive = 4.0) -> None:
        f64 = torch.float64
        weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=f64, device="cpu")
        means = distance * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=f64, device="cpu")
        lower = [[[1.0, 0], [0, 1]], [[1, 0], [0.8, 0.6]], [[0.6, 0], [0, 1.4]], [[1, 0], [-0.8, 0.6]]]
        roots = torch.tensor(lower, device="cpu")
        covariances = (roots @ roots.mT).to(f64)
        self.density = GaussianMixture(means, covariances, weights)
        # The gradient is taken by autograd, because a mixture's own score needs a time and a process.
        super().__init__("mixture", self._log_prob, None, _names("x", 2))
        self.mean = weights @ means
        second = (weights[:, None] * (covariances.diagonal(dim1=1, dim2=2) + means.square())).sum(0)
        self.sd = (second - self.mean.square()).sqrt()

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.density.to(x.device, x.dtype).log_prob(x)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.density.sample(n, generator)


class Funnel(ExampleDensity):
    """The funnel v ~ N(0, scale^2), x_i given v ~ N(0, e^v) of Neal (2003), section 8.

    The width of x changes by e^(2 scale) and more between the narrow and the wide end of the funnel. No fixed step size
    or whitening suits both ends. The components are v, x1, x2, …

    Args:
        dim: dimension, which is 1 for v plus the number of x.
        scale: standard deviation of v. Neal's is 3.

    Raises:
        ValueError: if `dim` is not an integer of at least 2, or `scale` is not positive.
    """

    @checked
    def __init__(self, dim: Annotated[int, Range(least=2, most=10_000)] = 10, scale: Positive = 3.0) -> None:
        def log_prob(x: Tensor) -> Tensor:
            v, rest = x[..., 0], x[..., 1:]
            return -0.5 * ((v / scale).square() + rest.square().sum(-1) * (-v).exp() + (dim - 1) * v)

        def slope(x: Tensor) -> Tensor:
            v, rest = x[..., :1], x[..., 1:]
            precision = (-v).exp()
            dv = -v / scale**2 + 0.5 * (rest.square().sum(-1, keepdim=True) * precision - (dim - 1))
            return torch.cat((dv, -rest * precision), -1)

        super().__init__("funnel", log_prob, slope, ("v", *_names("x", dim - 1)))
        self.scale = float(scale)
        self.mean = torch.zeros(dim, dtype=torch.float64, device="cpu")
        # The variance of x is E e^v = e^(scale^2/2).
        self.sd = torch.full((dim,), math.exp(scale**2 / 4), dtype=torch.float64, device="cpu")
        self.sd[0] = scale

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        z = _normal((n, self.dim), generator)
        v = self.scale * z[:, :1]
        return torch.cat((v, (0.5 * v).exp() * z[:, 1:]), 1)


class Banana(ExampleDensity):
    """The twisted Gaussian x1 ~ N(0, width^2), x2 given x1 ~ N(bend (x1^2 - width^2), 1) of Haario et al. (1999).

    Args:
        width: standard deviation of x1.
        bend: curvature.

    Raises:
        ValueError: if `width` is not positive, or `bend` is not a number.
    """

    @checked
    def __init__(self, width: Positive = 3.0, bend: float = 0.3) -> None:
        def log_prob(x: Tensor) -> Tensor:
            a, b = x.unbind(-1)
            return -0.5 * ((a / width).square() + (b - bend * (a.square() - width**2)).square())

        super().__init__("banana", log_prob, None, _names("x", 2))
        self.width, self.bend = float(width), float(bend)
        self.mean = torch.zeros(2, dtype=torch.float64, device="cpu")
        self.sd = torch.tensor([width, math.sqrt(1 + 2 * bend**2 * width**4)], dtype=torch.float64, device="cpu")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        z = _normal((n, 2), generator)
        a = self.width * z[:, 0]
        return torch.stack((a, z[:, 1] + self.bend * (a.square() - self.width**2)), 1)


class LogisticRegression(ExampleDensity):
    """The posterior of a logistic regression with a normal prior on weights and intercept:

        log p(w) = sum_i [y_i w . x_i - log(1 + e^(w . x_i))] - |w|^2/(2 prior_std^2).

    By default the data are scikit-learn's Breast Cancer Wisconsin (Diagnostic) set, where y = 1 means benign. It has
    569 rows and 30 features, which are standardised. With the column of ones for the intercept this makes 31
    dimensions.

    Args:
        prior_std: standard deviation of the prior.
        features: `[rows, d]`, given together with `labels`. They are used as they are, and a column of ones is added.
        labels: 0 or 1, `[rows]`.

    Raises:
        ValueError: if `prior_std` is not positive, only one of features and labels is given, or their shapes do not
            fit.
    """

    @checked
    def __init__(self, prior_std: Positive = 1.0, features: Tensor | None = None, labels: Tensor | None = None) -> None:
        if (features is None) != (labels is None):
            raise ValueError("features, labels: expected both or none")
        if features is None or labels is None:
            features, labels, names = _breast_cancer()
        else:
            names = _names("w", features.shape[-1])
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features, labels: expected [rows, d] and [rows], got {list(features.shape)} and {list(labels.shape)}"
            )
        ones = features.new_ones(len(features), 1)
        design, y = torch.cat((ones, features), 1), labels.to(features)

        def log_prob(w: Tensor) -> Tensor:
            logit = w @ design.to(w).T
            fit = (y.to(w) * logit + torch.nn.functional.logsigmoid(-logit)).sum(-1)
            return fit - 0.5 * (w / prior_std).square().sum(-1)

        def slope(w: Tensor) -> Tensor:
            matrix = design.to(w)
            return (y.to(w) - (w @ matrix.T).sigmoid()) @ matrix - w / prior_std**2

        super().__init__("logistic", log_prob, slope, ("intercept", *names))
        self.design, self.labels = design, y

    def start(self, chains: int, seed: int = 0) -> Tensor:
        """Starting points of chains from N(0, I), which is as wide as the default prior."""
        return 0.5 * super().start(chains, seed)


def _breast_cancer() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Standardised features, labels, and the names of the features."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    features = torch.as_tensor(data.data, dtype=torch.float64)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    return features, torch.as_tensor(data.target), tuple(str(name) for name in data.feature_names)
