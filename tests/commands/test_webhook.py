"""The webhook's receiver: garbage, floods, restarts, and one notice a change, with the local cloud's own calls."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from localcloud.testing import wait_until

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.kelpie import Job
from flux_training.commands.stack.engine import Engine
from flux_training.commands.watch.job_status import JobStatus
from flux_training.commands.webhook import server as receiving
from flux_training.commands.webhook.command import JobMonitor
from flux_training.commands.webhook.history import MAX_JOBS, NoticeHistory
from flux_training.commands.webhook.notice import (
    Notice,
    has_reported_end,
    is_unreported,
    notice_about_job,
    parse_stack_job,
)
from flux_training.commands.webhook.notifiers import (
    check_notify_address,
    notify_slack,
    run_command,
    split_command,
    without_secrets,
)
from flux_training.commands.webhook.server import JobIdQueue, WebhookServer, parse_job_id
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.runs.run_state import RunState
from tests.e2e.checkout import Checkout, asked, new_checkout

EVIL = "$(touch evil); `id` <!channel> & \x1b[2J"
NOTICE = Notice(
    "cat", "0123456789ab", "id-1", "completed", "", "20 steps", "loss 1 to 0", "57 min", "$0.43", "s3://b/m/"
)


@contextmanager
def receiver(inbox: JobIdQueue) -> Iterator[str]:
    made = WebhookServer("127.0.0.1", 0, inbox)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}/"
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


def post(url: str, content: bytes) -> int:
    return httpx.post(url, content=content, trust_env=False).status_code


def test_a_repeated_call_is_queued_once() -> None:
    inbox = JobIdQueue()
    with receiver(inbox) as url:
        call = json.dumps({"job_id": "abc-1", "status": "completed"}).encode()
        assert [post(url, call), post(url, call)] == [202, 202]
        assert httpx.get(url, trust_env=False).status_code == 200
    assert [inbox.get(0), inbox.get(0)] == ["abc-1", None]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 10000, 400),
        (b'{"job_id": 3}', 400),
        (b'{"job_id": "../../jobs"}', 400),
        (b'{"job_id": "' + b"a" * 65 + b'"}', 400),
        (b"\xff" * 100, 400),
        (b"x" * 20000, 413),
    ],
)
def test_an_invalid_body_is_refused(body: bytes, status: int) -> None:
    inbox = JobIdQueue()
    with receiver(inbox) as url:
        assert post(url, body) == status
    assert inbox.get(0) is None


@settings(deadline=None, max_examples=50)
@given(
    st.binary(max_size=200)
    | st.recursive(st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_other_body_contains_a_job_id(body: bytes) -> None:
    assert parse_job_id(body) is None


def test_a_full_queue_refuses_calls_until_it_has_room() -> None:
    inbox = JobIdQueue(max_ids=3)
    with receiver(inbox) as url:
        answers = [post(url, json.dumps({"job_id": f"j{number}"}).encode()) for number in range(6)]
        assert answers == [202, 202, 202, 503, 503, 503]
        assert inbox.get(0) == "j0"
        assert post(url, b'{"job_id": "j6"}') == 202


def test_idle_connections_do_not_block_other_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "REQUEST_SECONDS", 0.3)
    with receiver(JobIdQueue()) as url:
        address = ("127.0.0.1", httpx.URL(url).port or 0)
        silent = [socket.create_connection(address) for _ in range(receiving.MAX_CONNECTIONS + 8)]
        for one in silent[: receiving.MAX_CONNECTIONS]:
            one.sendall(b"POST / HTTP/1.1\r\nContent-Le")

        def is_accepted() -> bool:
            try:
                return post(url, b'{"job_id": "a"}') == 202
            except httpx.HTTPError:
                return False

        assert wait_until(is_accepted, 10)
        for one in silent:
            one.close()


def test_the_history_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "told.json"
    history = NoticeHistory(path)
    assert history.is_new
    history.add("id-1", "running")
    again = NoticeHistory(path)
    assert (again.is_new, again.statuses) == (False, {"id-1": ["running"]})
    assert not is_unreported(replace(NOTICE, status="running"), again.statuses)
    assert is_unreported(NOTICE, again.statuses)


def test_the_history_is_limited(tmp_path: Path) -> None:
    history = NoticeHistory(tmp_path / "told.json")
    history.record_baseline({f"id-{number}": "completed" for number in range(MAX_JOBS + 10)})
    history.add("id-new", "running")
    assert (len(history.statuses), list(history.statuses)[-1]) == (MAX_JOBS, "id-new")


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "told": [1]}'])
def test_a_file_that_is_not_a_history_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "told.json"
    path.write_text(text)
    with pytest.raises(FluxError, match="delete it"):
        NoticeHistory(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("before", "status", "news"),
    [
        ([], "running", True),
        ([], "completed", True),
        (["running"], "running", False),
        (["running"], "failed", True),
        (["completed"], "running", False),
        (["stalled"], "running", False),
        (["stalled"], "completed", True),
    ],
)
def test_each_change_is_reported_once_and_a_start_not_after_the_end(
    before: list[str], status: str, news: bool
) -> None:
    notice = replace(NOTICE, status=status)
    assert is_unreported(notice, {"id-1": before}) == news
    assert has_reported_end(["running"]) is False
    assert has_reported_end(["running", "completed"])


def queue_job(status: str, **more: Any) -> Job:
    rule = {
        "bucket": "b",
        "prefix": "runs/cat/0123456789ab/output/",
        "local_path": "o",
        "direction": "upload",
    }
    environment = {"FLUX_JOB": "cat", "FLUX_RUN_ID": "0123456789ab"}
    raw: dict[str, Any] = {
        "id": "id-1",
        "container_group_id": "g",
        "status": status,
        "environment": environment,
    }
    return Job.model_validate({**raw, "sync": {"during": [rule]}, **more})


def test_only_training_jobs_of_this_stack_are_recognised() -> None:
    known = parse_stack_job(queue_job("running"), "b", "runs/")
    assert known is not None
    assert (known.name, known.keys.done) == ("cat", "runs/cat/0123456789ab/model/done.json")
    assert parse_stack_job(queue_job("running"), "another", "runs/") is None
    assert parse_stack_job(queue_job("running"), "b", "team/runs/") is None
    assert parse_stack_job(queue_job("running", environment={}), "b", "runs/") is None


def test_a_notice_is_made_from_the_status_of_the_job() -> None:
    job = queue_job("running")
    known = parse_stack_job(job, "b", "runs/")
    assert known is not None
    # The weights exist, but the worker has not reported the end yet.
    assert notice_about_job(JobStatus(known, RunState.COMPLETED, queue_job=job), "b", None) is None
    assert notice_about_job(JobStatus(known, RunState.PENDING, queue_job=job), "b", None) is None
    told = notice_about_job(JobStatus(known, RunState.WITHOUT_WEIGHTS, "the bucket has none"), "b", None)
    assert told is not None
    assert told.text() == "cat: completed without weights: the bucket has none (run 0123456789ab)"


def test_markup_and_shell_syntax_in_a_name_have_no_effect(tmp_path: Path) -> None:
    evil = replace(NOTICE, job=EVIL, status="failed", reason=EVIL)
    slack = SlackServer()
    notify_slack(slack.url, evil)
    slack.close()
    assert "<" not in slack.posted[0]
    assert "&lt;!channel&gt;" in slack.posted[0]
    script = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    os.environ["FLUX_S3_SECRET_ACCESS_KEY"] = "s3cret"
    try:
        run_command([sys.executable, "-c", script, str(tmp_path / "seen")], evil)
    finally:
        del os.environ["FLUX_S3_SECRET_ACCESS_KEY"]
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["FLUX_NOTICE_JOB"] == EVIL.replace("\x1b", "?")
    assert "FLUX_S3_SECRET_ACCESS_KEY" not in seen
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]


def test_the_command_gets_no_keys() -> None:
    keys = [
        "SALAD_API_KEY",
        "PULUMI_CONFIG_PASSPHRASE",
        "FLUX_NOTIFY_URL",
        "OPENAI_API_KEY",
        "PULUMI_ACCESS_TOKEN",
    ]
    assert without_secrets({"PATH": "x", **dict.fromkeys(keys, "k")}) == {"PATH": "x"}


@pytest.mark.parametrize("command", ["", "  ", "echo 'open"])
def test_an_empty_or_unparsable_command_is_refused(command: str) -> None:
    with pytest.raises(BadInput):
        split_command(command)


@pytest.mark.parametrize(
    "words", [["no-such-program-of-ours"], [sys.executable, "-c", "raise SystemExit(3)"]]
)
def test_a_failing_command_is_an_error(words: list[str]) -> None:
    with pytest.raises(FluxError, match="fix the command"):
        run_command(words, NOTICE)


@pytest.mark.parametrize("url", ["hooks.example", "ftp://x", "http://", ""])
def test_an_invalid_address_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_notify_address(url)
    assert not url or url not in str(caught.value).replace("http:// or https://", "")


class SlackServer(HTTPServer):
    """Records what is posted; answers `status`, but 500 to the first `failures` requests."""

    def __init__(self, status: int = 200, failures: int = 0) -> None:
        self.status, self.failures, self.posted = status, failures, list[str]()
        super().__init__(("127.0.0.1", 0), SlackHandler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0/s3cret"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class SlackHandler(BaseHTTPRequestHandler):
    server: SlackServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        failing = self.server.failures > 0
        self.server.failures -= 1
        if not failing:
            self.server.posted.append(json.loads(body)["text"])
        self.send_response(500 if failing else self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


def test_a_failed_post_is_retried_and_errors_do_not_contain_the_address() -> None:
    failing, refusing = SlackServer(failures=1), SlackServer(status=403)
    notify_slack(failing.url, NOTICE)
    assert failing.posted == ["cat: finished, 20 steps, loss 1 to 0, 57 min, $0.43; weights in s3://b/m/"]
    with pytest.raises(FluxError, match="403") as caught:
        notify_slack(refusing.url, NOTICE)
    assert "s3cret" not in str(caught.value)
    failing.close()
    refusing.close()


@contextmanager
def serving(
    checkout: Checkout, *arguments: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`flux webhook serve` in a checkout: its address and its process."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flux_training.commands", "webhook", "serve", *arguments],
        cwd=checkout.root,
        env={**checkout.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert "Listening at http://" in line, line + process.stdout.read()
    try:
        yield line.split()[2], process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@contextmanager
def job_is_read(checkout: Checkout, job_id: str) -> Iterator[None]:
    """Wait at the end until the queue has been asked for the job since the beginning."""
    before = len(checkout.requests())
    yield
    wait_until(lambda: asked(checkout.requests()[before:], "kelpie", "GET", f"/jobs/{job_id}"))


@pytest.mark.long
def test_each_change_causes_one_notice_also_after_a_restart(tmp_path: Path) -> None:
    slack = SlackServer()
    with new_checkout(tmp_path / "checkout") as checkout:
        checkout.declare(cat={})
        checkout.make("cloud")
        script = "import os; print(os.environ['FLUX_NOTICE_STATUS'], file=open('told.txt', 'a'))"
        command = f'{sys.executable} -c "{script}"'
        with serving(checkout, "--port", "0", "--command", command, FLUX_NOTIFY_URL=slack.url) as (url, _):
            checkout.configure("webhook", url)
            checkout.make("up")
            wait_until(lambda: any("finished" in text for text in slack.posted))
            job_id = checkout.outputs()["jobs"]["cat"]["kelpieId"]
            # False calls: the job did not fail, and one job does not exist.
            with job_is_read(checkout, job_id), job_is_read(checkout, "unknown"):
                for body in [{"job_id": job_id, "status": "failed"}] * 20 + [{"job_id": "unknown"}]:
                    assert httpx.post(url, json=body, trust_env=False).status_code == 202
        assert [text.split(":")[0] for text in slack.posted] == ["cat", "cat"]
        assert "training has started" in slack.posted[0]
        assert (checkout.root / "told.txt").read_text().split() == ["running", "completed"]
        with (
            serving(checkout, "--port", "0", FLUX_NOTIFY_URL=slack.url) as (url, _),
            job_is_read(checkout, job_id),
        ):
            assert httpx.post(url, json={"job_id": job_id}, trust_env=False).status_code == 202
        assert len(slack.posted) == 2
    slack.close()


class FakeQueueAndBucket:
    """A queue and an empty bucket."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = jobs
        self.away = False

    def kelpie(self) -> FakeQueueAndBucket:
        return self

    def storage(self, _bucket: str) -> FakeQueueAndBucket:
        return self

    def list_jobs(self, _group: str) -> list[Job]:
        if self.away:
            raise ServiceError("no answer from kelpie")
        return list(self.jobs)

    def get_job(self, kelpie_id: str) -> Job:
        return next(job for job in self.jobs if job.id == kelpie_id)

    def get_range(self, _key: str, _start: int, _length: int) -> bytes:
        return b""

    def head(self, _key: str) -> None:
        return None

    def list(self, _prefix: str) -> tuple[()]:
        return ()


