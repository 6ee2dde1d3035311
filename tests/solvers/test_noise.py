"""Per-sample random numbers: the same alone and in any batch, independent, and normal."""

import math
from typing import Any

import pytest
import torch
from philox_reference import by_the_paper
from scipy.stats import kstest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backdrift.models import GaussianMixture
from backdrift.sde import VP
from backdrift.solvers import EulerMaruyama, Noise, sample
from backdrift.solvers import noise as noise_module
from backdrift.solvers.noise import ACCEPT, PRIOR, PROBES, STEPS, box_muller, key_of
from backdrift.solvers.philox import WORD

SHAPES = [(3,), (1, 8, 8), (2, 3, 5), (1,), (2,), (6,), (701,), ()]


def draws(noise: Noise, n: int) -> Tensor:
    return torch.stack([noise() for _ in range(n)])


def correlation(a: Tensor, b: Tensor) -> float:
    """The correlation, in standard errors of that of independent numbers."""
    return float((a * b).mean() / (a * b).std() * math.sqrt(a.numel()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_alone_is_sample_in_a_batch(shape: tuple[int, ...]) -> None:
    """Over several draws, of which some are made ahead."""
    batch = draws(Noise(3, (64, *shape)), 15)
    for i in (0, 1, 17, 63):
        assert torch.equal(draws(Noise(3, (1, *shape), first=i), 15)[:, 0], batch[:, i])
    assert torch.equal(draws(Noise(3, (10, *shape), first=21), 15), batch[:, 21:31])


@pytest.mark.parametrize("shape", [(3,), (1,), (2,), (6,), (51,)], ids=str)
@pytest.mark.parametrize("blocks", [1, 3, 100])
def test_numbers_do_not_depend_on_the_parts_they_are_made_in(
    shape: tuple[int, ...], blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parts of a few blocks, samples are cut between rows and within them."""
    whole = draws(Noise(3, (13, *shape), first=6), 5)
    monkeypatch.setattr(noise_module, "BLOCKS", blocks)
    assert torch.equal(draws(Noise(3, (13, *shape), first=6), 5), whole)


def test_numbers_follow_from_the_words_of_the_paper() -> None:
    """The counter is (block, draw, lower and upper half of the sample's index), and Box and Muller give the numbers."""
    first, key = 2**33 + 5, key_of(7, STEPS)
    found = draws(Noise(7, (2, 21), first=first), 3)
    for i, draw, block in ((0, 0, 0), (1, 2, 3), (0, 1, 5)):
        w0, w1, w2, w3 = by_the_paper([block, draw, (first + i) % 2**32, (first + i) // 2**32], key)
        expected: list[float] = []
        for w, angle in ((w0, w1), (w2, w3)):
            radius = math.sqrt(-2 * math.log((w + 0.5) / 2**32))
            turn = 2 * math.pi * (angle + 0.5) / 2**32
            expected += [radius * math.cos(turn), radius * math.sin(turn)]
        numbers = found[draw, i, 4 * block : 4 * block + 4]
        torch.testing.assert_close(numbers, torch.tensor(expected)[: len(numbers)], rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_the_same_numbers_again() -> None:
    assert torch.equal(draws(Noise(5, (4, 3)), 300), draws(Noise(5, (4, 3)), 300))


def test_draws_made_ahead_repeat_nothing() -> None:
    """Draws of one number have no correlation with those of a few lags before, also from one refill to the next."""
    x = draws(Noise(0, (8, 1)), 1500).squeeze(-1).double()
    for lag in (1, 2, 3, 4, 9, 27, 81):
        assert abs(correlation(x[lag:].flatten(), x[:-lag].flatten())) < 4.5
    assert len(x.flatten().unique()) > 0.999 * x.numel()


def test_draws_do_not_change_behind_the_callers_back() -> None:
    """Neither a later draw nor a caller who writes into his draw changes another one."""
    noise, copies = Noise(0, (2, 3)), draws(Noise(0, (2, 3)), 100)
    kept = [noise() for _ in range(50)]
    kept[10].zero_()
    kept += [noise() for _ in range(50)]
    kept[10] = copies[10]
    assert torch.equal(torch.stack(kept), copies)


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)])
def test_dtype_changes_only_the_dtype(shape: tuple[int, ...]) -> None:
    single, double = (draws(Noise(1, (4, *shape), dtype=d), 200) for d in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("shape", [(1,), (40,)])
def test_numbers_are_standard_normal(shape: tuple[int, ...]) -> None:
    """Moments within 4.5 standard errors, and Kolmogorov-Smirnov, over 100 samples of one seed."""
    x = draws(Noise(11, (100, *shape)), 2000 // shape[0]).flatten().double()
    n = x.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float(x.pow(power).mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(variance / n))
    assert kstest(x.numpy(), "norm").pvalue > 0.01


def test_first_draws_over_seeds_are_standard_normal() -> None:
    """One draw for each of 4000 seeds. The draws of neighbouring seeds are not correlated."""
    x = torch.cat([Noise(seed, (1, 1))() for seed in range(4000)]).flatten().double()
    assert kstest(x.numpy(), "norm").pvalue > 0.01
    assert abs(correlation(x[1:], x[:-1])) < 4.5


def test_samples_seeds_and_streams_are_independent() -> None:
    base = draws(Noise(7, (50, 4)), 400).double()
    others = {
        "sample": draws(Noise(7, (50, 4), first=50), 400),
        "neighbour": draws(Noise(7, (50, 4), first=1), 400),
        "seed": draws(Noise(8, (50, 4)), 400),
        **{str(s): draws(Noise(7, (50, 4), stream=s), 400) for s in (PRIOR, PROBES, ACCEPT)},
    }
    for name, other in others.items():
        assert not torch.equal(other[0], base[0].float()), name
        assert abs(correlation(base.flatten(), other.double().flatten())) < 4.5, name
        # Nor may their sizes go together.
        assert abs(correlation(base.flatten().square() - 1, other.double().flatten().square() - 1)) < 4.5, name
    assert torch.equal(draws(Noise(7, (50, 4), stream=STEPS), 400), base.float())


def test_no_two_samples_share_a_stream() -> None:
    first = Noise(0, (20000, 1))().flatten()
    assert len(first.unique()) > 0.995 * len(first)  # float32 normals coincide by chance, whole streams must not
    twice = Noise(0, (20000, 2))()
    assert len(twice.unique(dim=0)) == len(twice)


def test_sibling_is_another_stream_of_the_same_samples() -> None:
    noise = Noise(9, (4, 3), first=5, dtype=torch.float64)
    sibling = noise.sibling((4, 7), ACCEPT)
    assert torch.equal(sibling(), Noise(9, (4, 7), first=5, stream=ACCEPT, dtype=torch.float64)())


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1,), "seed"), ((1.5,), "seed"), ((True,), "seed"), ((0, -2), "first")]
)
def test_seeds_that_are_no_seeds_are_refused(arguments: tuple, name: str) -> None:
    seed, *first = arguments
    with pytest.raises(ValueError, match=f"^{name}: expected a non-negative integer"):
        Noise(seed, (2, 3), first=first[0] if first else 0)


def test_large_seeds_are_seeds() -> None:
    """All bits of a seed count, beyond 64 as well."""
    seeds = (0, 2**32, 2**62, 2**63, 2**63 + 1, 2**64, 2**100)
    assert len({tuple(Noise(seed, (1, 4))().flatten().tolist()) for seed in seeds}) == len(seeds)


def test_large_indices_are_indices() -> None:
    """All bits of an index count. The last index is 2^63 - 1, and beyond it one line says so."""
    indices = (0, 1, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1)
    for shape in ((1,), (3,), (4,)):
        rows = {tuple(draws(Noise(0, (1, *shape), first=i), 8).flatten().tolist()) for i in indices}
        assert len(rows) == len(indices)
        over = Noise(1, (4, *shape), first=2**32 - 2)()  # from one value of the upper word to the next
        assert torch.equal(over[2:], Noise(1, (2, *shape), first=2**32)())
    with pytest.raises(ValueError, match=r"^first: expected samples with indices below 2\*\*63"):
        Noise(0, (2, 3), first=2**63 - 1)


def test_a_stream_that_is_used_up_says_so() -> None:
    noise = Noise(0, (1, 1))
    noise._drawn, noise._next_count = 2**32 - 1, 1
    noise()
    with pytest.raises(ValueError, match=r"^noise: expected at most 2\*\*32 draws"):
        noise()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0,), (2, 0, 5)])
