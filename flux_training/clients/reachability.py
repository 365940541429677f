"""Whether services answer at all, asked of all of them at once and for a limited time."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from flux_training.clients.connection import Connection
from flux_training.clients.errors import Unavailable
from flux_training.clients.http import LOOPBACK
from flux_training.clients.proxies import checked_proxies
from flux_training.clients.storage import AWS_URL

REACH_SECONDS = 6.0
CHECK_NETWORK = "check the network, proxy settings and the address"


def reachability_advice(problem: str) -> str:
    """What to do if a service cannot be reached, for these words of the TLS library or of the system."""
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        return (
            "behind a proxy with its own certificates, set SSL_CERT_FILE to the file of its certificate authority; "
            "storage of your own needs a certificate that the nodes trust, too"
        )
    if "WRONG_VERSION_NUMBER" in problem:
        return "the server there does not use https; correct the address or its port"
    return CHECK_NETWORK


@dataclass(frozen=True)
class ServiceProbe:
    """`problem` is empty if the service answered; then `date` is its Date header, and `time` our time in between."""

    host: str
    problem: str = ""
    date: str | None = None
    time: datetime | None = None


def service_addresses(connection: Connection) -> dict[str, str]:
    return {
        "SaladCloud": connection.salad_url,
        "Kelpie": connection.kelpie_url,
        "Storage": connection.s3_endpoint or AWS_URL,
    }


def require_usable_proxies(urls: Iterable[str]) -> None:
    """Raises BadInput for proxy variables that no request to these addresses could use."""
    is_local = all(httpx.URL(url).host in LOOPBACK for url in urls)
    with checked_proxies(is_local):
        httpx.Client(trust_env=not is_local).close()


def probe_services(urls: Mapping[str, str], seconds: float = REACH_SECONDS) -> dict[str, ServiceProbe]:
    """Ask each address; any answer will do. Takes at most `seconds`. Raises BadInput for an unusable proxy."""
    # Read the proxy variables here: an exception in a thread would be lost.
    require_usable_proxies(urls.values())
    found: dict[str, ServiceProbe] = {}

    def ask(name: str, url: str) -> None:
        found[name] = _probe(url, seconds)

    # A DNS lookup has no time limit, so some threads may still be running at the end.
    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in urls.items()]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    answered = dict(found)
    late = f"no answer in {seconds:g} seconds"
    return {
        name: answered.get(name) or ServiceProbe(httpx.URL(url).host, late)
        for name, url in urls.items()
    }  # fmt: skip


def require_network(connection: Connection) -> None:
    """Raises Unavailable if none of the services on other machines answers, which their clients would find out one by one, with retries.

    Raises BadInput for proxy variables that cannot be used.
    """
    urls = {
        name: url
        for name, url in service_addresses(connection).items()
        if httpx.URL(url).host not in LOOPBACK
    }
    probes = probe_services(urls).values()
    if urls and all(probe.problem for probe in probes):
        hosts = "; ".join(f"{probe.host}: {probe.problem}" for probe in probes)
        raise Unavailable(f"no service can be reached ({hosts})", "", CHECK_NETWORK)


def _probe(url: str, seconds: float) -> ServiceProbe:
    host = httpx.URL(url).host
    before = datetime.now(UTC)
    try:
        answer = httpx.get(url, timeout=seconds, trust_env=host not in LOOPBACK)
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        return ServiceProbe(host, str(failure) or type(failure).__name__)
    between = before + (datetime.now(UTC) - before) / 2
    return ServiceProbe(host, date=answer.headers.get("Date"), time=between)
