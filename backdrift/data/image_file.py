"""One image file as an array, with all that its format says about it honoured, told or refused."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SHALLOW = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa"}
"""Pillow's modes of 8 bits or less for each channel. It would cut the values of others off at 255."""

DEEP = re.compile(r"\w+;(16|32)[BLN]\w*")
"""Pillow's raw modes of more than 8 bits a channel, such as RGB;16B."""

GREY = {"1", "L", "LA", "La"}
"""Pillow's modes without colours."""


def read_image(file: Path, size: int | None, notes: Counter[str], content: bytes | None = None) -> np.ndarray:
    """The bytes of an image, `[height, width]` if it is grey, otherwise `[height, width, 3]`.

    It is turned as its EXIF orientation says. Transparent pixels are drawn on white.

    Args:
        file: the image.
        size: the height and width that it is scaled and cropped to, or None. The shorter side is scaled to `size`, and
            the middle of the longer one is kept (as Dhariwal & Nichol 2021 do with ImageNet).
        notes: counts what was done, in words for the user.
        content: the bytes of the image, if they are known already. Then `file` is its name in messages.

    Raises:
        ValueError: if the file is damaged, has more than one frame, or more than 8 bits a channel.
    """
    from PIL import Image, ImageOps  # only folders of images need it

    damaged = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
    try:
        image: Any = Image.open(file if content is None else io.BytesIO(content))
    except damaged as error:
        raise ValueError(f"{file.name} cannot be read as an image ({error})") from error
    with image:
        _check(image, file)
        mode, profile = image.mode, image.info.get("icc_profile", b"")
        try:
            image.load()
            turned = ImageOps.exif_transpose(image)
        except damaged as error:
            raise ValueError(f"{file.name} cannot be read as an image ({error})") from error
    if image.getexif().get(0x0112, 1) != 1:
        notes["images that are turned as their EXIF orientation says"] += 1
    if profile and b"sRGB" not in profile:
        notes["images with a colour profile, which is not applied"] += 1
    if mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        notes[f"images in {mode}, which are converted to RGB"] += 1
    plain = _opaque(turned, "L" if mode in GREY else "RGB", notes)
    if size is not None:
        if min(plain.size) < size:
            notes[f"images that are smaller than {size} pixels and are enlarged"] += 1
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(plain)


def _check(image: Any, file: Path) -> None:
    """Raise `ValueError` for an image that Pillow would give in part only."""
    # Pillow opens a PNG or TIFF of 16 bits and three channels as one of 8 bits; its tiles tell.
    deep = any(DEEP.fullmatch(part) for tile in image.tile for part in _words(tile[3]))
    if image.mode not in SHALLOW or deep:
        raise ValueError(
            f"{file.name} is of more than 8 bits a channel (mode {image.mode}); convert the images to 8 bits, or give "
            "an array"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{file.name} holds {frames} frames; save each frame as an image of its own")


def _words(arguments: Any) -> list[str]:
    """The words among the arguments of a tile's decoder."""
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return [part for part in parts if isinstance(part, str)]


def _opaque(image: Any, mode: str, notes: Counter[str]) -> Any:
    """An image without its alpha channel, drawn on white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert(mode)
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):
        return layered.convert(mode) if mode == "RGB" else layered.convert("RGB").getchannel(0)
    notes["images with transparent pixels, which are drawn on white"] += 1
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    white.alpha_composite(layered)
    return white.convert("RGB") if mode == "RGB" else white.getchannel(0)
