"""Folders of images: every format and mode, metadata, damage, and what else lies in such folders."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data_files import DataFile
from PIL import Image

G = np.random.default_rng(2)
N = 10
GREY = G.integers(0, 256, size=(N, 6, 8), dtype=np.uint8)
RGB = G.integers(0, 256, size=(N, 6, 8, 3), dtype=np.uint8)
FIRST = np.moveaxis(RGB, -1, 1)
ALPHA = G.integers(0, 256, size=(N, 6, 8), dtype=np.uint8)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def images(make: Callable[[int], bytes], suffix: str = "png", name: str = "{k:03d}") -> Callable[[Path], Path]:
    """Writes N images into a folder of their own."""

    def write(folder: Path) -> Path:
        for k in range(N):
            path = folder / "set" / f"{name.format(k=k, c=k % 2)}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make(k))
        return folder / "set"

    return write


def grey(k: int) -> bytes:
    return encoded(Image.fromarray(GREY[k]))


def rgb(k: int) -> bytes:
    return encoded(Image.fromarray(RGB[k]))


def and_also(write: Callable[[Path], Path], **others: bytes) -> Callable[[Path], Path]:
    """Writes more files into the folder. In their names __ stands for a slash and _dot_ for a point."""

    def written(folder: Path) -> Path:
        path = write(folder)
        for name, content in others.items():
            file = path / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return path

    return written


def turned(k: int, orientation: int) -> bytes:
    """The image that a viewer shows as RGB[k], stored in another orientation (EXIF 2.3, tag 0x0112)."""
    stored = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](RGB[k])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)


def transparent(k: int) -> bytes:
    return encoded(Image.fromarray(np.dstack([RGB[k], ALPHA[k]]), "RGBA"))


ON_WHITE = np.stack(
    [
        np.asarray(
            Image.alpha_composite(Image.new("RGBA", (8, 6), "white"), Image.fromarray(np.dstack([c, a]), "RGBA"))
        )
        for c, a in zip(RGB, ALPHA, strict=True)
    ]
)[..., :3]
EXACT_WHITE = (RGB.astype(float) * ALPHA[..., None] + 255.0 * (255 - ALPHA[..., None])) / 255
assert np.abs(ON_WHITE - EXACT_WHITE).max() <= 1  # what Pillow rounds to


def deep(mode: str, values: np.ndarray, kind: str) -> Callable[[int], bytes]:
    return lambda k: encoded(Image.fromarray(values, mode), kind)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colour: int, lines: bytes, interlaced: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def decoded(make: Callable[[int], bytes]) -> np.ndarray:
    """What a reader of the format itself gives, where the format loses digits."""
    return np.stack([np.asarray(Image.open(io.BytesIO(make(k)))) for k in range(N)])


def jpeg(k: int) -> bytes:
    return encoded(Image.fromarray(RGB[k]), "JPEG", quality=95)


def jpeg_grey(k: int) -> bytes:
    return encoded(Image.fromarray(GREY[k]), "JPEG")


def palette(k: int) -> bytes:
    return encoded(Image.fromarray(RGB[k]).quantize(16))


PALETTE = np.stack([np.asarray(Image.fromarray(RGB[k]).quantize(16).convert("RGB")) for k in range(N)])
FEW = (GREY > 127).astype(np.uint8) * 255


def _said() -> Any:
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("Author", "someone")
    return said


FORMATS = [
    DataFile("grey PNG", images(grey), GREY[:, None]),
    DataFile("PNG in colours", images(rgb), FIRST),
    DataFile("BMP", images(lambda k: encoded(Image.fromarray(RGB[k]), "BMP"), "bmp"), FIRST),
    DataFile("TIFF", images(lambda k: encoded(Image.fromarray(RGB[k]), "TIFF"), "tif"), FIRST),
    DataFile(
        "compressed TIFF",
        images(lambda k: encoded(Image.fromarray(RGB[k]), "TIFF", compression="tiff_lzw"), "tiff"),
        FIRST,
    ),
    DataFile("lossless WebP", images(lambda k: encoded(Image.fromarray(RGB[k]), "WEBP", lossless=True), "webp"), FIRST),
    DataFile(
        "grey GIF", images(lambda k: encoded(Image.fromarray(GREY[k]), "GIF"), "gif"), np.repeat(GREY[:, None], 3, 1)
    ),
    DataFile("JPEG", images(jpeg, "jpg"), np.moveaxis(decoded(jpeg), -1, 1)),
    DataFile("grey JPEG", images(jpeg_grey, "jpeg"), decoded(jpeg_grey)[:, None]),
    DataFile("suffix in capital letters", images(rgb, "PNG"), FIRST),
    DataFile("JPEG called .png", images(jpeg), np.moveaxis(decoded(jpeg), -1, 1)),
    DataFile("palette", images(palette), np.moveaxis(PALETTE, -1, 1)),
    DataFile(
        "one bit",
        images(lambda k: encoded(Image.fromarray(FEW[k]).convert("1", dither=Image.Dither.NONE))),
        FEW[:, None],
    ),
    DataFile("opaque alpha", images(lambda k: encoded(Image.fromarray(RGB[k]).convert("RGBA"))), FIRST),
    DataFile("transparent", images(transparent), np.moveaxis(ON_WHITE, -1, 1)),
    DataFile("grey and opaque alpha", images(lambda k: encoded(Image.fromarray(GREY[k]).convert("LA"))), GREY[:, None]),
    DataFile("optimised PNG", images(lambda k: encoded(Image.fromarray(GREY[k]), optimize=True)), GREY[:, None]),
    DataFile(
        "grey images among coloured ones",
        images(lambda k: grey(k) if k % 2 else rgb(k)),
        np.where((np.arange(N) % 2 == 1)[:, None, None, None], GREY[:, None], FIRST),
    ),
    *(DataFile(f"EXIF orientation {k}", images(partial(turned, orientation=k)), FIRST) for k in range(2, 9)),
    DataFile("one pixel", images(lambda k: encoded(Image.fromarray(GREY[k, :1, :1]))), GREY[:, None, :1, :1]),
    DataFile("one row of pixels", images(lambda k: encoded(Image.fromarray(GREY[k, :1]))), GREY[:, None, :1]),
    DataFile("names beyond ASCII", images(rgb, name="bild ü {k:03d}"), FIRST),
    DataFile("text in the file", images(lambda k: encoded(Image.fromarray(RGB[k]), pnginfo=_said())), FIRST),
    DataFile("own size", images(rgb), None, {"size": 0}),
    DataFile("header for images", images(rgb), None, {"header": True}),
    DataFile("layout for images", images(rgb), None, {"layout": "channels_last"}),
]

SIXTEEN = (G.integers(0, 65536, size=(6, 8))).astype(np.uint16)
LINES = b"".join(b"\0" + row.tobytes() for row in G.integers(0, 256, size=(6, 48), dtype=np.uint8))
ANIMATED = encoded(Image.fromarray(GREY[0]), "GIF", save_all=True, append_images=[Image.fromarray(GREY[1])])
PAGES = encoded(Image.fromarray(GREY[0]), "TIFF", save_all=True, append_images=[Image.fromarray(GREY[1])])


def _texts(folder: Path) -> Path:
    (folder / "readme.txt").write_text("hello")
    return folder


def _link(path: Path, target: Path) -> Path:
    (path / "link.png").symlink_to(target)
    return path


def _two(folder: Path) -> Path:
    for k in range(2):
        (folder / f"{k}.png").write_bytes(rgb(k))
    return folder


def _two_training_folders(folder: Path) -> Path:
    images(rgb, name="train/{k}")(folder)
    return images(rgb, name="training/{k}")(folder)


REFUSED = [
    DataFile(f"images: {name}", write, None)
    for name, write in [
        ("16 bits, grey", images(lambda k: encoded(Image.fromarray(SIXTEEN)))),
        ("16 bits, colours", images(lambda k: png(8, 6, 16, 2, LINES))),
        ("16 bits, TIFF", images(lambda k: encoded(Image.fromarray(SIXTEEN), "TIFF"), "tif")),
        ("32 bits, TIFF", images(lambda k: encoded(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"), "tif")),
        ("floats, TIFF", images(lambda k: encoded(Image.fromarray(SIXTEEN.astype(np.float32)), "TIFF"), "tif")),
        ("animated GIF", images(lambda k: ANIMATED, "gif")),
        ("several pages", images(lambda k: PAGES, "tif")),
        ("mixed sizes", images(lambda k: encoded(Image.fromarray(GREY[k, : 4 + k % 2])))),
        ("cut PNG", images(lambda k: rgb(k)[:-60])),
        ("cut JPEG", images(lambda k: jpeg(k)[:-100], "jpg")),
        ("one cut image among whole ones", images(lambda k: rgb(k)[: -60 if k == 7 else None])),
        ("PNG without pixels", images(lambda k: png(8, 6, 8, 2, b""))),
        ("PNG with a wrong checksum", images(lambda k: rgb(k)[:30] + b"\xff\xff" + rgb(k)[32:])),
        ("empty files", images(lambda k: b"")),
        ("text called .png", images(lambda k: b"hello")),
        ("head alone", images(lambda k: b"\x89PNG\r\n\x1a\n")),
        ("bomb", images(lambda k: png(100_000, 100_000, 8, 2, bytes(100)))),
        ("no images", lambda folder: _texts(folder)),
        ("empty folder", lambda folder: folder),
        ("hidden images alone", images(rgb, name=".hidden/{k}")),
        ("images beside classes", and_also(images(rgb, name="{c}/{k}"), stray_dot_png=rgb(0))),
        ("test without train", images(rgb, name="test/{k}")),
        ("images beside train", and_also(images(rgb, name="train/{k}"), stray_dot_png=rgb(0))),
        ("two training folders", _two_training_folders),
        (
            "a class of the test set alone",
            and_also(images(rgb, name="train/{c}/{k}"), test__z__a_dot_png=rgb(0), test__z__b_dot_png=rgb(1)),
        ),
        ("a single image", lambda folder: images(rgb)(folder) / "003.png"),
        ("two images", lambda folder: _two(folder)),
    ]
]

ORDER = [*range(0, N, 2), *range(1, N, 2)]
"""Images in the two folders of their classes are read one class after the other."""

CLASSES = [k % 2 for k in ORDER]
RUBBISH = {"Thumbs_dot_db": b"x", "_dot_DS_Store": b"y", "readme_dot_txt": b"z"}


def _linked_images(folder: Path) -> Path:
    path = images(rgb)(folder)
    (folder / "linked").mkdir()
    for file in path.iterdir():
        (folder / "linked" / file.name).symlink_to(file)
    return folder / "linked"


def _linked_folder(folder: Path) -> Path:
    images(rgb)(folder)
    (folder / "link").symlink_to(folder / "set")
    return folder / "link"


def _loop(folder: Path) -> Path:
    path = images(rgb)(folder)
    (path / "again").symlink_to(path)
    return path


FOLDERS = [
    DataFile("other files", and_also(images(rgb), **RUBBISH), FIRST),
    DataFile("hidden folder", and_also(images(rgb), _dot_cache__a_dot_png=grey(0)), FIRST),
    DataFile("checkpoints of notebooks", and_also(images(rgb), _dot_ipynb_checkpoints__a_dot_png=b"?"), FIRST),
    DataFile("classes", images(rgb, name="{c}/{k}"), FIRST[ORDER], labels=CLASSES),
    DataFile("one class", images(rgb, name="only/{k}"), FIRST),
    DataFile(
        "hidden class", and_also(images(rgb, name="{c}/{k}"), _dot_git__a_dot_png=b"?"), FIRST[ORDER], labels=CLASSES
    ),
    DataFile(
        "empty class", and_also(images(rgb, name="{c}/{k}"), empty__readme_dot_txt=b""), FIRST[ORDER], labels=CLASSES
    ),
    DataFile(
        "folders train and test",
        and_also(images(rgb, name="train/{k}"), test__a_dot_png=rgb(0), test__b_dot_png=rgb(1)),
        FIRST,
    ),
    DataFile(
        "train and val", and_also(images(rgb, name="Train/{k}"), val__a_dot_png=rgb(0), val__b_dot_png=rgb(1)), FIRST
    ),
    DataFile("train alone", images(rgb, name="train/{k}"), FIRST),
    DataFile(
        "splits with classes",
        and_also(images(rgb, name="train/{c}/{k}"), test__0__a_dot_png=rgb(0), test__1__b_dot_png=rgb(1)),
        FIRST[ORDER],
        labels=CLASSES,
    ),
    DataFile("links to images", _linked_images, FIRST),
    DataFile("link to a folder", _linked_folder, FIRST),
    DataFile("link to nothing among images", lambda folder: _link(images(rgb)(folder), folder / "nothing.png"), FIRST),
    DataFile("link to the folder in itself", _loop, FIRST),
    DataFile("levels", images(rgb), FIRST, {"levels": 300}),
    DataFile("flipped", images(rgb), FIRST, {"flip": True}),
    DataFile("middle that is kept", images(rgb), FIRST[..., 1:7], {"size": 6}),
]

CASES = [*FORMATS, *REFUSED, *FOLDERS]
