"""HTTP requests with time-outs, bounded retries, a rate limit and typed errors."""

import email.utils
import functools
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from flux_training.clients.errors import (
    Conflict,
    NotFound,
    Service,
    ServiceError,
    TemporaryRefusal,
    UncertainOutcome,
    to_error,
    was_never_sent,
)
from flux_training.clients.proxies import checked_proxies
from flux_training.clients.waiting import pause

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
TIMEOUTS = httpx.Timeout(connect=10, read=60, write=60, pool=60)
# Idle connections are closed sooner than the servers do (uvicorn: after 5 s). If a server closes a connection while a POST is
# being sent, nobody knows whether the POST took effect.
LIMITS = httpx.Limits(max_connections=32, keepalive_expiry=2)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Answer(BaseModel):
    """Base class of the services' answers. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


A = TypeVar("A", bound=BaseModel)


@dataclass(frozen=True)
class RetryPolicy:
    """Limits for retries. Waits grow from `first` to `longest` seconds; `total` limits all attempts together."""

    attempts: int = 5
    first: float = 0.5
    longest: float = 20
    total: float = 90
    sleep: Callable[[float], None] = field(default=pause, repr=False)

    def wait(self, attempt: int, asked: float) -> float:
        """Seconds before the next attempt: exponential with jitter, but at least what the service `asked` for."""
        ceiling = min(self.longest, self.first * 2**attempt)
        return max(asked, random.uniform(ceiling / 4, ceiling))  # noqa: S311 - jitter is no cryptography

    def retrying(
        self,
        retry: tenacity.retry_base | Callable[[tenacity.RetryCallState], bool],
        wait: Callable[[tenacity.RetryCallState], float],
        sleep: Callable[[float], None] | None = None,
    ) -> tenacity.Retrying:
        """Retries within these limits. The last failure is raised."""
        return tenacity.Retrying(
            retry=retry,
            stop=tenacity.stop_after_attempt(self.attempts) | tenacity.stop_before_delay(self.total),
            wait=wait,
            sleep=sleep or self.sleep,
            reraise=True,
        )


class RateLimiter:
    """Allows at most `count` requests in any `seconds`, across threads."""

    def __init__(
        self,
        count: int,
        seconds: float = 60,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = pause,
    ) -> None:
        self._count, self._seconds, self._clock, self._sleep = count, seconds, clock, sleep
        self._lock = threading.Lock()
        self._turns: deque[float] = deque(maxlen=count)

    def wait(self) -> None:
        """Wait until the next request is allowed."""
        with self._lock:
            now = self._clock()
            full = len(self._turns) == self._count
            turn = max(now, self._turns[0] + self._seconds) if full else now
            self._turns.append(turn)
        if turn > now:
            self._sleep(turn - now)


@functools.cache
def shared_limiter(fingerprint: str, per_minute: int) -> RateLimiter:  # noqa: ARG001 - part of the cache's key
    """The limiter for one API key, shared by all its clients in this process."""
    return RateLimiter(per_minute)


@functools.cache
def trusted_certificates(trust_env: bool) -> ssl.SSLContext:
    """The trusted certificates. Reading them takes 30 ms, so it is done once in a process."""
    return httpx.create_ssl_context(trust_env=trust_env)


class _TryAgain(Exception):  # noqa: N818 - a signal to tenacity, which never leaves this module
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
        transient: Callable[[httpx.Response], TemporaryRefusal | None] = lambda _: None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self.service = service
        self._limiter = limiter
        self._transient = transient
        self._retry_policy = retry_policy or RetryPolicy()
        # The user's proxy cannot reach the local cloud, so it is bypassed.
        trust_env = httpx.URL(service.url).host not in LOOPBACK
        with checked_proxies(not trust_env):
            self._client = httpx.Client(
                base_url=service.url,
                headers={name: _plain(value) for name, value in headers.items()},
                timeout=TIMEOUTS,
                limits=LIMITS,
                transport=transport,
                verify=trusted_certificates(trust_env),
                trust_env=trust_env,
            )

    def __repr__(self) -> str:
        return f"<Http {self.service.name} at {self.service.host}>"

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
        """Send a request and return the answer if it is 2xx. Raises ServiceError for any other.

        `path` is relative to the service's address. `repeatable`: whether it may be sent twice; by default every method but
        POST. Other requests are only repeated if they had no effect: the connection was refused, or the answer was 429 or
        `transient`. `secrets` in the body are removed from error messages.
        """
        safe = method in IDEMPOTENT_METHODS if repeatable is None else repeatable
        options: dict[str, Any] = {"params": params}
        if body is not None:
            options |= {"json": body, "headers": {"Content-Type": content_type}}
        service = replace(self.service, secrets=(*self.service.secrets, *secrets))
        request = self._client.build_request(method, path.lstrip("/"), **options)
        retrying = self._retry_policy.retrying(tenacity.retry_if_exception_type(_TryAgain), self._wait)
        try:
            return retrying(self._once, service, request, safe)
        except _TryAgain as last:
            raise last.error from last.__cause__

    def get(self, model: type[A], path: str, params: Mapping[str, str | int] | None = None) -> A:
        """The answer to a GET. Raises NotFound."""
        return self.parse_body(model, self.request("GET", path, params=params))

    def find(self, model: type[A], path: str) -> A | None:
        """The answer to a GET, or None if there is nothing at `path`."""
        try:
            return self.get(model, path)
        except NotFound:
            return None

    def delete(self, path: str) -> None:
        """DELETE what is at `path`, if anything is."""
        with suppress(NotFound):
            self.request("DELETE", path)

    def parse_body(self, model: type[A], response: httpx.Response) -> A:
        """Parse the body as a `model`. Raises ServiceError, or UncertainOutcome after a POST.

        A null counts as a missing field. Unknown fields are ignored at every depth, also in models that are strict for requests.
        """
        try:
            return model.model_validate(_without_nulls(response.json()), extra="ignore")
        except ValueError as failure:
            request = response.request
            kind = UncertainOutcome if request.method == "POST" else ServiceError
            raise kind(
                f"{request.method} {request.url.path} at {self.service.name} ({self.service.host}) "
                f"was answered {response.status_code} with an unexpected body",
                self.service.clean(_first_validation_error(failure)),
                f"check that {self.service.host} is the address of {self.service.name}",
            ) from None

    def _once(self, service: Service, request: httpx.Request, safe: bool) -> httpx.Response:
        if self._limiter:
            self._limiter.wait()
        try:
            answer = self._client.send(request)
        except httpx.RequestError as failure:
            error = to_error(service, request, failure, repeatable=safe)
            if safe or was_never_sent(failure):
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
        failure = state.outcome.exception() if state.outcome else None
        return self._retry_policy.wait(
            state.attempt_number, failure.after if isinstance(failure, _TryAgain) else 0
        )


def retry_after(answer: httpx.Response) -> float:
    """Seconds that the service asks to wait, or 0. Retry-After is a number of seconds or an HTTP date."""
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


def _first_validation_error(failure: ValueError) -> str:
    """The first wrong field, without its value, which can be a credential."""
    if not isinstance(failure, ValidationError):
        return "it is not JSON"
    first = failure.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
