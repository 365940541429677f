"""Requests that R2 refuses and nanio 0.1.7 accepts.

Without these checks, nanio treats `PUT key?tagging` as the object itself and `DELETE bucket?policy` as the bucket.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from nanio.errors import EntityTooSmall, InvalidPart, NotImplemented_, S3Error
from starlette.responses import Response

MIN_PART_BYTES = 5 * 1024 * 1024
# Query parameters that select a subresource of an S3 bucket or object. R2 supports only `cors` and
# `encryption`; the local cloud supports none.
_NAMES = (
    "accelerate acl analytics attributes cors encryption intelligent-tiering inventory legal-hold logging metrics "
    "notification object-lock ownershipControls policy policyStatus publicAccessBlock replication requestPayment "
    "restore retention select tagging torrent versioning versions website"
)
SUBRESOURCES = frozenset(_NAMES.split())
HEADERS = ("x-amz-tagging", "x-amz-grant-", "x-amz-object-lock-", "x-amz-bucket-object-lock-")


class TooManyRequestsError(S3Error):  # type: ignore[misc]  # nanio is untyped
    code = "TooManyRequests"
    message = "Reduce your concurrent request rate for the same object."
    http_status = 429


def refusal_response(error: S3Error) -> Response:
    """The answer for an S3 error."""
    return Response(error.to_xml(), error.http_status, media_type="application/xml")


def check_features(method: str, query: Mapping[str, str], headers: Mapping[bytes, bytes]) -> None:
    """Raises NotImplemented_ (501) for features that R2 lacks: ACLs, tags, locks, policies and others."""
    lacking = sorted(SUBRESOURCES & query.keys())
    if lacking:
        raise NotImplemented_(f"{method} ?{lacking[0]} is not implemented")
    for raw_name, raw_value in headers.items():
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        # Many programs send the default ACL, `private`, so it is accepted.
        if name.startswith(HEADERS) or (name == "x-amz-acl" and value != "private"):
            raise NotImplemented_(f"Header '{name}' with value '{value}' not implemented")
    if method == "PUT" and b"x-amz-sdk-checksum-algorithm" in headers:
        # Current AWS SDKs send this checksum by default, over HTTPS in a chunked body, which R2 refuses.
        raise NotImplemented_(
            "checksums added by the SDK are not implemented; set request_checksum_calculation=when_required"
        )
    if b"x-amz-copy-source" in headers and "uploadId" in query:
        # R2 supports UploadPartCopy, but nanio would store an empty part.
        raise NotImplemented_("UploadPartCopy is not implemented in the local cloud")


def check_parts(sizes: Sequence[int]) -> None:
    """Raises an S3 error unless all parts but the last have the same size of at least 5 MiB, and the last is not larger."""
    if len(sizes) < 2:
        return
    whole = sizes[0]
    for number, size in enumerate(sizes[:-1], 1):
        if size != whole:
            raise _unequal_part(number, whole, size)
    if whole < MIN_PART_BYTES:
        raise EntityTooSmall()
    if sizes[-1] > whole:
        raise _unequal_part(len(sizes), whole, sizes[-1])


def _unequal_part(number: int, expected: int, size: int) -> S3Error:
    return InvalidPart(
        "All non-trailing parts must have the same length. "
        f"Non Uniform Part Sizes: Expected part {number} to have size {expected}, found {size}"
    )


class WriteRate:
    """R2's limit of one write of a key in a second; further writes are refused with 429.

    PUT, the target of a copy and CompleteMultipartUpload count, from the moment when they are accepted. Deletions, uploaded parts
    and refused writes do not. This is a guess: Cloudflare only says "writes".
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._written: dict[tuple[str, str], float] = {}  # ordered by time

    def count_write(self, bucket: str, key: str) -> None:
        """Count a write that begins now. Raises TooManyRequestsError."""
        moment = self._clock()
        while self._written and next(iter(self._written.values())) <= moment - self._seconds:
            del self._written[next(iter(self._written))]
        if (bucket, key) in self._written:
            raise TooManyRequestsError(resource=f"{bucket}/{key}")
        if self._seconds:
            self._written[bucket, key] = moment
