"""The webhook's receiver: garbage, floods, restarts, and one notice a change, with the local cloud's own calls."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from flux_training.commands.watch.job_status import Sight
from flux_training.commands.webhook import server as receiving
from flux_training.commands.webhook.command import Lookout
from flux_training.commands.webhook.memory import MOST_JOBS, Memory
from flux_training.commands.webhook.notice import (
    Notice,
    is_news,
    is_settled,
    notice_of,
    slack_body,
    stack_job,
)
from flux_training.commands.webhook.server import Inbox, Receiver, job_id_of
from flux_training.commands.webhook.tellers import (
    check_address,
    clean_environment,
    command_words,
    tell_command,
    tell_slack,
)
from flux_training.training.errors import BadInput, FluxError
from tests.e2e.checkout import Checkout, new_checkout

EVIL = "$(touch evil); `id` <!channel> & \x1b[2J"
NOTICE = Notice(
    "cat", "0123456789ab", "id-1", "completed", "", "20 steps", "loss 1 to 0", "57 min", "$0.43", "s3://b/m/"
)


@contextmanager
def receiver(inbox: Inbox) -> Iterator[str]:
    made = Receiver("127.0.0.1", 0, inbox)
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


def test_a_call_is_answered_at_once_and_kept_once() -> None:
    inbox = Inbox()
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
def test_garbage_is_refused(body: bytes, status: int) -> None:
    inbox = Inbox()
    with receiver(inbox) as url:
        assert post(url, body) == status
    assert inbox.get(0) is None


@settings(deadline=None, max_examples=50)
@given(
    st.binary(max_size=200)
    | st.recursive(st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_body_makes_it_stumble(body: bytes) -> None:
    assert job_id_of(body) is None


def test_a_flood_is_bounded_and_the_next_call_is_heard() -> None:
    inbox = Inbox(most=3)
    with receiver(inbox) as url:
        answers = [post(url, json.dumps({"job_id": f"j{number}"}).encode()) for number in range(6)]
        assert answers == [202, 202, 202, 503, 503, 503]
        assert inbox.get(0) == "j0"
        assert post(url, b'{"job_id": "j6"}') == 202


def test_callers_that_say_nothing_do_not_shut_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "REQUEST_SECONDS", 0.3)
    with receiver(Inbox()) as url:
        address = ("127.0.0.1", httpx.URL(url).port or 0)
        silent = [socket.create_connection(address) for _ in range(receiving.MOST_CONNECTIONS + 8)]
        for one in silent[: receiving.MOST_CONNECTIONS]:
            one.sendall(b"POST / HTTP/1.1\r\nContent-Le")

        def heard() -> bool:
            try:
                return post(url, b'{"job_id": "a"}') == 202
            except httpx.HTTPError:
                return False

        assert wait_until(heard, 10)
        for one in silent:
            one.close()


def test_what_was_told_is_remembered_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "told.json"
    memory = Memory(path)
    assert memory.fresh
    memory.note("id-1", "running")
    again = Memory(path)
    assert (again.fresh, again.told) == (False, {"id-1": ["running"]})
    assert not is_news(NOTICE.__class__(**{**vars(NOTICE), "status": "running"}), again.told)
    assert is_news(NOTICE, again.told)


def test_the_memory_does_not_grow_for_ever(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "told.json")
    memory.begin_with({f"id-{number}": "completed" for number in range(MOST_JOBS + 10)})
    memory.note("id-new", "running")
    assert (len(memory.told), list(memory.told)[-1]) == (MOST_JOBS, "id-new")


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "told": [1]}'])
def test_a_file_that_is_no_memory_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "told.json"
    path.write_text(text)
    with pytest.raises(FluxError, match="delete it"):
        Memory(path)
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
def test_each_change_is_news_once_and_a_beginning_after_the_end_is_none(
    before: list[str], status: str, news: bool
) -> None:
    notice = NOTICE.__class__(**{**vars(NOTICE), "status": status})
    assert is_news(notice, {"id-1": before}) == news
    assert is_settled(["running"]) is False
    assert is_settled(["running", "completed"])


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


def test_only_a_training_job_of_this_stack_is_considered() -> None:
    known = stack_job(queue_job("running"), "b", "runs/")
    assert known is not None
    assert (known.name, known.keys.done) == ("cat", "runs/cat/0123456789ab/model/done.json")
    assert stack_job(queue_job("running"), "another", "runs/") is None
    assert stack_job(queue_job("running"), "b", "team/runs/") is None
    assert stack_job(queue_job("running", environment={}), "b", "runs/") is None


def test_what_is_told_is_what_was_seen_and_not_what_was_called() -> None:
    job = queue_job("running")
    known = stack_job(job, "b", "runs/")
    assert known is not None
    # The weights are there, the worker has not reported yet: nothing is told of it.
    assert notice_of(Sight(known, "completed", "", {}, job), "b", None) is None
    assert notice_of(Sight(known, "pending", "", {}, job), "b", None) is None
    told = notice_of(Sight(known, "completed without weights", "none lie there", {}, None), "b", None)
    assert told is not None
    assert told.text() == "cat: completed without weights: none lie there (run 0123456789ab)"


def test_a_name_that_would_be_markup_or_a_command_is_neither(tmp_path: Path) -> None:
    evil = NOTICE.__class__(**{**vars(NOTICE), "job": EVIL, "status": "failed", "reason": EVIL})
    assert "<" not in slack_body(evil)["text"]
    assert "&lt;!channel&gt;" in slack_body(evil)["text"]
    script = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    os.environ["FLUX_S3_SECRET_ACCESS_KEY"] = "s3cret"
    try:
        tell_command([sys.executable, "-c", script, str(tmp_path / "seen")], evil)
    finally:
        del os.environ["FLUX_S3_SECRET_ACCESS_KEY"]
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["FLUX_NOTICE_JOB"] == EVIL.replace("\x1b", "?")
    assert "FLUX_S3_SECRET_ACCESS_KEY" not in seen
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]


def test_keys_do_not_reach_the_command() -> None:
    keys = [
        "SALAD_API_KEY",
        "PULUMI_CONFIG_PASSPHRASE",
        "FLUX_NOTIFY_URL",
        "OPENAI_API_KEY",
        "PULUMI_ACCESS_TOKEN",
    ]
    assert clean_environment({"PATH": "x", **dict.fromkeys(keys, "k")}) == {"PATH": "x"}


@pytest.mark.parametrize("command", ["", "  ", "echo 'open"])
def test_a_command_that_is_none_is_refused(command: str) -> None:
    with pytest.raises(BadInput):
        command_words(command)


@pytest.mark.parametrize(
    "words", [["no-such-program-of-ours"], [sys.executable, "-c", "raise SystemExit(3)"]]
)
def test_a_command_that_fails_is_told(words: list[str]) -> None:
    with pytest.raises(FluxError, match="mend the command"):
        tell_command(words, NOTICE)


@pytest.mark.parametrize("url", ["hooks.example", "ftp://x", "http://", ""])
def test_an_address_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_address(url)
    assert not url or url not in str(caught.value).replace("http:// or https://", "")


class Slack(HTTPServer):
    """Notes what is posted; answers with `status`, the first `failures` times with 500."""

    def __init__(self, status: int = 200, failures: int = 0) -> None:
        self.status, self.failures, self.posted = status, failures, list[str]()
        super().__init__(("127.0.0.1", 0), _SlackHandler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0/s3cret"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _SlackHandler(BaseHTTPRequestHandler):
    server: Slack

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


def test_a_notify_address_that_stumbles_is_told_again_and_its_secret_is_in_no_text() -> None:
    stumbling, refusing = Slack(failures=1), Slack(status=403)
    tell_slack(stumbling.url, NOTICE)
    assert stumbling.posted == ["cat: finished, 20 steps, loss 1 to 0, 57 min, $0.43; weights in s3://b/m/"]
    with pytest.raises(FluxError, match="403") as caught:
        tell_slack(refusing.url, NOTICE)
    assert "s3cret" not in str(caught.value)
    stumbling.close()
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


def test_the_local_clouds_calls_end_in_one_notice_a_change_also_over_a_restart(tmp_path: Path) -> None:
    slack = Slack()
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
            # Somebody says that it failed, again and again, and things that are none.
            for body in [{"job_id": job_id, "status": "failed"}] * 20 + [{"job_id": "unknown"}]:
                assert httpx.post(url, json=body, trust_env=False).status_code == 202
            time.sleep(0.5)
        assert [text.split(":")[0] for text in slack.posted] == ["cat", "cat"]
        assert "training has begun" in slack.posted[0]
        assert (checkout.root / "told.txt").read_text().split() == ["running", "completed"]
        with serving(checkout, "--port", "0", FLUX_NOTIFY_URL=slack.url) as (url, _):
            assert httpx.post(url, json={"job_id": job_id}, trust_env=False).status_code == 202
            time.sleep(1)
        assert len(slack.posted) == 2
    slack.close()


class Services:
    """The queue, and a bucket with nothing in it."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = jobs
        self.away = False

    def kelpie(self) -> Services:
        return self

    def storage(self, _bucket: str) -> Services:
        return self

    def list_jobs(self, _group: str) -> list[Job]:
        if self.away:
            raise ServiceError("no answer from kelpie")
        return list(self.jobs)

    def get_job(self, kelpie_id: str) -> Job:
        return next(job for job in self.jobs if job.id == kelpie_id)

    def get_range(self, _key: str, _start: int, _length: int) -> bytes:
        return b""

    def list(self, _prefix: str) -> tuple[()]:
        return ()


