"""A real local cloud for a test: `with running_cloud(tmp_path / "cloud") as connection: …`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
from botocore.config import Config

T = TypeVar("T")

ROOT = Path(__file__).parent.parent.parent
STUB_NODE = (sys.executable, str(Path(__file__).parent / "stub_node.py"))
# Any free ports, and no waiting where nothing is to be seen by waiting.
QUICK = {
    "port": 0,
    "autoscaler_seconds": 0.05,
    "boot_seconds": 0.0,
    "poll_seconds": 0.05,
    "requests_per_minute": 100000,
}


def localcloud(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m localcloud --home HOME …` and give what it printed."""
    command = [sys.executable, "-m", "localcloud", "--home", str(home), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def write_settings(home: Path, **settings: Any) -> None:
    """Settings (localcloud.home.Settings) for the next start, those of QUICK where none are given."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.json").write_text(json.dumps(QUICK | settings))


def start_cloud(home: Path) -> dict[str, Any]:
    """Start it and give its connection."""
    done = localcloud(home, "start")
    assert done.returncode == 0, done.stderr
    return connection_of(home)


def connection_of(home: Path) -> dict[str, Any]:
    """HOME/connection.json."""
    connection: dict[str, Any] = json.loads((home / "connection.json").read_text())
    return connection


@contextlib.contextmanager
def running_cloud(home: Path, **settings: Any) -> Iterator[dict[str, Any]]:
    """A local cloud on `home`, with the settings given; yields its connection, ends it and its nodes.

    `node_command=STUB_NODE` has nodes that complete every job at once; `nodes=0` has none.
    """
    write_settings(home, **settings)
    try:
        yield start_cloud(home)
    finally:
        done = localcloud(home, "stop")
        assert done.returncode == 0, done.stderr


def s3_client(connection: dict[str, Any], attempts: int = 2) -> Any:
    """boto3 as the product uses it (UPSTREAM.md, R2); each request is sent at most `attempts` times."""
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
    """Requests below the project: `client.get("/containers")`."""
    salad = connection["salad"]
    base = f"{salad['url']}/organizations/{salad['organization']}/projects/{salad['project']}"
    return httpx.Client(base_url=base, headers={"Salad-Api-Key": salad["api_key"]}, timeout=30)


def kelpie_client(connection: dict[str, Any]) -> httpx.Client:
    """Requests to Kelpie with the account's key."""
    salad = connection["salad"]
    headers = {
        "Salad-Api-Key": salad["api_key"],
        "Salad-Organization": salad["organization"],
        "Salad-Project": salad["project"],
    }
    return httpx.Client(base_url=connection["kelpie"]["url"], headers=headers, timeout=30)


def requests_logged(connection: dict[str, Any]) -> list[dict[str, Any]]:
    """The request log."""
    return [json.loads(line) for line in Path(connection["request_log"]).read_text().splitlines()]


def until(look: Callable[[], T], seconds: float = 30.0) -> T:
    """What `look` gives once it is true. Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """True when there is such a process and it is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
