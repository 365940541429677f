"""What R2 refuses and nanio 0.1.7 takes: features that R2 lacks.

Without them nanio takes `PUT key?tagging` for the object itself and `DELETE bucket?policy` for the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping

from nanio.errors import NotImplemented_  # type: ignore[import-untyped]  # nanio ships no type information

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
    if b"x-amz-copy-source" in headers and "uploadId" in query:
        # R2 has it; nanio would store an empty part.
        raise NotImplemented_("UploadPartCopy is not implemented in the local cloud")
