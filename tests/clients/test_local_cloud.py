"""Which local cloud a command uses: that of its folder, or the one that FLUX_LOCAL_CLOUD names."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flux_training.clients.errors import Unavailable
from flux_training.clients.local_cloud import connect_and_start_local_cloud, ensure_local_cloud
from tests.clients.test_connection import LOCAL


class EmptyPage(BaseHTTPRequestHandler):
    """What answers at the address of a local cloud that runs elsewhere."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a running local cloud."""
    with HTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def named(folder: Path, page: str) -> dict[str, str]:
    path = folder / "connection.json"
    path.write_text(json.dumps(LOCAL | {"page": page}))
    return {"FLUX_LOCAL_CLOUD": str(path)}


def test_no_second_cloud_is_started_beside_the_named_one(
    elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = named(tmp_path, elsewhere)
    ensure_local_cloud(environ)
    assert connect_and_start_local_cloud("local", {}, environ, "s3").page == elsewhere
    assert not Path(".localcloud").exists()


def test_a_named_cloud_that_does_not_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        page = f"http://127.0.0.1:{server.getsockname()[1]}/"
    for environ in (named(tmp_path, page), {"FLUX_LOCAL_CLOUD": "nowhere.json"}):
        with pytest.raises(
            Unavailable, match=r"the environment variable FLUX_LOCAL_CLOUD selects it.*unset FLUX_LOCAL_CLOUD"
        ):
            ensure_local_cloud(environ)
        with pytest.raises(Unavailable, match=r"unset FLUX_LOCAL_CLOUD"):
            connect_and_start_local_cloud("local", {}, environ, "s3")
    assert not Path(".localcloud").exists()
