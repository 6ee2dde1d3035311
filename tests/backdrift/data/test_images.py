"""Folders of images: splits, classes, and what their formats hold besides bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from backdrift.data import Files
from backdrift.data.files import read
from backdrift.data.images import read_images

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
COLOUR = np.random.default_rng(0).integers(256, size=(2, 3, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray = GREY, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_folders_named_after_splits_are_splits(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog", "eel")), ("Test", ("dog", "eel")), ("val", ("cat",))):
        for number, name in enumerate(names):
            save(tmp_path / split / name / "a.png", GREY + number)
    found = read_images(tmp_path)
    assert found.class_names == ("cat", "dog", "eel")
    assert present(found.labels).tolist() == [0, 1, 2] and present(found.test_labels).tolist() == [1, 2]
    assert np.array_equal(found.values[:, 0].numpy(), [GREY, GREY + 1, GREY + 2])
    assert np.array_equal(present(found.test)[:, 0].numpy(), [GREY, GREY + 1])
    assert found.notes == ("images for validation that are left out: 1",)


def test_validation_images_are_the_test_set_if_there_is_no_other(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a.png")
    save(tmp_path / "valid" / "b.png", GREY + 1)
    found = read_images(tmp_path)
    assert found.labels is None and len(found.values) == 1
    assert np.array_equal(present(found.test)[0, 0].numpy(), GREY + 1)
    assert found.notes == ("images for validation that serve as the test set: 1",)


def test_a_folder_train_alone_is_no_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "a.png")
    found = read_images(tmp_path)
    assert found.class_names == ("cat", "dog") and found.test is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("train/a.png", "dog/a.png"), "dog/a.png lies beside the folder train"),
        (("train/a.png", "b.png"), "b.png lies beside the folder train"),
        (("test/a.png", "val/a.png"), "found test, val in the folder, but no folder train"),
        (("cat/a.png", "dog/a.png", "b.png"), "b.png lies beside the folders of classes"),
        (("train/a.png", "training/a.png"), "two of the folders train, training mean the same"),
        (("train/cat/a.png", "train/dog/a.png", "test/eel/a.png"), "the test label eel is not among those of"),
        (("train/cat/a.png", "train/dog/a.png", "test/a.png"), "the training samples have labels and the test"),
    ],
)
def test_folders_that_can_be_read_two_ways_are_refused(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for file in files:
        save(tmp_path / file)
    with pytest.raises(ValueError, match=said):
        read_images(tmp_path)


def test_what_systems_leave_behind_is_no_class_and_other_files_are_told(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/a.png", ".cache/a.png", "__MACOSX/a.png", "cat/._a.png", "dog/__pycache__/a.png"):
        save(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert read_images(tmp_path).class_names == ("cat", "dog") and not read_images(tmp_path).notes
    (tmp_path / "cat" / "notes.txt").write_bytes(b"x")
    (tmp_path / "eel").mkdir()
    assert read_images(tmp_path).notes == (
        "files that are no images and are left out: 1, the first is cat/notes.txt",
        "folders without images that are left out: 1, the first is eel",
    )
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_bytes(b"x")
    with pytest.raises(ValueError, match="found neither images nor IDX files in the folder; its first file is notes"):
        read(tmp_path / "text")


def test_a_link_to_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        Image.fromarray(np.full((4, 4), number, dtype=np.uint8)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    assert len(Files(str(tmp_path)).train) == 18
    assert "links to files that are not there and are left out: 1, the first is link.png" in capsys.readouterr().out


def test_images_are_turned_as_their_orientation_says(tmp_path: Path) -> None:
    """Orientation 6: the picture is to be turned by a quarter to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", COLOUR, exif=exif)
    found = read_images(tmp_path)
    assert np.array_equal(found.values[0].permute(1, 2, 0).numpy(), np.rot90(COLOUR, -1))
    assert found.notes == ("images that are turned as their EXIF orientation says: 1",)


