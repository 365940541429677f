"""The errors of services, and the only place where HTTP failures become errors.

    ServiceError (FluxError)
    ├── Unauthorized      401, 403: the key, or what it may do
    ├── NotFound          404
    ├── Conflict          409, 412, or the service says that it exists already
    ├── WrongContent      a download whose SHA-256 is not the expected one
    ├── Invalid           any other 4xx: the request itself, in the service's own words
    ├── RateLimited       429, after the retries
    ├── Unavailable       no connection, no answer, 5xx, Kelpie's transient 403: after the retries
    └── UncertainOutcome  a request that must not be repeated was sent, and its outcome is unknown

Their texts hold no secrets: no headers, no queries, and known secrets are removed from what a service says.
"""

# ruff: noqa: N818 - these exceptions are named for what happened, as in httpx
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx
from pydantic import SecretStr

from flux_training.training.errors import FluxError

MAX_TEXT_LENGTH = 400
MIN_SECRET_LENGTH = 4
EXISTS = re.compile(r"already (exists|in use|taken)|UNIQUE constraint|name[_ ]conflict", re.IGNORECASE)


class TemporaryRefusal(StrEnum):
    """Why an answer that looks like a refusal may pass: shown if it stays."""

    OUTAGE = "the service could not check the key, which may be valid"
    UNCLEAR = "both temporary failures and wrong keys cause this answer"


class ServiceError(FluxError):
    """A service refused, failed, or sent an invalid answer.

    `status`: the HTTP status, if any; `code`: S3's code; `repeated`: whether the failed request was a repetition.
    """

    status: int | None = None
    code: str = ""
    repeated: bool = False


class Unauthorized(ServiceError):
    """The key is unknown or lacks the permission."""


class NotFound(ServiceError):
    """The requested thing does not exist."""


class WrongContent(ServiceError):
    """A download does not have the SHA-256 that was expected."""


class Conflict(ServiceError):
    """It already exists, or has changed since it was read."""


class Invalid(ServiceError):
    """The service refused the request itself."""


class RateLimited(ServiceError):
    """Too many requests, also after waiting."""


class Unavailable(ServiceError):
    """The service cannot be reached or fails, also after retries."""


class UncertainOutcome(ServiceError):
    """The request was sent and may have taken effect. Check before sending it again."""


@dataclass(frozen=True)
class Service:
    """A service, as error messages describe it."""

    name: str
    url: str
    if_refused: str
    if_down: str
    secrets: tuple[SecretStr, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """host[:port] of the service's address."""
        url = httpx.URL(self.url)
        return f"{url.host}:{url.port}" if url.port else url.host

    def clean(self, text: str) -> str:
        """`text` on one line, without the service's secrets, shortened."""
        values = (secret.get_secret_value() for secret in self.secrets)
        # Remove the longest secrets first, since one secret may contain another.
        for value in sorted(values, key=len, reverse=True):
            if len(value) >= MIN_SECRET_LENGTH:
                text = text.replace(value, "***")
        text = " ".join(text.split())
        return text if len(text) <= MAX_TEXT_LENGTH else text[:MAX_TEXT_LENGTH] + "…"


def to_error(
    service: Service,
    request: httpx.Request,
    outcome: httpx.Response | httpx.HTTPError,
    *,
    repeatable: bool,
    transient: TemporaryRefusal | None = None,
) -> ServiceError:
    """The error for a failed request.

    `outcome`: an answer that is not 2xx, or httpx's exception. `repeatable`: the request may be sent twice. `transient`: the
    answer may be a temporary failure, whatever its status.
    """
    what = f"{request.method} {request.url.path} at {service.name} ({service.host})"
    if isinstance(outcome, httpx.Response):
        return _error_for_answer(service, what, outcome, repeatable=repeatable, transient=transient)
    reason = service.clean(str(outcome)) or type(outcome).__name__
    if repeatable or was_never_sent(outcome):
        return Unavailable(
            f"{service.name} cannot be reached at {service.host}: {reason}", "", service.if_down
        )
    return UncertainOutcome(
        f"{what} was sent and no answer came: {reason}",
        "it may have taken effect",
        "check whether it did before sending it again",
    )


def was_never_sent(failure: Exception) -> bool:
    """Whether a request failed before any byte was sent."""
    return isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _error_for_answer(
    service: Service,
    what: str,
    answer: httpx.Response,
    *,
    repeatable: bool,
    transient: TemporaryRefusal | None,
) -> ServiceError:
    words = service.clean(error_message_in(answer))
    error = error_for_status(service, answer.status_code, what, words, transient=transient)
    if isinstance(error, Unavailable) and not repeatable and not transient:
        error = UncertainOutcome(
            error.what, "it may have taken effect", "check whether it did before sending it again"
        )
    error.status = answer.status_code
    return error


def error_for_status(
    service: Service, status: int, what: str, words: str, *, transient: TemporaryRefusal | None = None
) -> ServiceError:
    """The error for an HTTP status. `what`: the request; `words`: the service's cleaned message."""
    said = f"{what} was answered {status}" + (f": {words}" if words else "")
    if transient:
        is_outage = transient is TemporaryRefusal.OUTAGE
        return Unavailable(said, transient, service.if_down if is_outage else service.if_refused)
    if status in (409, 412) or (status >= 400 and EXISTS.search(words)):
        return Conflict(said)
    if status in (401, 403):
        return Unauthorized(said, "", service.if_refused)
    if status == 404:
        return NotFound(said)
    if status == 429:
        return RateLimited(said, "", "wait a minute and run the same command again")
    if status >= 500:
        return Unavailable(said, "", service.if_down)
    if status >= 400:
        return Invalid(said)
    return ServiceError(said, "", f"check the address of {service.name}")


def error_message_in(answer: httpx.Response) -> str:
    """The message of an answer: Kelpie's two shapes (as text/plain), SaladCloud's ProblemDetails, or the title of an HTML page."""
    text = answer.text
    try:
        body = json.loads(text)
    except ValueError:
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        if title:
            return f"a web page titled “{title.group(1).strip()}”"
        return "a web page" if "<html" in text[:500].lower() else text
    return _json_error_message(body) if isinstance(body, Mapping) else text


def _json_error_message(body: Mapping[str, Any]) -> str:
    head = ": ".join(str(body[key]) for key in ("error", "title", "message", "detail") if body.get(key))
    return "; ".join(part for part in (head, *_list_error_messages(body.get("errors"))) if part)


def _list_error_messages(errors: object) -> list[str]:
    """Kelpie's list of {path, message}, or ASP.NET's {field: [message, …]}."""
    if isinstance(errors, Mapping):
        return [
            f"{name}: {', '.join(map(str, said if isinstance(said, list) else [said]))}"
            for name, said in errors.items()
        ]
    if not isinstance(errors, list):
        return []
    found = []
    for error in errors:
        if isinstance(error, Mapping):
            place = ".".join(map(str, error.get("path") or []))
            found.append(
                f"{place}: {error.get('message', '')}" if place else str(error.get("message", error))
            )
        else:
            found.append(str(error))
    return found
