"""Retries only of requests that are safe to repeat, waiting times, and a rate limit across threads."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import certifi
import httpx
import pytest
from pydantic import SecretStr

from flux_training.clients.errors import (
    NotFound,
    RateLimited,
    Service,
    ServiceError,
    TemporaryRefusal,
    Unavailable,
    UncertainOutcome,
)
from flux_training.clients.http import (
    Answer,
    Http,
    RateLimiter,
    RetryPolicy,
    retry_after,
    shared_limiter,
    trusted_certificates,
)

KEY = "canary-http-51c0"
SERVICE = Service("Test", "http://service.test/base", "check the key", "is it up?", (SecretStr(KEY),))
Reply = httpx.Response | Exception


class Script(httpx.BaseTransport):
    """Answers with the given replies in turn, repeating the last one. Records the requests."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)


def client(
    script: Script,
    waits: list[float] | None = None,
    transient: Callable[[httpx.Response], TemporaryRefusal | None] | None = None,
) -> Http:
    sleep = (waits if waits is not None else []).append
    return Http(
        SERVICE,
        {"Salad-Api-Key": SecretStr(KEY)},
        transport=script,
        retry_policy=RetryPolicy(sleep=sleep),
        transient=transient or (lambda _: None),
    )


OK = httpx.Response(200, json={"id": "1"})
LOST = httpx.ReadError("connection reset")
REFUSED = httpx.ConnectError("Connection refused")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("reply", [LOST, REFUSED, httpx.Response(500), httpx.Response(429)])
def test_idempotent_requests_are_retried(method: str, reply: Reply) -> None:
    script = Script(reply, reply, OK)
    assert client(script).request(method, "x").status_code == 200
    assert len(script.requests) == 3


@pytest.mark.parametrize(
    "reply",
    [
        LOST,
        httpx.ReadTimeout("no answer"),
        httpx.DecodingError("bad gzip"),
        httpx.Response(500),
        httpx.Response(504),
    ],
)
def test_a_post_that_may_have_worked_is_sent_once(reply: Reply) -> None:
    script = Script(reply)
    with pytest.raises(UncertainOutcome, match="check whether it did"):
        client(script).request("POST", "jobs", body={})
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "reply", [REFUSED, httpx.Response(429), httpx.Response(403, text="Invalid Project x")]
)
def test_a_post_without_effect_is_retried(reply: Reply) -> None:
    script = Script(reply, reply, OK)
    http = client(
        script, transient=lambda answer: TemporaryRefusal.OUTAGE if answer.status_code == 403 else None
    )
    assert http.request("POST", "jobs", body={"a": 1}).json() == {"id": "1"}
    assert [request.content for request in script.requests] == [b'{"a":1}'] * 3


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (LOST, Unavailable),
        (REFUSED, Unavailable),
        (httpx.Response(503), Unavailable),
        (httpx.Response(429), RateLimited),
    ],
)
def test_retries_are_limited(reply: Reply, kind: type[ServiceError]) -> None:
    waits: list[float] = []
    script = Script(reply)
    with pytest.raises(kind):
        client(script, waits).request("GET", "x")
    assert len(script.requests) == RetryPolicy().attempts
    assert sum(waits) < RetryPolicy().total


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412])
def test_a_refusal_is_not_retried(status: int) -> None:
    script = Script(httpx.Response(status))
    with pytest.raises(ServiceError):
        client(script).request("GET", "x")
    assert len(script.requests) == 1


def test_retry_after_is_honoured() -> None:
    waits: list[float] = []
    script = Script(httpx.Response(429, headers={"Retry-After": "37"}), OK)
    client(script, waits).request("GET", "x")
    assert waits == [37.0]


def test_a_retry_after_beyond_the_limit_is_not_waited_for() -> None:
    waits: list[float] = []
    script = Script(httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimited):
        client(script, waits).request("GET", "x")
    assert waits == []
    assert len(script.requests) == 1


def test_retry_after_can_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    assert 400 < retry_after(httpx.Response(503, headers={"Retry-After": later})) <= 500
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=500), usegmt=True)
    assert retry_after(httpx.Response(503, headers={"Retry-After": past})) == 0
    assert retry_after(httpx.Response(503, headers={"Retry-After": "soon"})) == 0
    assert retry_after(httpx.Response(503)) == 0


