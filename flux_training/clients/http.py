"""httpx with what every service needs: time-outs, bounded retries, a rate limit, typed errors."""

from __future__ import annotations

import email.utils
import functools
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from flux_training.clients.errors import (
    Conflict,
    Service,
    ServiceError,
    UncertainOutcome,
    surely_not_sent,
    to_error,
)

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
TIMEOUTS = httpx.Timeout(connect=10, read=60, write=60, pool=60)
# Shorter than the keep-alive of any server we talk to (uvicorn: 5 s): a POST on a connection that the
# server is just closing has an outcome nobody knows.
LIMITS = httpx.Limits(max_connections=32, keepalive_expiry=2)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Answer(BaseModel):
    """Base of what services answer: fields we do not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


A = TypeVar("A", bound=BaseModel)


@dataclass(frozen=True)
class Patience:
    """How long to go on trying: waits grow from `first` to `longest` seconds; `total` bounds all of it."""

    attempts: int = 5
    first: float = 0.5
    longest: float = 20
    total: float = 90
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


class RateLimiter:
    """At most `count` requests in any `seconds`, across threads; a request too many waits for its turn."""

    def __init__(
        self,
        count: int,
        seconds: float = 60,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._count, self._seconds, self._clock, self._sleep = count, seconds, clock, sleep
        self._lock = threading.Lock()
        self._turns: deque[float] = deque(maxlen=count)

    def wait(self) -> None:
        """Return when the next request may go."""
        with self._lock:
            now = self._clock()
            full = len(self._turns) == self._count
            turn = max(now, self._turns[0] + self._seconds) if full else now
            self._turns.append(turn)
        if turn > now:
            self._sleep(turn - now)


@functools.cache
def shared_limiter(whose: str, per_minute: int) -> RateLimiter:  # noqa: ARG001  (the cache's key)
    """The one limiter in this process for `whose`, a fingerprint: clients share their key's allowance."""
    return RateLimiter(per_minute)


@functools.cache
def trusted(trust_env: bool) -> ssl.SSLContext:
    """Whose certificates count. Read once in a process: 30 ms and a megabyte each time."""
    return httpx.create_ssl_context(trust_env=trust_env)


class _TryAgain(Exception):  # noqa: N818  (never leaves this module: it tells tenacity to go on)
    def __init__(self, error: ServiceError, after: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class Http:
    """Requests to one service. Thread-safe, as httpx.Client is."""

    def __init__(
        self,
        service: Service,
        headers: Mapping[str, SecretStr | str],
        *,
        transport: httpx.BaseTransport | None = None,
        limiter: RateLimiter | None = None,
        transient: Callable[[httpx.Response], bool] = lambda _: False,
        patience: Patience | None = None,
    ) -> None:
        self.service = service
        self._limiter = limiter
        self._transient = transient
        self._patience = patience or Patience()
        # A proxy of the user's does not lead to the local cloud.
        trust_env = httpx.URL(service.url).host not in LOOPBACK
        self._client = httpx.Client(
            base_url=service.url,
            headers={name: _plain(value) for name, value in headers.items()},
            timeout=TIMEOUTS,
            limits=LIMITS,
            transport=transport,
            verify=trusted(trust_env),
            trust_env=trust_env,
        )

    def __repr__(self) -> str:
        return f"<Http {self.service.name} at {self.service.host}>"

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: object = None,
        content_type: str = "application/json",
        repeatable: bool | None = None,
        secrets: Sequence[SecretStr] = (),
    ) -> httpx.Response:
        """The answer to a request, when it is 2xx; anything else is raised as a ServiceError.

        `path` is relative to the service's address. `repeatable` (default: every method but POST): may be
        sent again after it failed. One that may not is sent again only when it surely had no effect: the
        connection was refused, 429, or a fault reported before anything is done (`transient`). `secrets`: what
        stands in the body and must not be told, should the service quote it.
        """
        safe = method in REPEATABLE if repeatable is None else repeatable
        options: dict[str, Any] = {"params": params}
        if body is not None:
            options |= {"json": body, "headers": {"Content-Type": content_type}}
        service = replace(self.service, secrets=(*self.service.secrets, *secrets))
        request = self._client.build_request(method, path.lstrip("/"), **options)
        patience = self._patience
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            stop=tenacity.stop_after_attempt(patience.attempts) | tenacity.stop_before_delay(patience.total),
            wait=self._wait,
            sleep=patience.sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, service, request, safe)
        except _TryAgain as last:
            raise last.error from last.__cause__

    def read(self, model: type[A], response: httpx.Response) -> A:
        """The answer's body as a `model`; if it is none: ServiceError, after a POST UncertainOutcome.

        A null is the same as a field that is not there, and unknown fields are ignored at every depth, also
        in models that are strict where we write them.
        """
        try:
            return model.model_validate(_without_nulls(response.json()), extra="ignore")
        except ValueError as failure:
            request = response.request
            kind = UncertainOutcome if request.method == "POST" else ServiceError
            raise kind(
                f"{request.method} {request.url.path} at {self.service.name} ({self.service.host}) "
                f"was answered {response.status_code} with something that is no {model.__name__}",
                self.service.clean(_first_complaint(failure)),
                f"check that {self.service.host} is {self.service.name}",
            ) from None

    def _once(self, service: Service, request: httpx.Request, safe: bool) -> httpx.Response:
        if self._limiter:
            self._limiter.wait()
        try:
            answer = self._client.send(request)
        except httpx.RequestError as failure:
            error = to_error(service, request, failure, repeatable=safe)
            if safe or surely_not_sent(failure):
                raise _TryAgain(error, 0) from failure
            raise error from failure
        if answer.is_success:
            return answer
        transient = self._transient(answer)
        error = to_error(service, request, answer, repeatable=safe, transient=transient)
        if (
            transient
            or answer.status_code == 429
            or (safe and answer.status_code >= 500 and not isinstance(error, Conflict))
        ):
            raise _TryAgain(error, retry_after(answer))
        raise error

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next try: exponential with jitter, but no sooner than the service asked."""
        ceiling = min(self._patience.longest, self._patience.first * 2**state.attempt_number)
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.after if isinstance(failure, _TryAgain) else 0.0
        return max(asked, random.uniform(ceiling / 4, ceiling))  # noqa: S311  (jitter is no cryptography)


def retry_after(answer: httpx.Response) -> float:
    """Seconds that the service asked to wait; 0 when it did not. Retry-After is seconds or an HTTP date."""
    value = answer.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _plain(value: SecretStr | str) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_nulls(below) for name, below in value.items() if below is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _first_complaint(failure: ValueError) -> str:
    """Where a body is not what it should be; never what stands there: it can be a credential."""
    if not isinstance(failure, ValidationError):
        return "it is no JSON"
    first = failure.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
