"""An S3 server for tests: nanio on a free port of 127.0.0.1, in a thread of the test process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
from nanio.app import build_app
from nanio.auth.credentials import StaticCredentialResolver
from nanio.config import Settings as NanioSettings


@dataclass(frozen=True)
class NanioServer:
    """A running server and the keys it accepts."""

    url: str
    region: str = "us-east-1"
    access_key: str = "test-key"
    secret_key: str = "test-secret"

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


@contextmanager
def running_s3_server(folder: Path) -> Iterator[NanioServer]:
    """A server whose buckets are folders below `folder`."""
    credentials = StaticCredentialResolver({NanioServer.access_key: NanioServer.secret_key})
    app = build_app(NanioSettings(data_dir=folder, credentials=credentials))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the S3 server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield NanioServer(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()