def test_path_parameters_and_type_are_sent_as_given() -> None:
    script = Script(OK)
    client(script).request(
        "PATCH", "/a/b", params={"q": "x y"}, body={"n": None}, content_type="a/merge+json"
    )
    (request,) = script.requests
    assert str(request.url) == "http://service.test/base/a/b?q=x+y"
    assert request.headers["Content-Type"] == "a/merge+json"
    assert request.headers["Salad-Api-Key"] == KEY
    assert request.content == b'{"n":null}'


class SizedThing(Answer):
    id: str
    size: int = 3


def test_answers_are_read_leniently() -> None:
    body = {"id": "1", "size": None, "new_field": {"deep": 1}}
    http = client(Script(httpx.Response(200, json=body)))
    assert http.parse_body(SizedThing, http.request("GET", "x")) == SizedThing(id="1", size=3)


@pytest.mark.parametrize("content", [b"<html>", b"", b"[]", b'{"size": "much"}'])
@pytest.mark.parametrize(("method", "kind"), [("GET", ServiceError), ("POST", UncertainOutcome)])
def test_an_invalid_answer_is_an_error(content: bytes, method: str, kind: type[Exception]) -> None:
    http = client(Script(httpx.Response(200, content=content)))
    with pytest.raises(kind, match="an unexpected body"):
        http.parse_body(SizedThing, http.request(method, "x"))


def test_neither_repr_nor_error_shows_the_key() -> None:
    http = client(Script(httpx.Response(404, text=f"unknown key {KEY}")))
    with pytest.raises(NotFound) as caught:
        http.request("GET", "x", params={"signature": KEY})
    assert KEY not in f"{http!r} {http.service!r} {caught.value} {caught.value!r}"


@pytest.fixture
def silent_server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that closes each connection without an answer."""
    seen: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(65536))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_over_a_real_socket_a_lost_post_is_sent_once(silent_server: tuple[str, list[bytes]]) -> None:
    url, seen = silent_server
    http = Http(Service("Test", url, "", ""), {}, retry_policy=RetryPolicy(attempts=3, sleep=lambda _: None))
    with pytest.raises(UncertainOutcome):
        http.request("POST", "jobs", body={})
    assert len(seen) == 1
    with pytest.raises(Unavailable):
        http.request("GET", "jobs")
    assert len(seen) == 4


def test_over_a_real_socket_a_refused_connection_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    http = Http(
        Service("Test", f"http://127.0.0.1:{port}", "", "start it"),
        {},
        retry_policy=RetryPolicy(sleep=lambda _: None),
    )
    with pytest.raises(Unavailable, match="start it"):
        http.request("POST", "jobs", body={})


class SleepingClock:
    """A clock that only moves when someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def test_the_limiter_keeps_to_the_rate() -> None:
    clock = SleepingClock()
    limiter = RateLimiter(4, 60, clock, clock.sleep)
    turns = []
    for _ in range(13):
        limiter.wait()
        turns.append(clock.now)
    assert turns == [0] * 4 + [60] * 4 + [120] * 4 + [180]


def test_the_limiter_keeps_to_the_rate_across_threads() -> None:
    waits: list[float] = []
    limiter = RateLimiter(5, 60, lambda: 0.0, waits.append)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(limiter.wait) for _ in range(20)]:
            done.result()
    assert sorted(waits) == [60] * 5 + [120] * 5 + [180] * 5


def test_the_users_certificates_are_used_except_for_the_local_cloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Path(certifi.where()).read_text(encoding="utf-8")
    one = bundle[bundle.index("-----BEGIN") : bundle.index("-----END")] + "-----END CERTIFICATE-----\n"
    (tmp_path / "one.pem").write_text(one, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    trusted_certificates.cache_clear()
    try:
        far = [Http(replace(SERVICE, url="https://service.test"), {}) for _ in range(2)]
        near = Http(replace(SERVICE, url="http://127.0.0.1:1"), {})
        contexts = [http._client._transport._pool._ssl_context for http in (*far, near)]  # type: ignore[attr-defined]  # httpx's own
    finally:
        trusted_certificates.cache_clear()
    assert len(contexts[0].get_ca_certs()) == 1
    assert contexts[1] is contexts[0]  # read once
    assert len(contexts[2].get_ca_certs()) > 10


def test_clients_of_one_key_share_a_limiter() -> None:
    assert shared_limiter("a", 240) is shared_limiter("a", 240)
    assert shared_limiter("a", 240) is not shared_limiter("b", 240)
