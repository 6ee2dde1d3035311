"""Densities that are known up to their constant: log-densities and energies, at a temperature."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from backdrift.models.unet import without_fused_attention
from backdrift.sde.checks import require_positive

Function = Callable[[Tensor], Tensor]
"""A function of x `[batch, ...]` in which samples do not interact."""


def value_and_gradient(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) `[batch]` and grad f(x), shaped like `x` `[batch, ...]`, by reverse-mode autograd.

    Where gradients are enabled, the gradient can be differentiated again, in x and in the parameters of the function.
    This is how an energy is trained by its score.

    Args:
        function: f, which gives one number for each sample.
        x: points, `[batch, ...]`.

    Raises:
        ValueError: if the function does not give one number for each sample.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = function(x)
        if value.shape != x.shape[:1]:
            raise ValueError(f"function: expected one number for each sample, [{len(x)}], got {list(value.shape)}")
        # Samples do not interact, so the gradient of the sum holds the gradient of each sample.
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph)
    return value if create_graph else value.detach(), slope


def gradient(function: Function, x: Tensor) -> Tensor:
    """grad f(x), the second part of `value_and_gradient`."""
    return value_and_gradient(function, x)[1]


class LogDensity:
    r"""An unnormalised log-density l at a temperature tau,

    .. math:: p(x) = e^{l(x) / \tau} / Z, \qquad \nabla \log p = \nabla l / \tau,

    in nats. McAllester (2022) writes p(y) = e^{score(y)}/Z. His score(y) is l here. In this library "score" always
    means the gradient. His stationary density of stochastic gradient descent, p = exp(-2 L/(eta sigma^2))/Z, is l = -L
    at tau = eta sigma^2/2.

    Args:
        function: l, from x `[batch, ...]` to `[batch]`.
        slope: the gradient of l, from x to a tensor like x. It is taken by autograd by default.
        temperature: tau > 0. Above 1 the density p^{1/tau} is flatter.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, function: Function, slope: Function | None = None, temperature: float = 1.0) -> None:
        require_positive(temperature=temperature)
        self.function, self.slope, self.temperature = function, slope, float(temperature)

    def log_prob(self, x: Tensor) -> Tensor:
        """l(x)/tau, the log-density in nats up to a constant, `[batch]`."""
        return self.function(x) / self.temperature

    def score(self, x: Tensor) -> Tensor:
        """grad l(x)/tau, shaped like `x` `[batch, ...]`."""
        return self.log_prob_and_score(x)[1] if self.slope is None else self.slope(x) / self.temperature

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob(x)` and `score(x)`, at the cost of one evaluation of l where the gradient is taken by autograd."""
        if self.slope is None:
            return value_and_gradient(self.log_prob, x)
        return self.log_prob(x), self.slope(x) / self.temperature

    def tempered(self, temperature: float) -> LogDensity:
        """The density p^{1/temperature}, where p is this density at its own temperature: temperatures multiply.

        Raises:
            ValueError: if the temperature is not positive.
        """
        require_positive(temperature=temperature)
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other


class Energy(nn.Module):
    r"""A network as an energy E: p(x) = e^{-E(x)/tau}/Z. Its score -grad E/tau is conservative.

    LeCun et al. (2006). It is trained by its score (`models.score_matching`), for which Z need not be known.

    Args:
        network: E, from x `[batch, ...]` to `[batch]` or `[batch, 1]`.
        temperature: tau > 0.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        without_fused_attention(network)
        self.network = network
        self.temperature = float(temperature)

    def forward(self, x: Tensor) -> Tensor:
        """E(x), `[batch]`."""
        energy = self.network(x)
        return energy.squeeze(-1) if energy.shape == (len(x), 1) else energy

    def log_prob(self, x: Tensor) -> Tensor:
        """-E(x)/tau, the log-density in nats up to a constant, `[batch]`."""
        return -self(x) / self.temperature

    def score(self, x: Tensor) -> Tensor:
        """-grad E(x)/tau, shaped like `x` `[batch, ...]`."""
        return gradient(self.log_prob, x)

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob(x)` and `score(x)`, at the cost of one evaluation of E."""
        return value_and_gradient(self.log_prob, x)

    def tempered(self, temperature: float) -> Energy:
        """The density p^{1/temperature}, where p is this density at its own temperature. The weights are shared.

        Raises:
            ValueError: if the temperature is not positive.
        """
        require_positive(temperature=temperature)
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other
