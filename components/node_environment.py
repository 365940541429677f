"""What the worker on a node is told by its container group's environment: where the bucket is, and the bucket's keys alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import SecretStr

from clients.connection import Connection
from training.manifest import canonical_json


def node_environment(connection: Connection) -> dict[str, str | SecretStr]:
    """The Kelpie worker's variables (UPSTREAM.md). It authenticates to Kelpie by the node's own token: no Salad key goes there."""
    environment: dict[str, str | SecretStr] = {
        "AWS_ACCESS_KEY_ID": SecretStr(connection.s3_access_key_id),
        "AWS_SECRET_ACCESS_KEY": connection.s3_secret_access_key,
        "AWS_REGION": connection.s3_region,
        # Its S3 client is past the version where checksums that R2 refuses became the default.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        # Read under the first name from worker 0.6 on, under the second from 0.7.
        "SALAD_PROJECT": connection.project,
        "SALAD_PROJECT_NAME": connection.project,
    }
    if connection.s3_endpoint:
        environment["AWS_ENDPOINT_URL"] = connection.s3_endpoint
    if connection.s3_session_token:
        environment["AWS_SESSION_TOKEN"] = connection.s3_session_token
    return environment


def secret_values(environment: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """What the user sets for the containers may be secret: nobody can tell, so all of it is treated so."""
    return {name: SecretStr(value) for name, value in environment.items()}


def fingerprint(environment: Mapping[str, str | SecretStr]) -> str:
    """12 hex digits: a changed key shows as a change in a preview, without a key in the state."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in environment.items()
    }
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:12]
