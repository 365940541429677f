"""`python -m localcloud start | stop | status`."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud.testing import is_alive, run_localcloud, start_cloud, wait_until, write_settings


def connection_of(home: Path) -> dict[str, Any]:
    connection: dict[str, Any] = json.loads((home / "connection.json").read_text())
    return connection


@pytest.fixture
def home(tmp_path: Path):
    folder = tmp_path / "cloud"
    write_settings(folder, nodes=0)
    yield folder
    run_localcloud(folder, "stop")


def test_start_returns_when_all_services_answer_and_prints_the_address(home: Path) -> None:
    started = run_localcloud(home, "start")
    assert (started.returncode, started.stderr) == (0, "")
    connection = connection_of(home)
    assert connection["page"] in started.stdout
    assert httpx.get(connection["page"]).status_code == 200
    assert httpx.get(connection["s3"]["url"]).status_code == 403
    secret = ("connection.json", "state.json", "cloud.db", "cloud.db-wal", "requests.jsonl")
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in secret} == {0o600}

    shown = run_localcloud(home, "status", "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout) == connection
    services = {"s3", "salad", "kelpie", "cloudflare"}
    assert set(connection) == {"version", "running", "pid", "page", "request_log", *services}
    for_people = run_localcloud(home, "status").stdout
    assert connection["salad"]["api_key"] not in for_people
    assert connection["s3"]["secret_access_key"] not in for_people


def test_a_second_start_finds_the_running_daemon(home: Path) -> None:
    first = start_cloud(home)
    again = run_localcloud(home, "start")
    assert again.returncode == 0
    assert "local cloud already running: http://127.0.0.1:" in again.stdout
    assert connection_of(home) == first


def test_concurrent_starts_start_one_daemon(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_localcloud(home, "start"), range(4)))
    assert [one.returncode for one in done] == [0] * 4
    assert sum("already" not in one.stdout for one in done) == 1
    assert (home / "log" / "cloud.log").read_text().count("running, pid") == 1


def test_status_and_stop_when_it_does_not_run(home: Path) -> None:
    shown = run_localcloud(home, "status", "--json")
    assert shown.returncode == 3
    assert json.loads(shown.stdout)["running"] is False
    stopped = run_localcloud(home, "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "not running\n")
    assert run_localcloud(home.parent / "never-made", "stop").returncode == 0
    assert not (home.parent / "never-made").exists()


def test_stop_ends_it_and_a_restart_keeps_ports_and_keys(home: Path) -> None:
    first = start_cloud(home)
    assert run_localcloud(home, "stop").stdout == "stopped\n"
    assert not is_alive(first["pid"])
    assert not (home / "connection.json").exists()
    second = start_cloud(home)
    assert {**second, "pid": 0} == {**first, "pid": 0}


def test_a_killed_daemon_is_not_running(home: Path) -> None:
    first = start_cloud(home)
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(first["pid"]))
    assert run_localcloud(home, "status").returncode == 3
    # A pid in the lock file that belongs to another process must not be signalled.
    (home / "daemon.lock").write_text(f"{os.getpid()}\n")
    assert run_localcloud(home, "stop").stdout == "not running\n"
    assert {**start_cloud(home), "pid": 0} == {**first, "pid": 0}


def test_a_used_port_is_named_with_a_solution(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_localcloud(home, "--port", str(port), "start")
    assert done.returncode == 4
    assert f"port {port} " in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert run_localcloud(home, "status").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--port", "70000", "start"), 4, "70000"),
        (("--port", "x", "start"), 2, "invalid int value: 'x'"),
        (("start", "--boot-seconds", "-1"), 2, "--boot-seconds is -1.0"),
        ((), 2, "command"),
    ],
)
def test_wrong_arguments_are_named_in_the_error(
    home: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run_localcloud(home, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_localcloud(tmp_path / "file" / "cloud", "start")
    assert done.returncode == 1
    assert str(tmp_path / "file" / "cloud") in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_kept_until_given_again(home: Path) -> None:
    run_localcloud(home, "start", "--nodes", "7", "--heartbeat-seconds", "0.5")
    told = run_localcloud(home, "start", "--nodes", "8")
    assert "next start" in told.stdout
    kept = json.loads((home / "settings.json").read_text())
    assert (kept["nodes"], kept["heartbeat_seconds"], kept["boot_seconds"]) == (8, 0.5, 0.0)


def test_it_outlives_the_session_that_started_it(home: Path) -> None:
    command = [sys.executable, "-m", "localcloud", "--home", str(home), "start"]
    starter = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    assert starter.wait(30) == 0
    pid = connection_of(home)["pid"]
    assert os.getsid(pid) == pid
