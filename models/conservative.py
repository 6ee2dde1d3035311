"""Denoisers that are gradients, so that their score is conservative and they have a log-density."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backdrift.models.accepted_condition import AcceptedCondition, accepted_by
from backdrift.models.denoiser import Denoiser
from backdrift.models.energy import gradient
from backdrift.models.unet import without_fused_attention
from backdrift.sde import GaussianSDE, Time, as_time
from backdrift.sde.tensor_checks import extremes


class Potential(nn.Module):
    r"""A scalar network psi(z, c) = z . N(z, c), made of a network N that returns a tensor like z.

    Its gradient is N + (dN/dz)^T z. It is smooth where N is. It is 0 where the last layer of N starts at 0, so that the
    untrained denoiser is the Gaussian one. Du et al. (2023) compare this with other ways to make energies of diffusion
    networks.

    Args:
        network: N, called as `network(z, c_noise)` or `network(z, c_noise, condition)`.

    Attributes:
        accepted: the condition that N takes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def conditioning(self) -> nn.Module:
        """The conditioning of N, which knows the number of classes."""
        return self.network.get_submodule("conditioning")

    @property
    def accepted(self) -> AcceptedCondition | None:
        """The condition that N takes, or None where it does not say."""
        return accepted_by(self.network)

    def forward(self, z: Tensor, c_noise: Tensor, *condition: Tensor) -> Tensor:
        """psi, `[batch]`, for z `[batch, ...]` and c_noise `[batch]`."""
        return (z * self.network(z, c_noise, *condition)).flatten(1).sum(1)


class ConservativeDenoiser(Denoiser):
    r"""A denoiser whose raw output is a gradient, F = grad_z psi of a scalar network psi(z, c_noise).

    With R^2 = sigma^2 + alpha^2 d^2 and z = x/R, the preconditioning of `Denoiser` gives

    .. math:: \log p_t(x) = -\frac{|x|^2}{2 R^2} + \frac{\alpha d}{\sigma} \psi(x / R, c) + const(t),

    an energy for every noise level at once, which is trained by the ordinary denoising loss. Saremi et al. (2018) use a
    score that is the gradient of a network. Salimans & Ho (2021) compare it with an unconstrained score.

    Args:
        network: psi, called as `network(z, c_noise)` or `network(z, c_noise, condition)`, which returns `[batch]` or
            `[batch, 1]`. Its activations should be smooth, because training uses its second derivatives.
        sde, data_std: see `Denoiser`.

    Raises:
        ValueError: as `Denoiser`.
    """

    def __init__(self, network: nn.Module, sde: GaussianSDE, data_std: float = 0.5) -> None:
        super().__init__(network, sde, data_std)
        without_fused_attention(network)

    def _potential(self, z: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        """psi, `[batch]`."""
        psi = self.called(z, c_noise, condition)
        psi = psi.squeeze(-1) if psi.shape == (len(z), 1) else psi
        if psi.shape != (len(z),):
            raise ValueError(f"network: expected one number for each sample, [{len(z)}], got {list(psi.shape)}")
        return psi

    def raw(self, z: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """grad_z psi, shaped like `z`."""

        def potential(z: Tensor) -> Tensor:
            return self._potential(z, c_noise, condition)

        # The gradient of torch.func can be differentiated again in forward mode, which the likelihood does. A network
        # that several processes train together cannot be called inside it.
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            if isinstance(self.network, nn.parallel.DistributedDataParallel):
                return gradient(potential, z)
            return torch.func.grad(lambda z: potential(z).sum())(z)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """log p_t(x) up to a constant that depends on t, in nats, `[batch]` for x `[batch, ...]`.

        Raises:
            ValueError: if sigma(t) = 0, where the network's part of the density has no limit.
        """
        _, _, scale, c_noise = self.coefficients(x, t)
        t = as_time(t, x)
        least = extremes(self.sde.sigma(t))
        if least is not None and least[0] == 0:
            raise ValueError("t: expected a time at which sigma is positive, got one at which it is 0")
        weight = self.sde.alpha(t) * self.data_std / self.sde.sigma(t)
        z = scale * x
        psi = self._potential(z, c_noise.flatten().expand(len(x)), None)
        return -0.5 * z.flatten(1).square().sum(1) + weight.flatten() * psi
