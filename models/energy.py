"""Densities known up to their constant: energies, log-densities, a temperature, and conservative denoisers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from backdrift.models.denoiser import Denoiser
from backdrift.sde import Time, as_time
from backdrift.sde.checks import require_positive

Function = Callable[[Tensor], Tensor]


def value_and_gradient(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) `[batch]` and grad_x f of a function of each sample, x `[batch, ...]`, by reverse-mode autograd.

    The gradient can itself be differentiated, in x and in the function's parameters, where gradients
    are enabled: that is how an energy is trained by its score.

    Raises:
        ValueError: if the function does not give one number for each sample.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = function(x)
        if value.shape != x.shape[:1]:
            raise ValueError(f"function: expected one number for each sample, [{len(x)}], got {list(value.shape)}")
        # Samples do not interact, so the gradient of the sum holds each sample's own.
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph)
    return value if create_graph else value.detach(), slope


def gradient(function: Function, x: Tensor) -> Tensor:
    """The gradient of `value_and_gradient` alone."""
    return value_and_gradient(function, x)[1]


class LogDensity:
    r"""An unnormalised log-density l at a temperature tau,

    .. math:: p(x) = e^{l(x) / \tau} / Z, \qquad \nabla \log p = \nabla l / \tau,

    in nats. McAllester (2022) writes p(y) = e^{score(y)}/Z: his score(y) is l here, and "score" is
    the gradient, as everywhere in this library. His stationary density of stochastic gradient
    descent, p = exp(-2 L/(eta sigma^2))/Z, is l = -L at tau = eta sigma^2/2.

    Args:
        function: l, from x `[batch, ...]` to `[batch]`.
        slope: its gradient, from x to a tensor like x; by autograd unless given.
        temperature: tau > 0. Above 1 the density is flatter, p^{1/tau}.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, function: Function, slope: Function | None = None, temperature: float = 1.0) -> None:
        require_positive(temperature=temperature)
        self.function, self.slope, self.temperature = function, slope, float(temperature)

    def log_prob(self, x: Tensor) -> Tensor:
        """l(x)/tau, the log-density but for its constant, `[batch]`."""
        return self.function(x) / self.temperature

    def score(self, x: Tensor) -> Tensor:
        """grad l(x)/tau, shaped like `x` `[batch, ...]`."""
        return self.log_prob_and_score(x)[1] if self.slope is None else self.slope(x) / self.temperature

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, for the price of one evaluation where the gradient is taken by autograd."""
        if self.slope is None:
            return value_and_gradient(self.log_prob, x)
        return self.log_prob(x), self.slope(x) / self.temperature

    def tempered(self, temperature: float) -> LogDensity:
        """p^{1/temperature}, of this density as it is (temperatures multiply)."""
        require_positive(temperature=temperature)
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other


class Energy(nn.Module):
    r"""A network as an energy E, p(x) = e^{-E(x)/tau}/Z, whose score -grad E/tau is conservative.

    LeCun et al. (2006); trained by its score (`models.score_matching`), for which Z need not be known.

    Args:
        network: E, from x `[batch, ...]` to `[batch]` or `[batch, 1]`.
        temperature: tau > 0.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        self.network = network
        self.temperature = float(temperature)

    def forward(self, x: Tensor) -> Tensor:
        """E(x), `[batch]`."""
        energy = self.network(x)
        return energy.squeeze(-1) if energy.shape == (len(x), 1) else energy

    def log_prob(self, x: Tensor) -> Tensor:
        """-E(x)/tau, the log-density but for its constant, `[batch]`."""
        return -self(x) / self.temperature

    def score(self, x: Tensor) -> Tensor:
        """-grad E(x)/tau, shaped like `x`."""
        return gradient(self.log_prob, x)

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, for the price of one evaluation."""
        return value_and_gradient(self.log_prob, x)

    def tempered(self, temperature: float) -> Energy:
        """The same network (its weights shared), p^{1/temperature} of this density as it is."""
        require_positive(temperature=temperature)
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other


class Potential(nn.Module):
    r"""A scalar network psi(z, c) = z . N(z, c) from any that returns a tensor like z: its gradient is N + (dN/dz)^T z.

    Smooth where N is, and 0 where N's last layer starts at 0, so that the untrained denoiser is the
    Gaussian one. Du et al. (2023) make energies of diffusion networks, in this way among others.

    Args:
        network: N, called as `network(z, c_noise)` or `network(z, c_noise, label)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def conditioning(self) -> nn.Module:
        """That of N: it knows the number of classes."""
        return self.network.conditioning  # type: ignore[return-value]

    def forward(self, z: Tensor, c_noise: Tensor, *label: Tensor) -> Tensor:
        """psi, `[batch]`, for z `[batch, ...]` and c_noise `[batch]`."""
        return (z * self.network(z, c_noise, *label)).flatten(1).sum(1)


class ConservativeDenoiser(Denoiser):
    r"""A denoiser that is a gradient: the raw output is F = grad_z psi of a scalar network psi(z, c_noise).

    With R^2 = sigma^2 + alpha^2 d^2 and z = x/R, the preconditioning of `Denoiser` gives

    .. math:: \log p_t(x) = -\frac{|x|^2}{2 R^2} + \frac{\alpha d}{\sigma} \psi(x / R, c) + const(t),

    an energy for every noise level at once, trained by the ordinary denoising loss. The idea of a
    score that is the gradient of a network: Saremi et al. (2018); Salimans & Ho (2021) compare.

    Args:
        network: psi, called as `network(z, c_noise)` or `network(z, c_noise, label)`; to `[batch]` or
            `[batch, 1]`. Smooth activations, as its second derivatives are trained.
        sde, data_std: see `Denoiser`.
    """

    def _potential(self, z: Tensor, c_noise: Tensor, label: Tensor | None) -> Tensor:
        psi = super().raw(z, c_noise, label)
        return psi.squeeze(-1) if psi.shape == (len(z), 1) else psi

    def raw(self, z: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """grad_z psi, shaped like `z`."""

        def potential(z: Tensor) -> Tensor:
            return self._potential(z, c_noise, label)

        # torch.func can be differentiated again in forward mode, as the likelihood does; a network of several
        # processes cannot be called inside it.
        if isinstance(self.network, nn.parallel.DistributedDataParallel):
            return gradient(potential, z)
        return torch.func.grad(lambda z: potential(z).sum())(z)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """log p_t(x) but for a constant that depends on t, in nats, `[batch]`."""
        _, _, scale, c_noise = self.coefficients(x, t)
        t = as_time(t, x)
        weight = self.sde.alpha(t) * self.data_std / self.sde.sigma(t)
        z = scale * x
        psi = self._potential(z, c_noise.flatten().expand(len(x)), None)
        return -0.5 * z.flatten(1).square().sum(1) + weight.flatten() * psi
