"""The weights of a run that were verified first. Other ones later are not believed: nodes can write every run's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator

from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.untrusted import Bytes, ETag, Sha256, Steps, UntrustedRecord


class StageDigests(UntrustedRecord):
    """The SHA-256 of each file of a LoRA for two noise stages."""

    high_noise: Sha256
    low_noise: Sha256

    @property
    def in_order(self) -> tuple[str, ...]:
        return (self.high_noise, self.low_noise)

    @property
    def sha256(self) -> str:
        """One digest for both files. The launcher computes the same (digest_of_stages in flux_training/node/launcher/weights.py)."""
        return hashlib.sha256("".join(f"{digest}\n" for digest in self.in_order).encode()).hexdigest()


class PinnedWeights(UntrustedRecord):
    """results.json below `.flux/`, and `weights` in the stack's output `jobs`. `size` in bytes.

    `stages`: of a LoRA of two files, whose sizes are added and whose ETags are joined. `replaces`: the SHA-256 of earlier weights
    in whose place the user has accepted these.
    """

    sha256: Sha256
    size: Bytes
    step: Steps
    etag: ETag = ""
    replaces: Sha256 | None = None
    stages: StageDigests | None = None

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.stages and self.stages.sha256 != self.sha256:
            raise ValueError("`sha256` does not match the digests of the two noise stages")
        return self

    @staticmethod
    def of(digests: Sequence[str], size: int, step: int, etag: str) -> PinnedWeights:
        """`digests`: of the one file, or of each noise stage."""
        stages = StageDigests(high_noise=digests[0], low_noise=digests[1]) if len(digests) > 1 else None
        sha256 = stages.sha256 if stages else digests[0]
        return PinnedWeights(sha256=sha256, size=size, step=step, etag=etag, stages=stages)

    @property
    def digests(self) -> tuple[str, ...]:
        """Of each file."""
        return self.stages.in_order if self.stages else (self.sha256,)

    def to_json(self) -> bytes:
        left_out = set() if self.stages else {"stages"}
        return canonical_json({"version": 1, **self.model_dump(exclude=left_out)})

    @property
    def state_record(self) -> dict[str, Any]:
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