def test_transparent_pixels_are_drawn_on_white(tmp_path: Path) -> None:
    """An opacity of 1 shows the colour, 0 shows white, 102/255 = 0.4 a mixture of both."""
    alpha = np.array([[255, 255, 255], [0, 102, 0]], dtype=np.uint8)
    save(tmp_path / "a.png", np.dstack([COLOUR, alpha]))
    found = read_images(tmp_path)
    share = alpha[..., None] / 255
    expected = share * COLOUR + (1 - share) * 255
    assert np.abs(found.values[0].permute(1, 2, 0).numpy() - expected).max() <= 1  # rounded by Pillow
    assert np.array_equal(found.values[0, :, 0].T.numpy(), COLOUR[0])
    assert found.notes == ("images with transparent pixels, which are drawn on white: 1",)


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.dstack([COLOUR, np.full((2, 3), 255, dtype=np.uint8)]))
    assert np.array_equal(read_images(tmp_path).values[0].permute(1, 2, 0).numpy(), COLOUR)
    save(tmp_path / "a.png", np.dstack([GREY, np.full((2, 3), 255, dtype=np.uint8)]))
    assert np.array_equal(read_images(tmp_path).values[0, 0].numpy(), GREY) and not read_images(tmp_path).notes


def test_transparent_colours_of_palettes_are_drawn_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_images(tmp_path).values[0, :, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_other_colour_spaces_are_told(tmp_path: Path) -> None:
    Image.new("CMYK", (3, 2), (0, 255, 0, 0)).save(tmp_path / "a.tif")
    save(tmp_path / "b.png")
    found = read_images(tmp_path)
    assert found.values[0, :, 0, 0].tolist() == [255, 0, 255]  # white without green
    assert found.notes == (
        "images in CMYK, which are converted to RGB: 1",
        "grey images among coloured ones, which are taken as coloured: 1",
    )


def sixteen_bit_png(path: Path) -> None:
    """A PNG of one pixel with three channels of 16 bits, which Pillow reads but does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 60_000, 1, 2))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_what_pillow_would_give_in_part_is_refused(tmp_path: Path) -> None:
    sixteen_bit_png(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is of more than 8 bits a channel"):
        read_images(tmp_path)
    (tmp_path / "a.png").unlink()
    frames = [Image.fromarray(GREY), Image.fromarray(GREY + 1), Image.fromarray(GREY + 2)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"b.gif holds 3 frames; save each frame"):
        read_images(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "bmp", "webp"])
def test_damaged_images_are_named(tmp_path: Path, suffix: str) -> None:
    whole = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    save(tmp_path / f"a.{suffix}", whole)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a.{suffix} cannot be read as an image"):
        read_images(tmp_path)


def test_size_scales_the_shorter_side_and_keeps_the_middle(tmp_path: Path) -> None:
    wide = np.tile(np.repeat(np.array([10, 90, 200], dtype=np.uint8), 4), (4, 1))  # 4 x 12, in three squares
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", np.full((10, 8), 33, dtype=np.uint8))
    found = read_images(tmp_path, size=4)
    assert found.values.shape == (2, 1, 4, 4)
    assert bool((found.values[0] == 90).all()) and bool((found.values[1] == 33).all())
    assert read_images(tmp_path, size=5).notes == ("images that are smaller than 5 pixels and are enlarged: 1",)
    with pytest.raises(ValueError, match=r"mixed sizes: a.png is 12x4, b.png is 8x10; data.size=4 scales and crops"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match=r"size: expected an integer from 1 to 65536.*, got 0"):
        read_images(tmp_path, size=0)


def test_flip_shows_every_picture_and_its_mirror_image_in_a_pass(tmp_path: Path) -> None:
    for number in range(8):
        save(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", GREY + number)
    plain, both = Files(str(tmp_path), test=0.25), Files(str(tmp_path), test=0.25, flip=True)
    assert (len(plain), len(both)) == (6, 12)
    seen = both.records(torch.arange(12).flip(0))
    assert torch.equal(seen.index, torch.arange(12).flip(0))
    assert torch.equal(seen.sample.flip(0)[:6], plain.train)
    assert torch.equal(seen.sample.flip(0)[6:], plain.train.flip(-1))
    assert torch.equal(present(seen.condition).flip(0), present(plain.train_labels).repeat(2))
    assert both.card.difference(plain.card) is None
