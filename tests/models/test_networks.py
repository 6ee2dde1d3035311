"""The networks keep their promises: shape, dtype, batch, derivative, label and layout."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrift.models import MLP, ConservativeDenoiser, Denoiser, DenoisingLoss, ImplicitLoss, Potential, UNet
from backdrift.models.mlp import Conditioning
from backdrift.models.unet import _Attention, without_fused_attention
from backdrift.sde import VP
from backdrift.solvers import log_likelihood

Build = Callable[..., nn.Module]


def unet(classes: int = 0, dropout: float = 0.0) -> nn.Module:
    return UNet(2, widths=(16, 32, 32), blocks=1, attention=(1, 2), classes=classes, dropout=dropout, fourier=(0, 1))


def patched(classes: int = 0, dropout: float = 0.0) -> nn.Module:
    return UNet(2, widths=(32, 32), blocks=1, classes=classes, dropout=dropout, fourier=(0,), patch=2)


def mlp(classes: int = 0, dropout: float = 0.0) -> nn.Module:
    return MLP((2, 8, 12), hidden=32, depth=2, classes=classes, dropout=dropout)


def awake(build: Build, classes: int = 0, dropout: float = 0.0) -> nn.Module:
    """A network whose zero layers are no longer zero: asleep, it would pass nearly every test."""
    torch.manual_seed(0)
    network = build(classes=classes, dropout=dropout)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def images(batch: int = 4, height: int = 8, width: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, height, width, generator=generator)
    return x, 0.25 * torch.linspace(-5, 4, batch)


each = pytest.mark.parametrize("build", [unet, patched, mlp])
each_unet = pytest.mark.parametrize("build", [unet, patched])


@each
def test_starts_at_zero(build: Build) -> None:
    x, c = images()
    assert build()(x, c).abs().max() == 0


@each
def test_a_sample_does_not_know_its_neighbours(build: Build) -> None:
    network = awake(build, classes=3).double()
    x, c = (v.double() for v in images())
    label = torch.tensor([0, 2, 1, 3])
    together = network(x, c, label)
    alone = torch.cat([network(x[i : i + 1], c[i : i + 1], label[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-2


@each
def test_a_shared_noise_level_is_the_same_level_for_each(build: Build) -> None:
    network = awake(build)
    x, _ = images()
    shared = network(x, torch.tensor(0.3))
    torch.testing.assert_close(shared, network(x, torch.full((4,), 0.3)))
    assert (shared - network(x, torch.tensor(0.4))).abs().max() > 1e-3


@each
@pytest.mark.parametrize("argument", [0, 1])
def test_forward_derivative_is_the_finite_difference(build: Build, argument: int) -> None:
    network = awake(build).double()
    point = [v.double() for v in images()]
    generator = torch.Generator().manual_seed(2)
    tangent = [torch.zeros_like(v) for v in point]
    tangent[argument] = torch.randn(point[argument].shape, generator=generator, dtype=torch.float64)
    derivative = torch.func.jvp(network, tuple(point), tuple(tangent))[1]
    h = 1e-6
    ahead, behind = (network(*(v + sign * h * w for v, w in zip(point, tangent, strict=True))) for sign in (1, -1))
    assert derivative.abs().max() > 1e-2
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)


@each
def test_forward_and_reverse_derivatives_are_transposed(build: Build) -> None:
    network = awake(build).double()
    x, c = (v.double() for v in images())
    generator = torch.Generator().manual_seed(3)
    v, w = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)
    forward = torch.func.jvp(lambda x: network(x, c), (x,), (v,))[1]
    pullback = torch.func.vjp(lambda x: network(x, c), x)[1]
    torch.testing.assert_close((forward * w).sum(), (v * pullback(w)[0]).sum(), rtol=1e-9, atol=1e-9)


@each
def test_vmap_over_probes_is_a_loop_over_probes(build: Build) -> None:
    network = awake(build)
    x, c = images(batch=2)
    probes = torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(4))

    def product(probe: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: network(x, c), (x,), (probe,))[1]

    together = torch.func.vmap(product)(probes)
    torch.testing.assert_close(together, torch.stack([product(p) for p in probes]), rtol=1e-4, atol=1e-5)


@each
def test_label_matters_and_none_is_the_null_class(build: Build) -> None:
    network = awake(build, classes=3)
    x, c = images()
    nothing = network(x, c)
    torch.testing.assert_close(nothing, network(x, c, torch.full((4,), 3)), rtol=0, atol=0)
    outputs = [network(x, c, torch.tensor(k)) for k in range(3)]
    for k, output in enumerate(outputs):
        for other in [*outputs[:k], nothing]:
            assert (output - other).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@each
def test_half_precision_stays_inside(build: Build) -> None:
    network = awake(build)
    x, c = images()
    exact = network(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, c)
    assert half.dtype == torch.float32
    error = (half - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < error < 0.03


@each
def test_the_output_has_the_dtype_of_the_input(build: Build) -> None:
    network = awake(build)
    x, c = images()
    wide = network(x.double(), c.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), network(x, c))
    precise = network.double()(x.double(), c.double())
    torch.testing.assert_close(precise, wide, rtol=1e-3, atol=1e-4)
    assert (precise - wide).abs().max() > 0


@each
def test_dropout_only_in_training(build: Build) -> None:
    network = awake(build, dropout=0.5)
    x, c = images()
    torch.testing.assert_close(network(x, c), network(x, c), rtol=0, atol=0)
    network.train()
    assert (network(x, c) - network(x, c)).abs().max() > 1e-3


@each_unet
def test_channels_last_is_a_layout_not_a_function(build: Build) -> None:
    network = awake(build)
    x, c = images()
    contiguous = network(x, c)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last), c), contiguous, rtol=1e-4, atol=1e-5)


@each_unet
@pytest.mark.parametrize(("height", "width"), [(7, 10), (5, 8), (3, 1)])
def test_an_odd_image_is_the_corner_of_its_padded_self(build: Build, height: int, width: int) -> None:
    network = awake(build).double()
    x, c = images(height=height, width=width)
    rows = torch.arange(height + -height % 4).clamp(max=height - 1)
    columns = torch.arange(width + -width % 4).clamp(max=width - 1)
    padded = x.double()[:, :, rows][..., columns]
    whole = network(padded, c.double())
    torch.testing.assert_close(network(x.double(), c.double()), whole[..., :height, :width])


def test_attention_reaches_across_the_image() -> None:
    x, c = images(height=32, width=32)
    nudged = x.clone()
    nudged[..., 0, 0] += 1.0
    for levels, reaches in (((), False), ((0,), True)):
        torch.manual_seed(0)
        network = UNet(2, widths=(16,), blocks=1, attention=levels)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):  # its statistics reach everywhere by themselves
                module.register_forward_hook(lambda module, inputs, output: inputs[0])
        change = (network(nudged, c) - network(x, c))[..., -1, -1].abs().max()
        assert (change > 0) == reaches


def test_sinusoids_fade_with_the_noise() -> None:
    network = UNet(1, widths=(8,), fourier=(3,))
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    seen = network._sinusoids(x, torch.tensor(-1.5))[0, 1:]  # s = 0.0025
    torch.testing.assert_close(seen.square().sum(0), torch.ones(8, 8), rtol=5e-3, atol=0)
    assert network._sinusoids(x, torch.tensor(0.0))[0, 1:].abs().max() < 1e-6


def test_conditioning_tells_noise_levels_apart() -> None:
    torch.manual_seed(0)
    embedding = Conditioning(32)
    s = torch.logspace(-3, 2, 40)
    e = embedding(0.25 * s.log(), None, 40)
    assert torch.cdist(e, e).add(torch.eye(40)).min() > 1e-2


def test_fused_attention_is_attention() -> None:
    """softmax(q^T k/sqrt(c)) v written out, with the weights of checkpoints from before; the gradients agree too."""
    network = awake(unet).double()
    x, c = (v.double() for v in images())
    plain = copy.deepcopy(network)
    without_fused_attention(plain)
    torch.testing.assert_close(network(x, c), plain(x, c), rtol=1e-12, atol=1e-13)
    gradients = [torch.func.grad(lambda x, n=n: n(x, c).square().sum())(x) for n in (network, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
    attention = network.get_submodule("down.1.blocks.0.attention")
    assert isinstance(attention, _Attention)
    h = torch.randn(2, 32, 2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(h)).flatten(2).split(32, dim=1)  # one head of 32 channels
    weights = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(32)).softmax(-1)
    expected = h + attention.outer(torch.einsum("bij,bcj->bci", weights, v).reshape(h.shape))
    torch.testing.assert_close(attention(h), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("second", ["conservative", "implicit"])
def test_losses_with_second_derivatives_take_plain_attention(second: str) -> None:
    """The gradient of the loss in a weight is its finite difference. The fused kernel would raise an error."""
    network = awake(unet).double()
    model: Denoiser = Denoiser(network, VP())
    loss: DenoisingLoss = ImplicitLoss()
    if second == "conservative":
        model, loss = ConservativeDenoiser(Potential(network), VP()), DenoisingLoss()
    x, u = images()[0].double(), torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weight = network.get_parameter("down.1.blocks.0.attention.qkv.bias")

    def value() -> Tensor:
        return loss(model, x, u, noise, generator=torch.Generator().manual_seed(7)).sum()

    (slope,) = torch.autograd.grad(value(), weight)
    h, i = 1e-6, int(slope.abs().argmax())
    with torch.no_grad():
        weight[i] += h
    up = value().detach()
    with torch.no_grad():
        weight[i] -= 2 * h
    assert float(slope[i].abs()) > 1e-4
    torch.testing.assert_close(slope[i], (up - value().detach()) / (2 * h), rtol=1e-5, atol=1e-8)


@each
def test_refuses_by_name(build: Build) -> None:
    network = build(classes=3)
    x, c = images()
    for argument, call in {
        "x": lambda: network(x[:, :1], c),
        "c_noise": lambda: network(x, c[:3]),
        "label": lambda: network(x, c, torch.zeros(3, dtype=torch.long)),
    }.items():
        with pytest.raises(ValueError, match=rf"^{argument}: expected shape .*, got \["):
            call()
    with pytest.raises(TypeError, match=r"^label: expected integer class indices, got a tensor of torch.float32"):
        network(x, c, torch.zeros(4))
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"^label: expected indices from 0 to 3 .*, got {wrong}$"):
            network(x, c, torch.tensor([0, 1, wrong, 2]))
    with pytest.raises(ValueError, match=r"^label: expected none, since the network is unconditional"):
        build()(x, c, torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeError, match=r"^x: expected a floating-point tensor \[batch, \.\.\.\], got torch.int64"):
        network(x.long(), c)


@pytest.mark.parametrize(
    ("argument", "build"),
    [
        ("dim", lambda: MLP(0)),
        ("hidden", lambda: MLP(2, hidden=0)),
        ("classes", lambda: MLP(2, classes=-1)),
        ("channels", lambda: UNet(0)),
        ("widths", lambda: UNet(1, widths=())),
        ("blocks", lambda: UNet(1, blocks=0)),
        ("patch", lambda: UNet(1, patch=0)),
        ("attention", lambda: UNet(1, widths=(8, 8), attention=(2,))),
    ],
)
def test_refuses_to_be_built_by_name(argument: str, build: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: expected"):
        build()


@pytest.mark.parametrize("probes", ["exact", 2])
def test_a_likelihood_differentiates_fused_attention(probes: int | Literal["exact"]) -> None:
    """The same with plain attention, to rounding, and the same from two threads at once."""
    network = awake(lambda **_: UNet(1, widths=(8,), blocks=1, attention=(0,))).double()
    plain = copy.deepcopy(network)
    without_fused_attention(plain)
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def log_prob(network: nn.Module) -> Tensor:
        return log_likelihood(Denoiser(network, VP()), x, steps=2, probes=probes, estimate_error=False).log_prob

    expected = log_prob(plain)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(log_prob, [network, network]):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_noise_level_enters_by_cosines_and_sines_of_an_octave_ladder() -> None:
    """Of f = 1/8, 1, 8 turns per unit of c: at c = 1/4 the cosines and sines of pi/16, pi/2 and 4 pi."""
    conditioning = Conditioning(width=6, frequencies=3)
    conditioning.noise = nn.Sequential(nn.Identity())
    found = conditioning(torch.tensor(0.25), None, 2)
    turns = math.pi * torch.tensor([1 / 16, 1 / 2, 4.0])
    torch.testing.assert_close(found, torch.cat((turns.cos(), turns.sin())).expand(2, -1), rtol=0, atol=1e-6)


def test_a_u_net_of_one_block_is_its_formula() -> None:
    """By hand, for one level without sinusoids: the blocks down and up, each scaled by 1 + a and shifted by b."""
    network = awake(lambda **_: UNet(1, widths=(8,), blocks=1)).double()
    weights = network.state_dict()
    generator = torch.Generator().manual_seed(3)
    x, c = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64), torch.tensor([0.1, -0.4]).double()

    def convolved(h: Tensor, name: str) -> Tensor:
        return functional.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def normalised(h: Tensor, name: str | None = None) -> Tensor:
        grouped = h.unflatten(1, (8, 1))
        spread = grouped.var((2, 3, 4), keepdim=True, correction=0)
        flat = ((grouped - grouped.mean((2, 3, 4), keepdim=True)) / (spread + 1e-5).sqrt()).flatten(1, 2)
        if name is None:
            return flat
        return flat * weights[f"{name}.weight"].reshape(-1, 1, 1) + weights[f"{name}.bias"].reshape(-1, 1, 1)

    def silu(h: Tensor) -> Tensor:
        return h * h.sigmoid()

    e = silu(cast(UNet, network).conditioning(c, None, 2))
    h = convolved(x, "first")
    for way in ("down", "up"):
        name = f"{way}.0.blocks.0"
        affine = e @ weights[f"{name}.affine.weight"].T + weights[f"{name}.affine.bias"]
        a, b = affine[:, :8, None, None], affine[:, 8:, None, None]
        inner = convolved(silu(normalised(h, f"{name}.norm")), f"{name}.inner")
        h = h + convolved(silu(normalised(inner) * (1 + a) + b), f"{name}.outer")
    expected = convolved(silu(normalised(h, "norm")), "last")
    torch.testing.assert_close(network(x, c), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (32, 8), (12, 4), (6, 2), (5, 1)])
def test_normalisations_have_up_to_eight_groups_which_divide_the_width(width: int, groups: int) -> None:
    network = UNet(1, widths=(width,), blocks=1)
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {groups}
