"""What botocore reads of its own data to talk to S3, without what nobody asks it for.

It comes with the documentation of every operation and the addresses of 400 services: 15 MB of each process that lists one bucket,
of which 7 are needed. And it would look for more in the user's ~/.aws/models.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader, Loader  # type: ignore[import-untyped]  # ships no types


class S3Data(Loader):  # type: ignore[misc]  # its base has no types
    """botocore's loader, knowing one service."""

    def __init__(self) -> None:
        super().__init__(
            [self.BUILTIN_DATA_PATH], file_loader=_WithoutDocuments(), include_default_search_paths=False
        )

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 - botocore names it
        """The services that can be loaded; botocore would look into 400 folders for it."""
        return ["s3"]


class _WithoutDocuments(JSONFileLoader):  # type: ignore[misc]  # as above
    def load_file(self, file_path: str) -> Any:
        """The content of FILE_PATH.json or FILE_PATH.json.gz; None where there is neither."""
        plain, packed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            content = plain.read_bytes()
        elif packed.is_file():
            content = gzip.decompress(packed.read_bytes())
        else:
            return None
        found = json.loads(content, object_pairs_hook=_undocumented)
        if plain.name == "endpoints.json":
            for partition in found["partitions"]:
                partition["services"] = {
                    name: service for name, service in partition["services"].items() if name == "s3"
                }
        return found


def _undocumented(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a file. botocore expects some of the texts to be there, and a shape's member may have that name."""
    return {key: "" if key == "documentation" and isinstance(value, str) else value for key, value in pairs}
