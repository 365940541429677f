"""What R2 refuses and nanio 0.1.7 takes: features that R2 lacks, parts of a multipart upload that do not fit,
and more than one write a second of one key.

Without them nanio takes `PUT key?tagging` for the object itself and `DELETE bucket?policy` for the bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from nanio.errors import (  # type: ignore[import-untyped]  # nanio ships no type information
    EntityTooSmall,
    InvalidPart,
    NotImplemented_,
    S3Error,
)

LEAST_PART_BYTES = 5 * 1024 * 1024
# S3's names for what hangs on a bucket or an object, beside the object's bytes. R2 has none of them but `cors` and
# `encryption`, which this stand-in lacks.
SUBRESOURCES = frozenset(
    {
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "cors",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "tagging",
        "torrent",
        "versioning",
        "versions",
        "website",
    }
)
HEADERS = ("x-amz-tagging", "x-amz-grant-", "x-amz-object-lock-", "x-amz-bucket-object-lock-")


def check_features(method: str, query: Mapping[str, str], headers: Mapping[bytes, bytes]) -> None:
    """Raises NotImplemented_ (501) for ACLs, tags, locks, policies and their like, asked for or sent along."""
    lacking = sorted(SUBRESOURCES & query.keys())
    if lacking:
        raise NotImplemented_(f"{method} ?{lacking[0]} is not implemented")
    for raw_name, raw_value in headers.items():
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        # The ACL that says nothing, which many programs send by default, is let through.
        if name.startswith(HEADERS) or (name == "x-amz-acl" and value != "private"):
            raise NotImplemented_(f"Header '{name}' with value '{value}' not implemented")
    if method == "PUT" and b"x-amz-sdk-checksum-algorithm" in headers:
        # What an SDK computes unasked, over HTTPS in a body in chunks: a program that is not told better fails at R2.
        raise NotImplemented_(
            "a checksum that the SDK adds is not implemented; set request_checksum_calculation=when_required"
        )
    if b"x-amz-copy-source" in headers and "uploadId" in query:
        # R2 has it; nanio would store an empty part.
        raise NotImplemented_("UploadPartCopy is not implemented in the local cloud")


def check_parts(sizes: Sequence[int]) -> None:
    """Raises for what R2 refuses at CompleteMultipartUpload: all parts but the last have one size, of 5 MiB at least.

    The last one is no bigger than they.
    """
    if len(sizes) < 2:
        return
    whole = sizes[0]
    for number, size in enumerate(sizes[:-1], 1):
        if size != whole:
            raise InvalidPart(
                "All non-trailing parts must have the same length. "
                f"Non Uniform Part Sizes: Expected part {number} to have size {whole}, found {size}"
            )
    if whole < LEAST_PART_BYTES:
        raise EntityTooSmall()
    if sizes[-1] > whole:
        raise InvalidPart(
            "All non-trailing parts must have the same length. "
            f"Non Uniform Part Sizes: Expected part {len(sizes)} to have size {whole}, found {sizes[-1]}"
        )


class TooManyRequestsError(S3Error):  # type: ignore[misc]  # nanio is untyped
    """A key that was written a moment ago."""

    code = "TooManyRequests"
    message = "Reduce your concurrent request rate for the same object."
    http_status = 429


class WriteRate:
    """R2's limit: one write a second and key (UPSTREAM.md), refused beyond it with 429.

    What counts is guessed where Cloudflare says no more than "writes": PUT, a copy's target and CompleteMultipartUpload do,
    from the moment they are let through; a deletion, an upload's parts and a write that is refused, by its condition too,
    do not. There is no Retry-After.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._written: dict[tuple[str, str], float] = {}  # in the order of the times

    def take(self, bucket: str, key: str) -> None:
        """Note a write that begins now. Raises TooManyRequestsError."""
        moment = self._clock()
        while self._written and next(iter(self._written.values())) <= moment - self._seconds:
            del self._written[next(iter(self._written))]
        if (bucket, key) in self._written:
            raise TooManyRequestsError(resource=f"{bucket}/{key}")
        if self._seconds:
            self._written[bucket, key] = moment