def test_empty_draws_are_empty(shape: tuple[int, ...]) -> None:
    assert [tuple(draw.shape) for draw in draws(Noise(0, shape), 3)] == [shape] * 3


def test_noise_on_a_device_without_values() -> None:
    """Nothing is read back and no host tensor is mixed in: every shape is drawn on the device `meta`."""
    for shape in ((5,), (5, 3), (2, 701)):
        draw = Noise(0, shape, device="meta", dtype=torch.float64)()
        assert (draw.device.type, draw.shape, draw.dtype) == ("meta", shape, torch.float64)


def test_single_precision_agrees_where_double_is_missing() -> None:
    """Also at the ends of the words, where u is 1 to the rounding of float32."""
    generator = torch.Generator().manual_seed(0)
    even, odd = torch.randint(2**32, (2, 2, 20000), generator=generator)
    even[:, :6] = torch.tensor([0, 1, 2**31 - 1, 2**31, WORD - 1, WORD])
    single, double = (torch.stack(box_muller(even.clone(), odd.clone(), w)) for w in (torch.float32, torch.float64))
    assert float((single - double).abs().max()) < 3e-6


def test_memory_beyond_the_draw_does_not_grow() -> None:
    """No tensor on the way to a draw of 3.2 MB is larger than the words of the blocks that are made at once."""
    with LargestTensor(apart_from=400_000 * 2 * 4) as seen:
        Noise(0, (400_000, 2))()
    assert 0 < seen.size <= 2 * 8 * 1.5 * noise_module.BLOCKS


