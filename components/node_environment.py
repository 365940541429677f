"""What the worker on a node is told by its container group's environment: where the bucket is, and the bucket's keys alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import SecretStr

from flux_training.clients.connection import Connection
from flux_training.training.dataset.manifest import canonical_json

# The keys of the bucket and when they end. Where they are issued for the nodes, a change of them is told from a change of the rest.
KEYS_END_VARIABLE = "FLUX_KEYS_END"
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def node_environment(connection: Connection) -> dict[str, str | SecretStr]:
    """The Kelpie worker's variables without keys (UPSTREAM.md). It authenticates to Kelpie by the node's own token: no Salad key goes there."""
    environment: dict[str, str | SecretStr] = {
        "AWS_REGION": connection.s3_region,
        # Its S3 client is past the version where checksums that R2 refuses became the default.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        # Read under the first name from worker 0.6 on, under the second from 0.7.
        "SALAD_PROJECT": connection.project,
        "SALAD_PROJECT_NAME": connection.project,
    }
    if connection.s3_endpoint:
        environment["AWS_ENDPOINT_URL"] = connection.s3_endpoint
    return environment


def given_keys(connection: Connection) -> dict[str, str | SecretStr]:
    """With storage.kind s3: the keys meant for the nodes, else those that the stack itself uses."""
    if connection.node_access_key_id and connection.node_secret_access_key:
        key_id, secret, session = connection.node_access_key_id, connection.node_secret_access_key, None
    else:
        key_id, secret = connection.s3_access_key_id, connection.s3_secret_access_key
        session = connection.s3_session_token
    values = (SecretStr(key_id), secret, session)
    return {name: value for name, value in zip(KEY_VARIABLES, values, strict=True) if value is not None}


def issued_keys(keys: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """Keys made for the nodes alone, as their resource gives them (accessKeyId, secretAccessKey, sessionToken)."""
    values = (keys.get(name) for name in ("accessKeyId", "secretAccessKey", "sessionToken"))
    return {name: SecretStr(value) for name, value in zip(KEY_VARIABLES, values, strict=True) if value}


def secret_values(environment: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """What the user sets for the containers may be secret: nobody can tell, so all of it is treated so."""
    return {name: SecretStr(value) for name, value in environment.items()}


def fingerprint(environment: Mapping[str, str | SecretStr]) -> str:
    """12 hex digits: a changed key shows as a change in a preview, without a key in the state. Not for everybody's eyes: it has no salt."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in environment.items()
    }
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:12]
