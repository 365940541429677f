"""The environment variables of the worker on a node: the bucket's address and keys, and no other keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import SecretStr

from flux_training.clients.connection import Connection
from flux_training.training.dataset.manifest import canonical_json

# Issued keys are compared separately from the rest of the environment.
KEYS_END_VARIABLE = "FLUX_KEYS_END"
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def node_environment(connection: Connection) -> dict[str, str | SecretStr]:
    """The Kelpie worker's variables without keys (docs/services.md). It authenticates to Kelpie with the node's own token, not a Salad key."""
    environment: dict[str, str | SecretStr] = {
        "AWS_REGION": connection.s3_region,
        # Newer S3 clients send checksums by default, which R2 refuses.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        # Worker 0.6 reads the first name, 0.7 the second.
        "SALAD_PROJECT": connection.project,
        "SALAD_PROJECT_NAME": connection.project,
    }
    if connection.s3_endpoint:
        environment["AWS_ENDPOINT_URL"] = connection.s3_endpoint
    return environment


def given_keys(connection: Connection) -> dict[str, str | SecretStr]:
    """With storage.kind s3: the keys configured for the nodes, else those of the stack itself."""
    if connection.node_access_key_id and connection.node_secret_access_key:
        key_id, secret, session = connection.node_access_key_id, connection.node_secret_access_key, None
    else:
        key_id, secret = connection.s3_access_key_id, connection.s3_secret_access_key
        session = connection.s3_session_token
    values = (SecretStr(key_id), secret, session)
    return {name: value for name, value in zip(KEY_VARIABLES, values, strict=True) if value is not None}


def issued_keys(keys: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """Keys issued for the nodes, as their resource stores them (accessKeyId, secretAccessKey, sessionToken)."""
    values = (keys.get(name) for name in ("accessKeyId", "secretAccessKey", "sessionToken"))
    return {name: SecretStr(value) for name, value in zip(KEY_VARIABLES, values, strict=True) if value}


def secret_values(environment: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """All of the user's variables are treated as secret, since any of them may be."""
    return {name: SecretStr(value) for name, value in environment.items()}


def fingerprint(environment: Mapping[str, str | SecretStr]) -> str:
    """12 hex digits, so that a preview shows a changed key and the state has no key. To be kept secret, because it has no salt."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in environment.items()
    }
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:12]
