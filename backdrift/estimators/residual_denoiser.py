"""A network that learns what closed forms leave of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from backdrift.estimators.conditional_mixture import ConditionalMixture
from backdrift.models import Denoiser, GaussianMixture
from backdrift.sde import GaussianSDE, Time


class ResidualDenoiser(Denoiser):
    r"""The mean of the denoisers of closed forms, and what a network adds to it:

    .. math:: D(x, t) = \frac1m \sum_i D_i(x, t) + c_{out} F(c_{in} x/\alpha, c_{noise}),

    with the coefficients of `Denoiser` (Karras et al. 2022, table 1). A `Denoiser` is the same with the normal density
    as its closed form, since c_skip x/alpha is that density's denoiser. With a network whose output is zero the model
    of one closed form is that closed form. A closed form that depends on the condition is given that of the model.

    Args:
        network, sde, data_std: see `Denoiser`.
        closed_forms: densities, each of which gives its denoiser D_i. None is the normal density of variance
            data_std^2.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: GaussianSDE,
        closed_forms: Sequence[GaussianMixture | ConditionalMixture | None],
        data_std: float = 1.0,
    ) -> None:
        super().__init__(network, sde, data_std)
        self.closed_forms = [form if form is None else form.under(sde) for form in closed_forms]

    def under(self, sde: GaussianSDE) -> ResidualDenoiser:
        other = super().under(sde)
        assert isinstance(other, ResidualDenoiser)
        other.closed_forms = [form if form is None else form.under(sde) for form in self.closed_forms]
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ResidualDenoiser:
        super()._apply(fn, recurse)
        like = fn(torch.zeros(1))
        self.closed_forms = [form if form is None else form.to(like.device, like.dtype) for form in self.closed_forms]
        return self

    def forward(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        skip, out, scale, noise = self.coefficients(x, t)
        raw = self.raw(scale * x, noise.flatten().expand(x.shape[0]), condition)
        if condition is None and self.condition is not None:
            condition = self.condition.value
        denoised = [skip * x if form is None else _of(form, x, condition).denoise(x, t) for form in self.closed_forms]
        return torch.addcmul(torch.stack(denoised).mean(0), out.expand_as(x), raw.to(x.dtype))


def _of(form: GaussianMixture | ConditionalMixture, x: Tensor, condition: Tensor | None) -> GaussianMixture:
    """The closed form for the samples x, given their conditions."""
    if isinstance(form, GaussianMixture):
        return form
    assert condition is not None
    return form.given(condition.to(x.dtype).expand(len(x), -1))
