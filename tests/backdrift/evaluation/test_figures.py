"""Pictures: what is drawn is the data, nothing is cut off, no labels collide, and pyplot is left alone."""

import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from backdrift.evaluation import figures
from backdrift.evaluation.figures.chains import trace
from backdrift.evaluation.figures.drawing import standard_units
from backdrift.solvers import ULA, mcmc

SHAPES = {
    "digits": (1, 8, 8),
    "colour": (3, 12, 16),
    "series": (2, 30),
    "1-D": (1,),
    "2-D": (2,),
    "3-D": (3,),
    "64-D": (64,),
}


def data(shape: tuple[int, ...], n: int = 40, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def check_text(figure: Figure) -> None:
    """Every text lies within the figure, and no two overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # Tick labels beyond an axis's limits exist but are not drawn; matplotlib places the others itself.
    ticks = {id(label) for a in figure.axes for axis in (a.xaxis, a.yaxis) for label in axis.findobj(Text)}
    ticks -= {id(axis.label) for a in figure.axes if a.axison for axis in (a.xaxis, a.yaxis)}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in ticks]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    width, height = canvas.get_width_height()
    assert boxes
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{text!r} is cut: {box}"
    for (a, box), (b, other) in combinations(boxes, 2):
        assert not box.overlaps(other), f"{a!r} overlaps {b!r}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_text_is_cut_or_covered(shape: tuple[int, ...]) -> None:
    path = torch.stack([data(shape, seed=k) for k in range(10)])
    times, stds = [1 - k / 9 for k in range(10)], [80.0, 21, 7.66, 2.1, 0.83, 0.341, 0.123, 0.0567, 0.00222, 0.0]
    values = torch.linspace(-1234.5, -0.001234, 40)
    check_text(figures.samples(path[-1], data(shape, seed=20)))
    check_text(figures.samples(path[-1]))
    check_text(figures.trajectory(path, times, data(shape, seed=20), stds))
    check_text(figures.most_and_least_likely(path[0], values, "log-density in nats", "high"))


def test_other_figures_have_no_text_cut() -> None:
    check_text(figures.loss_curve(range(500), np.linspace(3, 0.1, 500).tolist()))
    check_text(figures.likelihood_histogram({"test": torch.rand(50), "train": torch.rand(60)}, "bits/dim"))


def test_images_are_drawn_pixel_for_pixel_beside_each_other() -> None:
    generated, real = data((1, 8, 8)), data((1, 8, 8), seed=1)
    picture = pixels(figures.samples(generated, real))
    rows = 6  # the largest square of 40
    size, pitch = 56, 64
    width = rows * pitch - 8
    top, left = picture.shape[0] - 18 - width, 18
    for shown, offset in ((generated, left), (real, left + width + 36)):
        for k in range(rows * rows):
            y, x = top + k // rows * pitch, offset + k % rows * pitch
            tile = picture[y : y + size, x : x + size]
            expected = shown[k, 0].numpy().repeat(7, 0).repeat(7, 1)[..., None]
            assert np.abs(tile - expected).max() < 0.01  # 1/255 is 0.004
            assert (picture[y : y + size, x + size : x + pitch - 1] > 0.99).all()  # the gap is white


def test_most_likely_come_first_whichever_way_the_unit_runs() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 4.0])

    def shown(most_is: str) -> list[str]:
        figure = figures.most_and_least_likely(data((1, 8, 8), 4), values, "unit", most_is, n=2)
        return [a.get_title() for a in figure.axes]

    assert shown("low") == ["1.00", "2.00", "4.00", "3.00"]
    assert shown("high") == ["4.00", "3.00", "1.00", "2.00"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12), (2,)])
def test_a_single_sample_is_drawn_once(shape: tuple[int, ...]) -> None:
    figure = figures.most_and_least_likely(data(shape, 1), torch.tensor([3.0]), "unit")
    if len(shape) > 1:
        assert [axes.get_title() for axes in figure.axes] == ["3.00"]
    check_text(figure)


def table(n: int = 400) -> Tensor:
    """Seven columns in odd units. Columns 2, 3, 5 and 6 follow one hidden number, and the others are independent.

    Column 5 falls where the others rise, column 6 is a power of ten, and column 0 has the largest variance by far.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    hidden = torch.randn(n, generator=generator, dtype=torch.float64)
    for k, share in ((2, 0.1), (3, 0.2), (5, 0.3), (6, 0.4)):
        x[:, k] = hidden + share * x[:, k]
    x[:, 0] *= 1e6
    x[:, 5] = 7 - 1e-3 * x[:, 5]
    x[:, 6] = 10 ** x[:, 6]
    return x


def test_of_many_columns_the_most_correlated_are_drawn_in_standard_units() -> None:
    x = table()
    figure = figures.samples(x, x, columns=list("abcdefg"))
    assert figure.get_suptitle() == "the 4 most correlated of 7 columns"
    lowest = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in lowest] == [f"{name} (standardised)" for name in "cdfg"]
    drawn = np.array(lowest[0].collections[0].get_offsets(), dtype=float)  # column g against c
    centre = x.median(0).values  # of 400 numbers: the lower of the two in the middle
    for at, k in ((0, 2), (1, 6)):
        ranked = np.argsort(drawn[:, at])
        np.testing.assert_array_equal(ranked, x[:, k].argsort().numpy())
        assert abs(np.median(drawn[:, at])) < 1e-12
        assert np.isclose(np.quantile(drawn[:, at], 0.84) - np.quantile(drawn[:, at], 0.16), 2)
        scale = (x[:, k].quantile(0.84) - x[:, k].quantile(0.16)) / 2
        expected = (x[:, k] - centre[k]) / scale
        assert np.abs(drawn[:, at] - expected.numpy()).max() < 0.05  # half the gap between the two middle numbers


