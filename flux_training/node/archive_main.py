"""The archive's `__main__.py`: starts the launcher, either as `python launch.pyz` or from the bootstrap.

The bootstrap has checked the archive's bytes and leaves them as `archive`: modules are then imported from these bytes,
never from a file, which somebody could have changed meanwhile.
"""

import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from zipfile import ZipFile


class ArchiveImporter(MetaPathFinder, InspectLoader):
    """Imports modules from a zip archive in memory."""

    def __init__(self, archive: ZipFile) -> None:
        self._archive, self._names = archive, set(archive.namelist())

    def _file(self, module: str) -> str:
        stem = module.replace(".", "/")
        return next((name for name in (f"{stem}/__init__.py", f"{stem}.py") if name in self._names), "")

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if self._file(fullname) else None

    def is_package(self, fullname: str) -> bool:
        return self._file(fullname).endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        return self._archive.read(self._file(fullname)).decode("utf-8")


if "archive" in globals():
    sys.meta_path.insert(0, ArchiveImporter(globals()["archive"]))

from flux_training.node.launcher.main import main  # noqa: E402 - needs the importer above

main()
