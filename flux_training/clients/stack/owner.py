"""`.flux/owner.json`: which stack a bucket or prefix belongs to, and which version its layout has."""

from __future__ import annotations

from dataclasses import dataclass

from flux_training.clients.results import read_json
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout

# Raise it when older versions of this tool could no longer work in the bucket. 2: claims and posted jobs are below .flux/.
LAYOUT_VERSION = 2
FIRST_LAYOUT = 1


@dataclass(frozen=True)
class OwnerMark:
    """`owner` is `<project>/<stack>`. `made`: the stack created the bucket, and deletes it once it is empty."""

    owner: str
    made: bool
    layout: int = LAYOUT_VERSION

    @property
    def is_current(self) -> bool:
        return self.layout == LAYOUT_VERSION

    def to_json(self) -> bytes:
        return canonical_json({"version": 1, "layout": self.layout, "owner": self.owner, "made": self.made})


def read_mark(storage: Storage, layout: Layout) -> OwnerMark | None:
    """The mark; None if there is none. Raises FluxError if a newer version of this tool uses the bucket."""
    found = read_json(storage, layout.owner)
    if found is None:
        return None
    version = found.get("layout", FIRST_LAYOUT)
    if version not in range(FIRST_LAYOUT, LAYOUT_VERSION + 1):
        raise FluxError(
            f"bucket {storage.bucket}/{layout.prefix} has layout {version}",
            f"this version of flux-training knows layout {LAYOUT_VERSION}",
            "update flux-training: `git pull && make ready`",
        )
    return OwnerMark(str(found.get("owner")), bool(found.get("made")), version)