def test_one_outlier_does_not_change_the_standard_units() -> None:
    clean, dirty = table(), table()
    dirty[0, 2] = 1e9
    (a, b), (c, d) = standard_units(clean.numpy()), standard_units(dirty.numpy())
    assert np.abs((c - a) / b).max() < 0.02
    assert np.abs(d / b - 1).max() < 0.02
    centre, scale = standard_units(np.array([[3.0, 0.0]] * 9 + [[3.0, 1.0]]))
    np.testing.assert_allclose(centre, [3, 0])
    np.testing.assert_allclose(scale, [1, 0.3])  # one value only; a column of 0 and 1 with its standard deviation


def test_paths_of_a_table_keep_the_units_of_the_data() -> None:
    """The last state is the data: it is drawn at the places where the data are."""
    x = table(50)
    path = torch.stack([3 * x, x])
    figure = figures.trajectory(path, [1.0, 0.0], x, columns=list("abcdefg"))
    assert figure.axes[0].get_xlabel() == "c (standardised)"
    assert figure.axes[0].get_ylabel() == "d (standardised)"
    _, scale = standard_units(x.numpy())
    last = np.array(figure.axes[-1].collections[0].get_offsets(), dtype=float)
    assert np.isclose(np.ptp(last[:, 0]), np.ptp(x[:, 2].numpy()) / scale[2])
    ends = np.array(figure.axes[0].collections[-1].get_offsets(), dtype=float)
    np.testing.assert_allclose(ends, last[:40])  # the points on the paths are their ends


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_picture_has_a_title_and_named_axes(shape: tuple[int, ...]) -> None:
    path = torch.stack([data(shape, seed=k) for k in range(3)])
    values = torch.linspace(-3, -1, 40)
    for figure in (
        figures.samples(path[-1], data(shape, seed=20)),
        figures.samples(path[-1]),
        figures.trajectory(path, [1.0, 0.5, 0.0], data(shape, seed=20)),
        figures.most_and_least_likely(path[0], values, "nats", "high"),
        figures.loss_curve(range(20), np.linspace(3, 0.1, 20).tolist()),
        figures.likelihood_histogram({"test": torch.rand(50)}, "bits/dim"),
        figures.confusion(torch.eye(3), ["a", "b", "c"]),
    ):
        check_named(figure)


def check_named(figure: Figure) -> None:
    """There is a title, and each row and column of panels with ticks says what they are."""
    assert figure.get_suptitle() or figure.texts or any(axes.get_title() for axes in figure.axes)
    places = {
        axes: place
        for axes in figure.axes
        if axes.axison and axes.get_label() != "<colorbar>" and (place := axes.get_subplotspec()) is not None
    }
    for axes, place in places.items():
        column = [other for other, its in places.items() if its.colspan == place.colspan]
        if len(axes.get_xticks()):
            assert any(other.get_xlabel() for other in column), "a horizontal axis has no name"
        row = [other for other, its in places.items() if its.rowspan == place.rowspan]
        everywhere = {other.get_ylabel() for other in places} - {""}
        if len(axes.get_yticks()):
            assert any(other.get_ylabel() for other in row) or len(everywhere) == 1, "a vertical axis has no name"


def test_a_figure_saves_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    figures.samples(data((2,)), data((2,), seed=1)).savefig(tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 1000
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_samples_alone_are_drawn_as_they_are_beside_real_ones() -> None:
    generated = data((1, 8, 8))
    both, alone = pixels(figures.samples(generated, data((1, 8, 8), seed=1))), pixels(figures.samples(generated))
    width = 6 * 64 - 8
    left = slice(18, 18 + width)
    np.testing.assert_array_equal(alone[-18 - width : -18, left], both[-18 - width : -18, left])
    (axes,) = figures.samples(data((2,))).axes
    assert axes.get_title() == "generated, 40"
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), data((2,)))


def test_every_set_of_likelihoods_is_drawn() -> None:
    values = {f"set {k}": torch.linspace(0, k + 1, 30) for k in range(5)}
    (axes,) = figures.likelihood_histogram(values, "nats").axes
    labels = axes.get_legend_handles_labels()[1]
    assert [label.split(",")[0] for label in labels] == list(values)


@pytest.mark.parametrize("dim", [1, 2])
def test_likelihoods_of_vectors_are_colours_of_a_scatter(dim: int) -> None:
    """In the plane at their own places; on a line above them stand the values."""
    x = torch.randn(30, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linspace(-3, -1, 30, dtype=torch.float64)
    axes = figures.most_and_least_likely(x, values, "nats").axes[0]
    expected = torch.stack([x[:, 0], values if dim == 1 else x[:, 1]], 1)
    np.testing.assert_allclose(np.array(axes.collections[0].get_offsets(), dtype=float), expected.numpy())
    np.testing.assert_allclose(np.array(axes.collections[0].get_array(), dtype=float), values.numpy())


def test_one_component_without_a_density_has_one_row_of_panels() -> None:
    """The chains of a score alone know no log-density. All draws of each chain are drawn in order."""
    pytest.importorskip("arviz_stats")
    target = SimpleNamespace(score=lambda x: -x)
    chains = mcmc(target, ULA(step=0.1), torch.zeros(2, 1, dtype=torch.float64), 50)
    left, right = trace(chains, ["x"]).axes
    assert left.get_ylabel() == "x" and right.get_xlabel() == "density of each chain"
    for line, draws in zip(left.lines, chains.draws, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(50))
        np.testing.assert_array_equal(line.get_ydata(), draws[:, 0].numpy())
