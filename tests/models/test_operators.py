"""Operators do what they say: means, kernels, Fourier coefficients and projections that are known in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backdrift.models.operators import Blur, DownSampling, FourierSampling, FunctionOperator, Mask, Projection, Scaled


def impulse(row: int, column: int, size: int = 8) -> Tensor:
    picture = torch.zeros(1, 2, size, size, dtype=torch.float64)
    picture[0, 1, row, column] = 1
    return picture


def test_down_sampling_takes_means_of_squares() -> None:
    picture = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    found = DownSampling((1, 4, 4), 2)(picture)
    torch.testing.assert_close(found, torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]).double())
    torch.testing.assert_close(DownSampling((1, 4, 4), 4)(picture), torch.full((1, 1, 1, 1), 7.5).double())
    for shape in ((4, 4), (1, 4, 6), (1, 6, 4)):
        with pytest.raises(ValueError, match="shape: expected"):
            DownSampling(shape, 4)


@pytest.mark.parametrize(("std", "reach"), [(0.2, 1), (0.5, 2), (1.0, 3), (1.1, 4)])
def test_a_gaussian_blur_is_the_normal_density_up_to_three_deviations(std: float, reach: int) -> None:
    """The picture of a point has values in the ratio exp(-r^2/2 std^2), which sum to 1, within its own channel."""
    blur = Blur.gaussian((2, 11, 11), std)
    assert blur.kernel.shape == (2 * reach + 1, 2 * reach + 1)
    found = blur(impulse(5, 5, size=11))
    place = torch.arange(11, dtype=torch.float64) - 5
    line = (-0.5 * (place / std).square()).exp() * (place.abs() <= reach)
    torch.testing.assert_close(found[0, 1], torch.outer(line, line) / line.sum() ** 2, rtol=1e-5, atol=1e-7)
    assert not bool(found[0, 0].any())


def test_a_blur_has_periodic_edges() -> None:
    """A kernel of 3 rows and 5 columns on a point in the corner: beyond an edge it goes on at the other one."""
    kernel = torch.tensor([[1.0, 2.0, 3.0, 2.0, 1.0], [0.0, 4.0, 9.0, 4.0, 0.0], [1.0, 2.0, 3.0, 2.0, 1.0]])
    found = Blur((2, 8, 8), kernel)(impulse(0, 0))[0, 1]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for row in (-1, 0, 1):
        for column in (-2, -1, 0, 1, 2):
            expected[row, column] = kernel[row + 1, column + 2]
    torch.testing.assert_close(found, expected)
    for wrong in (torch.ones(2, 3), torch.ones(3, 2), torch.ones(3)):
        with pytest.raises(ValueError, match="kernel: expected odd numbers"):
            Blur((2, 8, 8), wrong)


def test_fourier_coefficients_of_a_wave() -> None:
    """Of 3 cos(2 pi 2 x/8) + 5 sin(2 pi y/8): 8 times 3/2 at frequency (0, 2), and -8i times 5/2 at (1, 0)."""
    place = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    picture = (3 * (2 * place).cos() + 5 * place.sin().unsqueeze(1)).expand(1, 2, 8, 8)
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[0, 2] = seen[1, 0] = seen[3, 3] = True
    found = FourierSampling((2, 8, 8), seen)(picture)
    expected = torch.tensor([[12.0, 0.0, 0.0], [0.0, -20.0, 0.0]]).double().unsqueeze(1).expand(2, 2, 3)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-12)
    for wrong in (seen[:4], seen.long()):
        with pytest.raises(ValueError, match=r"seen: expected a boolean tensor \[8, 8\]"):
            FourierSampling((2, 8, 8), wrong)


def test_random_projections_keep_lengths_on_average() -> None:
    """Their entries have variance 1/12 for samples of 12 components: 24,000 of them show it to 4 sqrt(2/24000)."""
    rows = Projection.random(2000, (3, 4), seed=1).rows
    assert rows.shape == (2000, 12)
    assert float(12 * rows.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 24_000))
    assert not torch.equal(rows, Projection.random(2000, (3, 4), seed=2).rows)


def test_matrices_have_a_row_for_each_measurement() -> None:
    rows = torch.arange(8.0, dtype=torch.float64).reshape(2, 2, 2)
    torch.testing.assert_close(Projection(rows).matrix(), rows.flatten(1))
    seen = torch.tensor([[True, False], [False, True]])
    torch.testing.assert_close(Mask(seen).matrix(), torch.eye(4).double()[[0, 3]])


def test_an_adjoint_that_is_given_is_taken() -> None:
    """A physics of deepinv brings its own; a function alone is differentiated."""
    physics = SimpleNamespace(A=lambda x: 3 * x, A_adjoint=lambda y: 3 * y + 1)
    y = torch.ones(2, 4).double()
    torch.testing.assert_close(FunctionOperator.of_physics(physics, (4,)).adjoint(y), 4 * y)
    torch.testing.assert_close(FunctionOperator(physics.A, (4,)).adjoint(y), 3 * y)
    torch.testing.assert_close(FunctionOperator.of_physics(physics, (4,))(y), 3 * y)


def test_masks_hide_what_they_are_asked_to() -> None:
    """Of 5x4 pixels the smaller half of the rows, or a middle box of 2x2; or two of five columns."""
    shape = (1, 5, 4)
    rows = torch.arange(5).unsqueeze(1).expand(5, 4)
    for hidden, expected in (("lower", rows < 3), ("upper", rows >= 2), ("left", rows.new_tensor([0, 0, 1, 1]) > 0)):
        mask = Mask.half(shape, hidden)  # type: ignore[arg-type]
        assert mask.indices.tolist() == expected.expand(5, 4).flatten().nonzero().flatten().tolist()
    missing = sorted({*range(20)} - {*Mask.box(shape, 0.5).indices.tolist()})
    assert missing == [5, 6, 9, 10]
    columns, row = Mask.of_columns((5,), [3, 1]), torch.arange(5.0).unsqueeze(0)
    assert columns(row).tolist() == [[3, 1]] and columns.adjoint(columns(row)).tolist() == [[0, 1, 0, 3, 0]]
    some = Mask.random((3, 10, 10), 0.3, seed=2).indices
    assert len(some) == 90 and len(Mask.random((7,), 1e-9).indices) == 1
    assert not torch.equal(some, Mask.random((3, 10, 10), 0.3, seed=3).indices)
    for wrong in ([], [0, 0], [5], [-1], [True]):
        with pytest.raises(ValueError, match="columns: expected different numbers from 0 to 4"):
            Mask.of_columns((5,), wrong)
    with pytest.raises(ValueError, match="hidden: expected"):
        Mask.half(shape, "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape: expected pictures"):
        Mask.box((5,))
    assert len(Mask.random((7,), 1).indices) == 7
    for share in (0, 1.01):
        with pytest.raises(ValueError, match="share: expected a number above 0 and of at most 1"):
            Mask.random((7,), share)
    for share in (0, 1):
        with pytest.raises(ValueError, match="share: expected a number between 0 and 1"):
            Mask.box(shape, share)


def test_rows_of_coefficients_hold_the_mean_and_no_row_twice() -> None:
    seen = FourierSampling.random((1, 8, 6), 0.6, seed=1).seen
    rows = seen.all(1).nonzero().flatten().tolist()
    assert len(rows) == 3 and rows[0] == 0 and rows[-1] <= 4 and int(seen.sum()) == 18
    assert FourierSampling.random((1, 8, 6), 0.01).seen.nonzero()[:, 0].unique().tolist() == [0]
    with pytest.raises(ValueError, match="share: expected"):
        FourierSampling.random((1, 8, 6), 0.0)


def test_an_operator_in_other_units() -> None:
    """x to w A (s x), with its matrix and adjoint."""
    rows, scale, weight = torch.arange(6.0).reshape(2, 3).double(), torch.tensor([1.0, 10.0, 0.1]), torch.tensor([2, 3])
    found = Scaled(Projection(rows), scale.double(), weight.double())
    expected = weight.double().diag() @ rows @ scale.double().diag()
    torch.testing.assert_close(found.matrix(), expected)
    torch.testing.assert_close(found.adjoint(torch.eye(2).double()), expected)


def test_a_physics_without_an_adjoint_is_refused() -> None:
    with pytest.raises(TypeError, match=r"physics: expected an object with A\(x\) and A_adjoint\(y\)"):
        FunctionOperator.of_physics(SimpleNamespace(A=lambda x: x), (4,))


def test_what_makes_no_operator_is_named() -> None:
    """Kernels, rows, masks, shapes and functions that people bring."""
    shape, nan = (1, 4, 4), float("nan")
    lists: Any = [[1.0, 2.0]]
    masks: Any = [[True] * 4] * 4
    three: Any = 3
    function: Any = torch.neg
    wrong: list[tuple[str, Any]] = [
        ("kernel", lambda: Blur(shape, torch.ones(11, 3))), ("kernel", lambda: Blur(shape, torch.ones(3, 3) * nan)),
        ("kernel", lambda: Blur(shape, lists)), ("kernel", lambda: Blur(shape, torch.ones(3, 3) * 1j)),
        ("rows", lambda: Projection(lists)), ("rows", lambda: Projection(torch.ones(4))),
        ("rows", lambda: Projection(torch.ones(0, 4))), ("rows", lambda: Projection(torch.ones(2, 4) / 0)),
        ("rows", lambda: Projection(torch.ones(2, 4) * 1j)), ("seen", lambda: Mask(torch.zeros(4, dtype=torch.bool))),
        ("seen", lambda: FourierSampling(shape, torch.zeros(4, 4, dtype=torch.bool))),
        ("seen", lambda: FourierSampling(shape, masks)), ("shape", lambda: Mask(torch.tensor(True))),
        ("function", lambda: FunctionOperator(three, (4,))), ("operator", lambda: Scaled(function, 2.0)),
        ("adjoint", lambda: FunctionOperator(function, (4,), three)),
    ]  # fmt: skip
    sizes: list[Any] = [4, (4.5,), (), (4, 0), (4, -1), None, (True,), "4"]
    wrong += [("shape", lambda size=size: FunctionOperator(function, size)) for size in sizes]
    for name, call in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .* got"):
            call()


def test_a_kernel_as_wide_as_the_picture_goes_round() -> None:
    """A row of 1 over twice the width and one pixel more sees each pixel twice, and the one below it once more."""
    x = torch.arange(12.0).double().reshape(1, 1, 3, 4)
    found = Blur((1, 3, 4), torch.ones(1, 9))(x)
    torch.testing.assert_close(found, 2 * x.sum(-1, keepdim=True) + x)
