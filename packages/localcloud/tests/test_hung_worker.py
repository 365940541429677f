"""What hangs the Kelpie worker, and how a node gets another machine (docs/services.md), seen on nodes of the local cloud."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from localcloud.testing import kelpie_client, running_cloud, salad_client, wait_until
from node_jobs import BUCKET, NodeBucket, ended, job_of, running_group, submit

FAIL_ONCE = (
    "import os, sys; p = {path!r}; done = os.path.exists(p); open(p, 'w').close(); sys.exit(0 if done else 1)"
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("hung") / "cloud"
    with running_cloud(home, nodes=4, heartbeat_seconds=0.2, poll_seconds=0.05) as running:
        yield running


class BrokenDownloads:
    """Forwards requests to S3, but ends each download of `a.bin` half-way, or sends nothing more after half of it."""

    def __init__(self, upstream: str, *, stall: bool) -> None:
        self.is_broken, self.closing = True, threading.Event()
        broken = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = {"Host": self.headers["Host"]}
                kept = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                answer = httpx.get(upstream + self.path, headers=kept | host)
                self.send_response(answer.status_code)
                for name in ("content-type", "etag"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                if not urlsplit(self.path).path.endswith("a.bin") or not broken.is_broken:
                    self.wfile.write(answer.content)
                    return
                self.wfile.write(answer.content[: len(answer.content) // 2])
                self.wfile.flush()
                if stall:
                    broken.closing.wait()
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def queue_download(cloud: dict[str, Any], group: str) -> str:
    entry = {"bucket": BUCKET, "prefix": "cut/", "local_path": "d/", "direction": "download"}
    return submit(cloud, group, ["python", "-c", "pass"], sync={"before": [entry]})


def machines(cloud: dict[str, Any], name: str) -> list[str]:
    with salad_client(cloud) as salad:
        found = salad.get(f"/containers/{name}/instances").raise_for_status().json()["instances"]
    return [one["machine_id"] for one in found]


def hang(cloud: dict[str, Any], group: str) -> str:
    """Queue a job whose download breaks; return its id once the node has sent heartbeats for a while."""
    identity = queue_download(cloud, group)
    wait_until(lambda: job_of(cloud, identity)["num_heartbeats"] > 8)
    assert (job_of(cloud, identity)["status"], job_of(cloud, identity)["num_failures"]) == ("running", 0)
    return identity


def test_a_cut_download_hangs_the_worker_until_its_job_is_canceled(cloud: dict[str, Any]) -> None:
    NodeBucket(cloud).put("cut/a.bin", bytes(100_000))
    proxy = BrokenDownloads(cloud["s3"]["url"], stall=False)
    with running_group(cloud, "cut", AWS_ENDPOINT_URL=proxy.url) as group, kelpie_client(cloud) as kelpie:
        identity = hang(cloud, group)
        (machine,) = machines(cloud, "cut")
        proxy.is_broken = False
        kelpie.delete(f"/jobs/{identity}").raise_for_status()
        # The container ends and is started again on the same machine.
        assert ended(cloud, queue_download(cloud, group))["machine_id"] == machine
    proxy.close()


def test_a_stalled_download_hangs_the_worker_until_its_instance_is_reallocated(cloud: dict[str, Any]) -> None:
    NodeBucket(cloud).put("cut/a.bin", bytes(100_000))
    proxy = BrokenDownloads(cloud["s3"]["url"], stall=True)
    with running_group(cloud, "stall", AWS_ENDPOINT_URL=proxy.url) as group, kelpie_client(cloud) as kelpie:
        beats = job_of(cloud, identity := hang(cloud, group))["num_heartbeats"]
        proxy.is_broken = False
        kelpie.delete(f"/jobs/{identity}").raise_for_status()
        following = queue_download(cloud, group)
        with salad_client(cloud) as salad:
            (instance,) = salad.get("/containers/stall/instances").json()["instances"]
            assert job_of(cloud, following)["status"] == "pending"
            path = f"/containers/stall/instances/{instance['id']}/reallocate"
            salad.post(path).raise_for_status()
        job = ended(cloud, following)
        assert (job["status"], beats > 8) == ("completed", True)
        assert job["machine_id"] != instance["machine_id"]
    proxy.close()


@pytest.mark.parametrize("seconds", ["1", "0"])
def test_a_machine_that_failed_a_job_is_replaced_only_if_the_worker_may_not_idle(
    cloud: dict[str, Any], tmp_path: Path, seconds: str
) -> None:
    name = f"barred{seconds}"
    with running_group(cloud, name, MAX_TIME_WITH_NO_WORK_S=seconds) as group:
        program = FAIL_ONCE.format(path=str(tmp_path / "failed"))
        identity = submit(cloud, group, ["python", "-c", program])
        wait_until(lambda: job_of(cloud, identity)["num_failures"] == 1)
        first = job_of(cloud, identity)["machine_id"]
        if seconds == "0":
            assert machines(cloud, name) == [first]
            return
        job = ended(cloud, identity)
        assert (job["status"], job["num_failures"]) == ("completed", 1)
        assert job["machine_id"] != first
