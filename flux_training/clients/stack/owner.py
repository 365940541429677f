"""`.flux/owner.json`: which stack a bucket or prefix belongs to, and which version its layout has."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flux_training.clients.records import read_record
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout
from flux_training.training.untrusted import UntrustedRecord

# The version of the bucket's layout. Increase it when older versions of this tool can no longer work with the bucket. Version
# 2: claims and posted jobs are below .flux/.
LAYOUT_VERSION = 2
FIRST_LAYOUT = 1
MAX_LAYOUT = 1000


class OwnerMark(UntrustedRecord):
    """`owner` is `<project>/<stack>`. `made`: the stack created the bucket, and deletes it once it is empty."""

    owner: Annotated[str, Field(min_length=1, max_length=500)]
    made: bool = False
    layout: Annotated[int, Field(ge=FIRST_LAYOUT, le=MAX_LAYOUT)] = FIRST_LAYOUT

    @property
    def is_current(self) -> bool:
        return self.layout == LAYOUT_VERSION

    def to_json(self) -> bytes:
        return canonical_json({"version": 1, "layout": self.layout, "owner": self.owner, "made": self.made})


def read_mark(storage: Storage, layout: Layout) -> OwnerMark | None:
    """The mark; None if there is none, or if a field is invalid. Raises FluxError if a newer version of this tool uses the bucket."""
    found = read_record(storage, layout.owner, OwnerMark)
    if found.value is None or found.faults:
        return None
    if found.value.layout > LAYOUT_VERSION:
        raise FluxError(
            f"bucket {storage.bucket}/{layout.prefix} has layout {found.value.layout}",
            f"this version of flux-training knows layout {LAYOUT_VERSION}",
            "update flux-training: `git pull && make ready`",
        )
    return found.value


def new_mark(owner: str, made: bool) -> OwnerMark:
    """The mark of a bucket with the current layout."""
    return OwnerMark(owner=owner, made=made, layout=LAYOUT_VERSION)
