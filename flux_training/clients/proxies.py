"""Proxies: requests to this machine never use one, all others use the user's, and what cannot be used is refused by name."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from flux_training.training.errors import BadInput

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
USABLE_SCHEMES = ("http", "https")


def proxy_findings(environ: Mapping[str, str]) -> list[str]:
    """One finding for each proxy variable that cannot be used. A proxy's address is not shown: it may hold a password."""
    given = {
        name: value for name, value in environ.items() if name.lower() in PROXY_VARIABLES and value.strip()
    }
    found = {name: _why_proxy_is_unusable(value.strip()) for name, value in sorted(given.items())}
    return [f"{name} {reason}" for name, reason in found.items() if reason]


def _why_proxy_is_unusable(value: str) -> str:
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    if scheme.startswith("socks"):
        return f"is a SOCKS proxy ({scheme}://…), which is not supported; set it to an HTTP proxy, such as http://127.0.0.1:3128, or unset it"
    if scheme not in USABLE_SCHEMES:
        return f"begins with {scheme}://, but a proxy's address begins with http://; correct it or unset it"
    try:
        address = urlsplit(value if "://" in value else f"http://{value}")
        usable = bool(address.hostname) and (address.port is None or address.port > 0)
    except ValueError:
        usable = False
    return "" if usable else "is not an address such as http://127.0.0.1:3128; correct it or unset it"


@contextmanager
def checked_proxies(is_local: bool, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """For the making of a client, which reads the variables. Raises BadInput if one cannot be used."""
    if not is_local and (findings := proxy_findings(environ)):
        raise BadInput(findings)
    try:
        yield
    except Exception as error:  # Each HTTP library raises its own exceptions for invalid proxy variables.
        # httpx does not read every form of no_proxy, such as IPv6 networks.
        if is_local or not any(name.lower() in (*PROXY_VARIABLES, "no_proxy") for name in environ):
            raise
        raise BadInput(
            [f"the proxy variables cannot be used ({error}); correct no_proxy and NO_PROXY"]
        ) from error
