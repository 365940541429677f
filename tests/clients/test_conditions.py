"""Storages that honour conditional writes, ignore them, do not know them, or answer 429."""

import pytest
from pydantic import SecretStr

from components.bucket import BucketProvider
from flux_training.clients.conditions import WAIT_SECONDS, ignored_conditions
from flux_training.clients.connection import Connection
from flux_training.clients.errors import Unauthorized
from flux_training.clients.storage import Storage
from flux_training.training.errors import FluxError
from tests.support.s3_server import Reply, Server

HEADERS = ("If-None-Match", "If-Match")


def storage(server: Server) -> Storage:
    return Storage(server.url, "auto", "id", SecretStr("secret"), None, "bucket", retries=0)


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def answer_conditions(server: Server, answers: dict[str, int], busy: int = 0) -> None:
    """PUTs with one of `answers`' headers get its status, the first `busy` of them 429; everything else succeeds."""
    refused = []

    def reply(method: str, _path: str, _body: bytes) -> Reply:
        status = next((answers[name] for name in server.headers[-1] if name in answers), 200)
        if method != "PUT" or status == 200:
            return 200, b""
        if len(refused) < busy:
            refused.append(1)
            return 429, error("TooManyRequests")
        return status, error("PreconditionFailed" if status == 412 else "NotImplemented")

    server.reply = reply


@pytest.mark.parametrize(
    ("answers", "unheeded"),
    [
        ({"If-None-Match": 412, "If-Match": 412}, []),
        ({"If-None-Match": 412}, ["If-Match"]),
        ({"If-Match": 412}, ["If-None-Match"]),
        ({}, ["If-None-Match", "If-Match"]),
        ({"If-None-Match": 412, "If-Match": 501}, ["If-Match"]),
        ({"If-None-Match": 400, "If-Match": 412}, ["If-None-Match"]),
    ],
)
def test_ignored_conditions_are_detected(
    server: Server, answers: dict[str, int], unheeded: list[str]
) -> None:
    answer_conditions(server, answers)
    assert ignored_conditions(storage(server), "p/.flux/") == unheeded
    written = {path for method, path in server.seen if method == "PUT"}
    assert len(written) == 2
    assert all(path.startswith("/bucket/p/.flux/probe-") for path in written)
    # And they go again: the last request names both.
    deleted = server.bodies[-1].decode()
    assert all(path.removeprefix("/bucket/") in deleted for path in written)


def test_a_write_refused_with_429_is_retried(server: Server) -> None:
    answer_conditions(server, dict.fromkeys(HEADERS, 412), busy=2)
    waited: list[float] = []
    assert ignored_conditions(storage(server), "", waited.append) == []
    assert waited == [WAIT_SECONDS] * 2


def test_a_key_without_write_permission_is_reported(server: Server) -> None:
    server.reply = lambda method, _path, _body: (
        (403, error("AccessDenied")) if method == "PUT" else (200, b"")
    )
    with pytest.raises(Unauthorized):
        ignored_conditions(storage(server), "")


def test_a_bucket_in_which_two_updates_can_both_win_is_refused(server: Server) -> None:
    answer_conditions(server, {"If-None-Match": 412})
    conditions = server.reply
    # It is this stack's already, so that nothing but the conditions can be wrong with it.
    server.reply = lambda method, path, body: (
        (200, b'{"owner":"p/s"}') if method == "GET" else conditions(method, path, body)
    )
    provider = BucketProvider()
    provider.connection = Connection(
        cloud="salad",
        kelpie_url=server.url,
        salad_url=server.url,
        api_key=SecretStr("key"),
        organization="o",
        project="p",
        s3_endpoint=server.url,
        s3_access_key_id="id",
        s3_secret_access_key=SecretStr("secret"),
    )
    props = {
        "kind": "s3",
        "bucket": "bucket",
        "prefix": "",
        "owner": "p/s",
        "adopt": False,
        "results": "keep",
    }
    with pytest.raises(FluxError, match=r"ignores If-Match.*twice.*use R2, AWS"):
        provider.create(props)
