"""The services for these tests: the local cloud alone, or with the real Kelpie API and worker (.github/CONTRIBUTING.md).

FLUX_TEST_KELPIE_API_URL      the real Kelpie API. It must ask SaladCloud at the next address, with the next key
FLUX_TEST_SALAD_API_URL       http://127.0.0.1:PORT/salad/api/public: the tests start a local cloud on this port
FLUX_TEST_SALAD_API_KEY       the key of that local cloud
FLUX_TEST_KELPIE_WORKER       the command that runs the real worker as a node; `--home FOLDER` is added
FLUX_TEST_S3_ENDPOINT_URL, FLUX_TEST_S3_ACCESS_KEY_ID, FLUX_TEST_S3_SECRET_ACCESS_KEY   optional: another S3
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from localcloud.home import Home, HomeState
from localcloud.testing import running_cloud

from tests.real.training import REAL_SERVICES, STAND_INS, NodeServices

SETTINGS = {"nodes": 4, "heartbeat_seconds": None, "idle_seconds": None}
# Runs a worker. NODE_KELPIE_URL in the environment of a container group is a way to Kelpie for its nodes.
NODE = 'KELPIE_API_URL="${NODE_KELPIE_URL:-$KELPIE_API_URL}" exec "$@"'


def given(name: str) -> str:
    return os.environ.get(f"FLUX_TEST_{name}", "")


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServices]:
    home = tmp_path_factory.mktemp("services") / "cloud"
    kelpie = given("KELPIE_API_URL")
    settings = SETTINGS | (as_real(home, kelpie) if kelpie else as_local())
    with running_cloud(home, **settings) as connection:
        if kelpie:
            connection["kelpie"]["url"] = kelpie.rstrip("/")
        if given("S3_ENDPOINT_URL"):
            connection["s3"] = {
                "url": given("S3_ENDPOINT_URL"),
                "access_key_id": given("S3_ACCESS_KEY_ID"),
                "secret_access_key": given("S3_SECRET_ACCESS_KEY"),
                "region": "auto",
            }
        (home / "connection.json").write_text(json.dumps(connection), encoding="utf-8")
        yield NodeServices(home, connection, is_real=bool(kelpie))


def as_local() -> dict[str, Any]:
    worker = [sys.executable, "-m", "localcloud.node"]
    return {"step_seconds": STAND_INS.step_seconds, "node_command": ["sh", "-c", NODE, "sh", *worker]}


def as_real(home: Path, kelpie: str) -> dict[str, Any]:
    """Settings of a local cloud whose nodes run the real worker and ask the real Kelpie API for work."""
    folder = Home(home)
    folder.create()
    folder.save_state(HomeState(salad_api_key=given("SALAD_API_KEY")))
    worker = shlex.split(given("KELPIE_WORKER"))
    variables = [f"KELPIE_API_URL={kelpie}", f"CONNECTION={home}/connection.json"]
    return {
        "port": urlsplit(given("SALAD_API_URL")).port or 0,
        "step_seconds": REAL_SERVICES.step_seconds,
        "autoscaler_seconds": 1,
        "node_command": ["env", *variables, "sh", "-c", NODE, "sh", *worker],
    }
