"""The proxy that makes requests fail: how a client sees each fault, and that a seed always gives the same faults."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud.chaos.plan import KINDS, Faults
from localcloud.chaos.proxy import Exchange, Proxy, api_service, connection_through_proxy, s3_service
from localcloud.testing import logged_requests, running_cloud, s3_client
from pydantic import SecretStr

from flux_training.clients.cloudflare import Cloudflare
from flux_training.clients.errors import RateLimited, ServiceError
from flux_training.clients.http import RetryPolicy


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with running_cloud(tmp_path_factory.mktemp("proxy") / "cloud", nodes=0) as running:
        yield running


def asked_through(connection: dict[str, Any], kind: str) -> tuple[object, int]:
    """(the status or error that the client gets, how often the server was asked)."""
    headers = {
        "Salad-Api-Key": connection["salad"]["api_key"],
        "Salad-Organization": "org",
        "Salad-Project": "proj",
    }
    seen: list[Exchange] = []
    page = connection["page"].rstrip("/")
    with Proxy(page, api_service, Faults(1.0, 1, kinds=(kind,)), seen.append) as proxy:
        try:
            found: object = httpx.get(f"{proxy.url}/kelpie/jobs", headers=headers).status_code
        except httpx.HTTPError as error:
            found = type(error)
    assert all(exchange.status == 200 for exchange in seen)
    return found, len(seen)


def test_each_fault_is_what_it_says(connection: dict[str, Any]) -> None:
    assert {kind: asked_through(connection, kind) for kind in KINDS} == {
        "drop-before": (httpx.RemoteProtocolError, 0),
        "drop-after": (httpx.RemoteProtocolError, 1),
        "429": (429, 0),
        "500-before": (500, 0),
        "500-after": (500, 1),
        "cut": (httpx.RemoteProtocolError, 1),
        "403": (403, 0),
    }


def test_objects_pass_unchanged(connection: dict[str, Any], tmp_path: Path) -> None:
    """Signatures stay valid and bodies complete, however they are sent."""
    with Proxy(connection["s3"]["url"], s3_service) as proxy:
        s3 = s3_client({**connection, "s3": {**connection["s3"], "url": proxy.url}})
        s3.create_bucket(Bucket="through")
        body = bytes(range(256)) * 50_000
        (tmp_path / "big").write_bytes(body)
        s3.upload_file(str(tmp_path / "big"), "through", "a b/ü.bin")
        assert s3.get_object(Bucket="through", Key="a b/ü.bin")["Body"].read() == body
        assert s3.head_object(Bucket="through", Key="a b/ü.bin")["ContentLength"] == len(body)
        assert s3.list_objects_v2(Bucket="through")["KeyCount"] == 1
        s3.delete_object(Bucket="through", Key="a b/ü.bin")
    assert any(one["path"] == "/through/a b/ü.bin" for one in logged_requests(connection))


@pytest.mark.parametrize(
    ("kind", "met"), [("429", RateLimited), ("500-before", ServiceError), ("cut", ServiceError)]
)
def test_cloudflare_fails_too_in_its_own_words(
    connection: dict[str, Any], kind: str, met: type[ServiceError]
) -> None:
    """With the connection that `chaos proxy` writes, and the product's client."""
    with Proxy(connection["page"].rstrip("/"), api_service, Faults(1.0, 1, kinds=(kind,))) as proxy:
        there: Any = connection_through_proxy(connection, proxy.url, connection["s3"]["url"])["cloudflare"]
        impatient = RetryPolicy(attempts=1)
        client = Cloudflare(
            there["url"], there["account_id"], SecretStr(there["api_token"]), retry_policy=impatient
        )
        with pytest.raises(met):
            client.get_bucket("bucket")


def test_the_page_is_spared(connection: dict[str, Any]) -> None:
    with Proxy(connection["page"].rstrip("/"), api_service, Faults(1.0, 1)) as proxy:
        assert httpx.get(proxy.url).status_code == 200


def test_a_seed_is_a_plan_whatever_the_order() -> None:
    paths = [f"/kelpie/jobs/{number}" for number in range(300)]

    def plan(seed: int, order: list[str]) -> dict[str, object]:
        faults = Faults(0.2, seed)
        return {path: faults.draw_fault("kelpie", "GET", path) for path in order}

    assert plan(1, paths) == plan(1, paths[::-1])
    assert plan(1, paths) != plan(2, paths)
    faults = Faults(0.2, 1)
    kinds = Counter(faults.draw_fault("kelpie", "GET", path)[0] for path in paths)
    assert set(kinds) == {None, *KINDS}
    assert 0.1 < 1 - kinds[None] / len(paths) < 0.3
    assert "403" not in {Faults(1.0, seed).draw_fault("s3", "GET", "/")[0] for seed in range(100)}
