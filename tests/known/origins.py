"""What the files that we write say of where they come from, read as other programs read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from result_tables import said_of


def origin_of(file: Path) -> dict[str, Any]:
    """The provenance in a file of any kind that commands write."""
    if file.suffix in (".csv", ".yaml"):
        return said_of(file)
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return dict(json.loads(str(archive["provenance"])))
    if file.suffix == ".png":
        with Image.open(file) as picture:
            return {str(name): value for name, value in picture.info.items()}
    if file.suffix == ".json":
        return dict(json.loads(file.read_text(encoding="utf-8"))["provenance"])
    assert file.suffix == ".md", file
    lines = file.read_text(encoding="utf-8").split("## This report\n\n")[1].split("\n\n")[0].splitlines()
    return {name: value.strip("`") for name, _, value in (line[2:].partition(": ") for line in lines)}
