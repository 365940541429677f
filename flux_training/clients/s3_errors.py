"""Turns failures of S3, as boto3 and obstore report them, into ServiceErrors."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flux_training.clients.errors import (
    Conflict,
    NotFound,
    Service,
    ServiceError,
    Unauthorized,
    Unavailable,
    error_for_status,
)
from flux_training.training.words import one_line

# S3's error codes for a wrong key, besides status 401 and 403. A signature is valid for 15 minutes.
WRONG_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired", "AccessDeniedTimeSkew"})
SET_CLOCK = "set the clock, such as with `sudo timedatectl set-ntp true`, and run the same command again"
WRONG_KEY = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
# S3's error codes for an object that its writer made unreadable: with an archive as storage class, or with an encryption key of
# the writer's own.
UNREADABLE = frozenset({"InvalidObjectState", "InvalidRequest", "ObjectNotInActiveTierError"})
ALREADY_THERE = frozenset({"BucketAlreadyExists", "BucketNotEmpty", "BucketAlreadyOwnedByYou"})

# obstore 0.12.1 has no attributes for status and body. Both are in the exception's text, before "Debug source".
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_KIND = re.compile(r"\bkind: ([A-Z]\w+),")


def refused(
    service: Service, bucket: str, operation: str, key: str, answer: Mapping[str, Any]
) -> ServiceError:
    """The error for an answer in boto3's form: `Error` {Code, Message}, `ResponseMetadata` {HTTPStatusCode, RetryAttempts}."""
    error, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    # The answer to HEAD has no body, so boto3 gives the status as the error code.
    said = "" if code.isdigit() or not code else f"{code}: {error.get('Message', '')}"
    words = service.clean(said)
    what = f"{operation} {'/'.join(p for p in (bucket, one_line(key)) if p)} at {service.host}"
    if code in WRONG_CLOCK:
        typed: ServiceError = Unauthorized(
            f"{what} was answered {status}: {words}", f"this machine's clock says {_clock()}", SET_CLOCK
        )
    elif code in WRONG_KEY:
        typed = Unauthorized(f"{what} was answered {status}: {words}", "", service.if_refused)
    elif code == "NoSuchBucket":
        typed = NotFound(
            f"there is no bucket {bucket} at {service.host}",
            "",
            "check its name and the endpoint's address; the next update of the stack creates it",
        )
    elif code in ALREADY_THERE:
        typed = Conflict(f"{what} was answered {status}: {words}")
    else:
        typed = error_for_status(service, status, what, words)
    typed.status = status
    typed.code = code
    typed.repeated = meta.get("RetryAttempts", 0) > 0
    return typed


def _clock() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def no_answer_error(service: Service, bucket: str, kind: str, reason: str) -> Unavailable:
    """The error for a request without a complete answer."""
    error = Unavailable(
        f"bucket {bucket}: no answer from {service.host} ({kind}: {service.clean(reason)})",
        "",
        service.if_down,
    )
    error.code = kind
    return error


def error_from_obstore(
    service: Service, bucket: str, operation: str, key: str, failure: Exception
) -> ServiceError:
    """The error for an exception of obstore: status, S3's code and S3's message.

    The rest of its text is dropped: for a wrong key, S3 quotes the access key and the signature.
    """
    text = str(failure).partition("\n\nDebug source:")[0]
    status = _STATUS.search(text)
    if status is None:
        kind = _KIND.search(str(failure))
        return no_answer_error(
            service, bucket, kind.group(1) if kind else type(failure).__name__, _last_reason(text)
        )
    code, message = _CODE.search(text), _MESSAGE.search(text)
    error = {"Code": code.group(1) if code else "", "Message": message.group(1) if message else ""}
    answer = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": int(status.group(1))}}
    return refused(service, bucket, operation, key, answer)


def _last_reason(text: str) -> str:
    """The last part of `Generic S3 error: Error performing PUT http://… in 5ms - HTTP error: error sending request`."""
    return text.rpartition(" - ")[2].splitlines()[0] if text else "no reason given"