def lookout(services: Services, folder: Path, prefix: str = "") -> tuple[Lookout, list[str]]:
    """It, and the ids of the jobs that it tells of."""
    outputs = {"bucket": "b", "prefix": prefix, "containerGroup": {"id": "g"}}
    engine = SimpleNamespace(outputs=lambda: outputs)
    told: list[str] = []
    tellers = [lambda notice: told.append(notice.kelpie_id)]
    memory = Memory(folder / "told.json")
    return Lookout(cast(Engine, engine), cast(Connection, services), memory, tellers), told


def test_after_a_first_round_that_failed_old_ends_are_no_news(tmp_path: Path) -> None:
    services = Services(*[queue_job("failed", id=name) for name in ("new", "old-1", "old-2")])
    watch, told = lookout(services, tmp_path)
    services.away = True
    for look in (watch.look_at_all, lambda: watch.look_at("new")):
        with pytest.raises(ServiceError):
            look()
    services.away = False
    watch.look_at("new")
    watch.look_at_all()
    assert told == ["new"]


def test_a_job_of_another_stack_in_the_same_bucket_is_not_told(tmp_path: Path) -> None:
    services = Services(queue_job("failed", id="new"))
    watch, told = lookout(services, tmp_path, prefix="team/")
    watch.look_at("new")
    assert told == []