def monitor_of(services: FakeQueueAndBucket, folder: Path, prefix: str = "") -> tuple[JobMonitor, list[str]]:
    """A monitor, and the ids of the jobs of which it sends a notice."""
    outputs = {"bucket": "b", "prefix": prefix, "containerGroup": {"id": "g"}}
    engine = SimpleNamespace(outputs=lambda: outputs)
    told: list[str] = []
    notifiers = [lambda notice: told.append(notice.kelpie_id)]
    history = NoticeHistory(folder / "told.json")
    return JobMonitor(cast(Engine, engine), cast(Connection, services), history, notifiers), told


def test_old_jobs_are_not_reported_although_the_first_check_failed(tmp_path: Path) -> None:
    services = FakeQueueAndBucket(*[queue_job("failed", id=name) for name in ("new", "old-1", "old-2")])
    monitor, told = monitor_of(services, tmp_path)
    services.away = True
    for check in (monitor.check_all, lambda: monitor.check("new")):
        with pytest.raises(ServiceError):
            check()
    services.away = False
    monitor.check("new")
    monitor.check_all()
    assert told == ["new"]


def test_a_job_of_another_stack_in_the_same_bucket_is_not_reported(tmp_path: Path) -> None:
    services = FakeQueueAndBucket(queue_job("failed", id="new"))
    monitor, told = monitor_of(services, tmp_path, prefix="team/")
    monitor.check("new")
    assert told == []
