"""Folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backdrift.data.samples import Samples

SHALLOW = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa"}
"""Pillow's modes of 8 bits or less for each channel. It would cut the values of others off at 255."""


def read_images(folder: Path, files: list[Path]) -> Samples:
    """Images of one size as bytes `[n, channels, height, width]`: grey if all of them are grey, otherwise RGB.

    If the images are in subfolders of `folder`, the name of the first subfolder is the class.

    Raises:
        ValueError: naming the file, if one cannot be read, has another size, or more than 8 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError  # only folders of images need it

    pictures: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode not in SHALLOW:
                    raise ValueError(
                        f"path={folder}: {file.name} is of more than 8 bits a channel (mode {image.mode}); "
                        "convert the images to 8 bits, or give an array"
                    )
                grey = image.mode in ("1", "L", "LA")
                picture = np.asarray(image.convert("L" if grey else "RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"path={folder}: {file.name} cannot be read as an image ({error})") from error
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            (height, width), (other, wide) = pictures[0].shape[:2], picture.shape[:2]
            raise ValueError(
                f"path={folder}: the images are of mixed sizes: {files[0].name} is {width}x{height}, "
                f"{file.name} is {wide}x{other}; resize them first"
            )
        pictures.append(picture)
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1) for picture in pictures]
    parents = np.array([file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files])
    labels = parents if all(parents) and len(set(parents)) > 1 else None
    return Samples.of(np.stack(pictures), folder, labels)
