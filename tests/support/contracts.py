"""Checks requests and answers against the services' OpenAPI documents with openapi-core."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from localcloud.chaos.proxy import Exchange
from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from werkzeug.datastructures import Headers, ImmutableMultiDict

DATA = Path(__file__).parents[2] / "packages/localcloud/tests/data"
# service -> (its document, the address of the service in it, the path of ours)
DOCUMENTS = {
    "salad": ("salad-cloud.openapi.yaml", "https://api.salad.com/api/public", "/salad/api/public"),
    "kelpie": ("kelpie.openapi.json", "", "/kelpie"),
}

MERGE_PATCH = "application/merge-patch+json"
# What the documents say and the services do otherwise: service -> (what openapi-core finds, who says so). Everything else
# that deviates is a fault of ours.
ACCEPTED = {
    "kelpie": (
        # The document asks for all three at once; one is enough.
        (
            r" request: Security not found\.",
            "packages/localcloud/docs/services.md, Auth; the transcript's requests have a key alone",
        ),
        # Errors of its own come as text/plain, with a body that is not the document's.
        (
            r" 4\d\d answer: .*mimetype not found: text/plain",
            "packages/localcloud/docs/services.md, errors come in two shapes",
        ),
        (
            r" 500 answer: .*mimetype not found: text/plain",
            "packages/localcloud/docs/services.md, errors come in two shapes",
        ),
        (
            r" (401|403) answer: Unknown response http status",
            "the transcript: no credentials; packages/localcloud/docs/services.md, Auth",
        ),
        (
            r" answer: \[.*'(machine_id|webhook)'\]: None is not of type 'string'",
            "the transcript: create a job",
        ),
        (
            r" 400 answer: \[\]: '(error|message)' is a required property",
            "packages/localcloud/docs/services.md, errors come in two shapes",
        ),
        (r"^GET /nope 404 answer: Path not found", "the transcript: an unknown route"),
    ),
    "salad": (
        # The document's schema has only texts; null is how the body's own media type takes a member away.
        (
            r"PATCH .* request: \['container', 'environment_variables', '\w+'\]: None is not of type",
            "RFC 7396",
        ),
    ),
}


@dataclass
class Request:
    """openapi_core.protocols.Request for an exchange."""

    host_url: str
    path: str
    method: str
    content_type: str
    body: bytes | None
    parameters: RequestParameters = field(default_factory=RequestParameters)


@dataclass
class Response:
    """openapi_core.protocols.Response."""

    status_code: int
    headers: Mapping[str, Any]
    content_type: str
    data: bytes | None


@cache
def document(service: str) -> OpenAPI:
    path = DATA / DOCUMENTS[service][0]
    text = path.read_text(encoding="utf-8")
    content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return OpenAPI.from_dict(content, Config(extra_media_type_deserializers={MERGE_PATCH: json.loads}))


def deviations(exchange: Exchange) -> list[str]:
    """How an exchange deviates from its service's document: `METHOD template STATUS request|answer: why`."""
    request, response = _as_openapi(exchange)
    api = document(exchange.service)
    found = []
    for side, check in (
        ("request", lambda: api.validate_request(request)),
        ("answer", lambda: api.validate_response(request, response)),
    ):
        # What the service refused is not held to be well-formed.
        if side == "request" and exchange.status >= 400:
            continue
        try:
            check()
        except OpenAPIError as error:
            start = f"{exchange.method} {request.path} {exchange.status} {side}"
            found += [f"{start}: {reason}" for reason in _reasons(error)]
    return found


def unaccepted(exchanges: Iterable[Exchange]) -> set[str]:
    """The deviations of all exchanges with SaladCloud and Kelpie, except those in ACCEPTED."""
    return {
        deviation
        for exchange in exchanges
        if exchange.service in DOCUMENTS
        for deviation in deviations(exchange)
        if not any(re.search(pattern, deviation) for pattern, _ in ACCEPTED[exchange.service])
    }


def _as_openapi(exchange: Exchange) -> tuple[Request, Response]:
    _, server, prefix = DOCUMENTS[exchange.service]
    target, headers = urlsplit(exchange.target), Headers(exchange.request_headers)
    base = urlsplit(server)
    parameters = RequestParameters(
        query=ImmutableMultiDict(parse_qsl(target.query, keep_blank_values=True)), header=headers
    )
    request = Request(
        f"{base.scheme}://{base.netloc}" if server else "http://localhost",
        base.path + target.path.removeprefix(prefix),
        exchange.method.lower(),
        headers.get("Content-Type", ""),
        exchange.request_body or None,
        parameters,
    )
    answered = Headers(exchange.headers)
    content_type = answered.get("Content-Type", "")
    return request, Response(exchange.status, answered, content_type, exchange.body or None)


def _reasons(error: BaseException) -> list[str]:
    """The innermost reason, or all violations of a schema."""
    said = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        said = str(error)
    findings = getattr(error, "schema_errors", None)
    return [f"{list(one.absolute_path)}: {one.message}" for one in findings] if findings else [said]
