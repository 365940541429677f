"""What can go wrong with a service, and the one place where HTTP failures become errors.

    ServiceError (FluxError)
    ├── Unauthorized      401, 403: the key, or what it may do
    ├── NotFound          404
    ├── Conflict          409, 412, or the service says that it exists already
    ├── Invalid           any other 4xx: the request itself, in the service's own words
    ├── RateLimited       429, after the retries
    ├── Unavailable       no connection, no answer, 5xx, Kelpie's transient 403: after the retries
    └── UncertainOutcome  a request that must not be repeated was sent, and no one knows what became of it

No text of these carries a secret: no header, no query, and known secrets are cut out of what a service says.
"""

# ruff: noqa: N818  (named for what happened, as httpx names its own: NotFound, not NotFoundError)
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import SecretStr

from flux_training.training.errors import FluxError

LONGEST_WORDS = 400
SHORTEST_SECRET = 4
EXISTS = re.compile(r"already (exists|in use|taken)|UNIQUE constraint|name[_ ]conflict", re.IGNORECASE)


class ServiceError(FluxError):
    """A service refused, failed, or answered nonsense.

    `status` is the HTTP status, if there was one; `code` what S3 calls the error; `repeated` whether the
    request that failed was not the first of its kind.
    """

    status: int | None = None
    code: str = ""
    repeated: bool = False


class Unauthorized(ServiceError):
    """The service does not know the key, or the key may not do this."""


class NotFound(ServiceError):
    """What was asked for is not there."""


class Conflict(ServiceError):
    """It exists already, or has changed since it was read."""


class Invalid(ServiceError):
    """The service understood the request and will not have it."""


class RateLimited(ServiceError):
    """Too many requests, still after waiting."""


class Unavailable(ServiceError):
    """The service cannot be reached or is failing, still after trying again."""


class UncertainOutcome(ServiceError):
    """The request was sent and may have taken effect: look before sending it again."""


@dataclass(frozen=True)
class Service:
    """What an error says about the service it came from."""

    name: str
    url: str
    if_refused: str
    if_down: str
    secrets: tuple[SecretStr, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """host[:port] of the service's address, without a user or a path."""
        url = httpx.URL(self.url)
        return f"{url.host}:{url.port}" if url.port else url.host

    def clean(self, text: str) -> str:
        """`text` on one line, without any of the service's secrets, cut to a readable length."""
        values = (secret.get_secret_value() for secret in self.secrets)
        # The longest first: one may be a part of another.
        for value in sorted(values, key=len, reverse=True):
            if len(value) >= SHORTEST_SECRET:
                text = text.replace(value, "***")
        text = " ".join(text.split())
        return text if len(text) <= LONGEST_WORDS else text[:LONGEST_WORDS] + "…"


def to_error(
    service: Service,
    request: httpx.Request,
    outcome: httpx.Response | httpx.HTTPError,
    *,
    repeatable: bool,
    transient: bool = False,
) -> ServiceError:
    """The error for a request that did not go well.

    `outcome` is the service's answer (not 2xx) or what httpx raised instead of one. `repeatable`: sending
    it twice is the same as once. `transient`: the answer is a passing fault whatever its status says.
    """
    what = f"{request.method} {request.url.path} at {service.name} ({service.host})"
    if isinstance(outcome, httpx.Response):
        return _error_for_answer(service, what, outcome, repeatable=repeatable, transient=transient)
    reason = service.clean(str(outcome)) or type(outcome).__name__
    if repeatable or surely_not_sent(outcome):
        return Unavailable(
            f"{service.name} cannot be reached at {service.host}: {reason}", "", service.if_down
        )
    return UncertainOutcome(
        f"{what} was sent and no answer came: {reason}",
        "it may have taken effect",
        "look before sending it again",
    )


def surely_not_sent(failure: Exception) -> bool:
    """Whether a request failed before a single byte of it left."""
    return isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _error_for_answer(
    service: Service, what: str, answer: httpx.Response, *, repeatable: bool, transient: bool
) -> ServiceError:
    words = service.clean(words_of(answer))
    error = error_for_status(service, answer.status_code, what, words, transient=transient)
    if isinstance(error, Unavailable) and not repeatable and not transient:
        error = UncertainOutcome(error.what, "it may have taken effect", "look before sending it again")
    error.status = answer.status_code
    return error


def error_for_status(
    service: Service, status: int, what: str, words: str, *, transient: bool = False
) -> ServiceError:
    """The error for an HTTP status; `what` is the request, `words` what the service said (cleaned)."""
    said = f"{what} was answered {status}" + (f": {words}" if words else "")
    if transient:
        return Unavailable(said, "passing faults look like this, and so do wrong keys", service.if_refused)
    if status in (409, 412) or (status >= 400 and EXISTS.search(words)):
        return Conflict(said)
    if status in (401, 403):
        return Unauthorized(said, "", service.if_refused)
    if status == 404:
        return NotFound(said)
    if status == 429:
        return RateLimited(said, "", "wait a minute and run it again")
    if status >= 500:
        return Unavailable(said, "", service.if_down)
    if status >= 400:
        return Invalid(said)
    return ServiceError(said, "", f"check the address of {service.name}")


def words_of(answer: httpx.Response) -> str:
    """What the service says was wrong, in its own words.

    Knows Kelpie's two shapes (as text/plain), SaladCloud's ProblemDetails, and an HTML page's title.
    """
    text = answer.text
    try:
        body = json.loads(text)
    except ValueError:
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        if title:
            return f"a web page titled “{title.group(1).strip()}”"
        return "a web page" if "<html" in text[:500].lower() else text
    return _words_of_json(body) if isinstance(body, Mapping) else text


def _words_of_json(body: Mapping[str, Any]) -> str:
    head = ": ".join(str(body[key]) for key in ("error", "title", "message", "detail") if body.get(key))
    return "; ".join(part for part in (head, *_each_error(body.get("errors"))) if part)


def _each_error(errors: object) -> list[str]:
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
