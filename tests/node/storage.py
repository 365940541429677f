"""The local cloud's S3 server on a folder: a file in ROOT/bucket/ is an object, and the other way round.

    python -m tests.node.storage ROOT

prints its address and serves until it is killed.
"""

import asyncio
import functools
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from localcloud.cloudflare.access_keys import AccessKeys
from localcloud.daemon.ports import QuietServer
from localcloud.database import open_database
from localcloud.home import HomeState
from localcloud.storage.app import build_storage

ACCESS_KEY_ID, SECRET_ACCESS_KEY = "node-key", "node-secret-key"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_REGION": "auto",
}


@dataclass(frozen=True)
class FolderStorage:
    """A running server."""

    root: Path
    url: str

    @property
    def environment(self) -> dict[str, str]:
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": self.url}


@functools.cache
def folder_storage() -> FolderStorage:
    """One server for all tests of this process, each of which uses a bucket of its own."""
    # With pytest's own folders, which the end of the session removes.
    root = Path(tempfile.mkdtemp(prefix="pytest-of-node-storage-")).resolve() / "buckets"
    root.mkdir()
    return serve(root)


def serve(root: Path) -> FolderStorage:
    """Serves `root` from a thread."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    database = open_database(root.with_name("keys.db"), any_thread=True)
    state = HomeState(ACCESS_KEY_ID, SECRET_ACCESS_KEY, salad_api_key="", user_id="")
    server = QuietServer(build_storage(root, state, AccessKeys(database, [ACCESS_KEY_ID]), 0))
    threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True).start()
    return FolderStorage(root, f"http://127.0.0.1:{listening.getsockname()[1]}")


if __name__ == "__main__":
    print(serve(Path(sys.argv[1])).url, flush=True)
    threading.Event().wait()