@pytest.mark.slow
def test_compiled_loops_draw_the_same_numbers() -> None:
    """A loop compiles whole, and the compiler does not look inside a draw, where it computes wrong words."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def loop(noise: Noise) -> Tensor:
        return torch.stack([noise() for _ in range(6)])

    found = torch.compile(loop, fullgraph=True, backend=backend)(Noise(0, (50, 3)))
    assert torch.equal(found, loop(Noise(0, (50, 3))))
    assert sum("backdrift.normals" in str(node.target) for node in graphs[0].graph.nodes) == 3  # of 1, 3 and 9 draws


@pytest.mark.slow
def test_draws_are_right_under_the_default_compiler() -> None:
    def loop(noise: Noise) -> Tensor:
        return torch.stack([2 * noise() for _ in range(6)])

    assert torch.equal(torch.compile(loop)(Noise(0, (50, 3))), loop(Noise(0, (50, 3))))


class LargestTensor(TorchDispatchMode):
    """Records the size in bytes of the largest new tensor other than one of the given size."""

    def __init__(self, apart_from: int) -> None:
        super().__init__()
        self.apart_from, self.size = apart_from, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().nbytes() != self.apart_from:
            self.size = max(self.size, out.untyped_storage().nbytes())
        return out


def test_samples_of_one_seed_are_the_same_in_parts() -> None:
    """`sample` with `first`: a batch of 6 is a batch of 4 and a batch of 2, prior and noise alike."""
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), 0.1, sde=VP())
    whole = sample(model, EulerMaruyama(steps=5), (6, 2), seed=4)
    parts = [sample(model, EulerMaruyama(steps=5), (n, 2), seed=4, first=first) for n, first in ((4, 0), (2, 4))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)
