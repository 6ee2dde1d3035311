"""Where Hydra looks for configs: a folder of the user's own first, then the folder that comes with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin


def config_folder() -> Path:
    """Where our configs are: inside the package when it is installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


class OwnConfigs(SearchPathPlugin):
    """Puts the folder of `--config-dir` before ours, so that the user's file is taken where both have one.

    Hydra's own `--config-dir` puts it after. Hydra makes its plugins without arguments, so the folder belongs to
    the class.
    """

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.prepend("command-line", f"file://{self.folder}")


@contextmanager
def own_configs(config_dir: str | None) -> Iterator[None]:
    """Within this context every search of Hydra's begins in `config_dir`.

    Raises:
        ValueError: if there is no such folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ValueError(f"--config-dir {config_dir}: there is no such folder")
    if OwnConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(OwnConfigs)
    before = OwnConfigs.folder
    OwnConfigs.folder = None if config_dir is None else Path(config_dir).absolute()
    try:
        yield
    finally:
        OwnConfigs.folder = before
