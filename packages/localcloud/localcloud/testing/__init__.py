"""For tests: start a local cloud and reach its services.

with running_cloud(tmp_path / "cloud", nodes=0) as connection:
    s3_client(connection).create_bucket(Bucket="photos")
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
from botocore.config import Config

from localcloud import lifecycle, processes
from localcloud.home import Home, write_json

T = TypeVar("T")

# A value for the setting `node_command`: its nodes complete every job immediately.
STUB_NODE = (sys.executable, str(Path(__file__).with_name("stub_node.py")))
# Settings for tests: any free ports, and short waiting times.
QUICK_SETTINGS = {
    "port": 0,
    "autoscaler_seconds": 0.05,
    "boot_seconds": 0.0,
    "poll_seconds": 0.05,
    "requests_per_minute": 100000,
}


@contextlib.contextmanager
def running_cloud(home: Path, **settings: Any) -> Iterator[dict[str, Any]]:
    """Run a local cloud in the folder `home`; yield the content of its connection.json.

    `settings` are fields of `localcloud.home.CloudSettings`. With `nodes=0` jobs stay pending.
    """
    write_settings(home, **settings)
    try:
        yield start_cloud(home)
    finally:
        lifecycle.stop_cloud(Home(home))


def write_settings(home: Path, **settings: Any) -> None:
    """Store QUICK_SETTINGS and `settings` for the next start."""
    folder = Home(home)
    folder.create()
    write_json(folder.settings, QUICK_SETTINGS | settings)


def start_cloud(home: Path) -> dict[str, Any]:
    """Start the local cloud of `home`; return the content of its connection.json."""
    connection, _ = lifecycle.start_cloud(Home(home), {})
    return connection


def run_localcloud(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `localcloud --home HOME ARGUMENTS` as a user would."""
    command = [sys.executable, "-m", "localcloud", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - this package


def s3_client(connection: dict[str, Any], attempts: int = 2) -> Any:
    """A boto3 client with the settings that R2 needs (docs/services.md). A request is sent at most `attempts` times."""
    s3 = connection["s3"]
    return boto3.client(
        "s3",
        endpoint_url=s3["url"],
        aws_access_key_id=s3["access_key_id"],
        aws_secret_access_key=s3["secret_access_key"],
        region_name=s3["region"],
        config=Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": attempts},
            max_pool_connections=32,
        ),
    )


def salad_client(connection: dict[str, Any]) -> httpx.Client:
    """A client whose paths are relative to the project: `client.get("/containers")`."""
    salad = connection["salad"]
    base = f"{salad['url']}/organizations/{salad['organization']}/projects/{salad['project']}"
    return httpx.Client(base_url=base, headers={"Salad-Api-Key": salad["api_key"]}, timeout=30)


def kelpie_client(connection: dict[str, Any]) -> httpx.Client:
    """A client with the account's key."""
    salad = connection["salad"]
    headers = {
        "Salad-Api-Key": salad["api_key"],
        "Salad-Organization": salad["organization"],
        "Salad-Project": salad["project"],
    }
    return httpx.Client(base_url=connection["kelpie"]["url"], headers=headers, timeout=30)


def logged_requests(connection: dict[str, Any]) -> list[dict[str, Any]]:
    """The request log, oldest request first."""
    return [json.loads(line) for line in Path(connection["request_log"]).read_text().splitlines()]


def wait_until(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """Wait until `condition` returns something true, and return that. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"the condition did not become true within {seconds:g} s")
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process with this pid runs; a zombie does not count."""
    return processes.start_time(pid) is not None
