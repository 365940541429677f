"""The weights of a run that were verified first. Other ones later are not believed: nodes can write every run's folder."""

from __future__ import annotations

from typing import Any

from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.untrusted import Bytes, ETag, Sha256, Steps, UntrustedRecord


class PinnedWeights(UntrustedRecord):
    """results.json below `.flux/`, and `weights` in the stack's output `jobs`. `size` in bytes.

    `replaces`: the SHA-256 of earlier weights in whose place the user has accepted these.
    """

    sha256: Sha256
    size: Bytes
    step: Steps
    etag: ETag = ""
    replaces: Sha256 | None = None

    def to_json(self) -> bytes:
        return canonical_json({"version": 1, **self.model_dump()})

    @property
    def in_state(self) -> dict[str, Any]:
        """What a stack's state stores of it."""
        return self.model_dump(include={"sha256", "size", "step"})

    def contradicts(self, stored: PinnedWeights, nodes_reach_records: bool) -> bool:
        """Whether the record was changed since the stack's state stored it, and the user has not accepted that.

        Where nodes can write the record, that it `replaces` others proves nothing.
        """
        return stored.sha256 not in (self.sha256, None if nodes_reach_records else self.replaces)

    def difference(self, size: int | None, etag: str) -> str:
        """What is wrong with the object that is there now; empty if nothing. `size` is None if there is none."""
        if size is None:
            return f"the weights that were verified first ({self}) are no longer in the bucket"
        if size != self.size or (self.etag and etag != self.etag):
            return f"the weights in the bucket are not those that were verified first ({self}): somebody replaced them"
        return ""

    def __str__(self) -> str:
        return f"step {self.step}, {self.size} bytes, SHA-256 {self.sha256[:12]}…"
