"""`python -m localcloud [--home DIR] [--port N] start | stop | status [--json] | chaos …`: a cloud on this machine.

    start    start it in the background (already running: says so); `start --help` lists the settings
    stop     end its nodes and itself
    status   how to reach it; with --json for programs
    chaos    make something go wrong; `chaos --help` lists what

Exit codes: 0 done; 1 it did not work; 2 wrong usage; 3 `status` and it is not running; 4 a port that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from localcloud import lifecycle
from localcloud.chaos import command as chaos
from localcloud.home import DEFAULT_PORT, EXIT_FAILED, EXIT_PORT, Home, HomeError

EXIT_NOT_RUNNING = 3

# name, type, help; unset means: as last given, at first the default in localcloud/home.py
SETTINGS = (
    ("autoscaler-seconds", float, "period of Kelpie's autoscaler (real: 300; default 2)"),
    ("heartbeat-seconds", float, "cap on the jobs' heartbeat intervals; 0: none, as the job says (default)"),
    ("step-seconds", float, "least time a training step takes (default 0)"),
    ("boot-seconds", float, "time to allocate a machine and download the image (default 0.5)"),
    ("poll-seconds", float, "how often a node asks for work (default 1)"),
    ("nodes", int, "machines there are; more replicas wait (default 2)"),
    ("quota", int, "SaladCloud's limit on replicas (default 100)"),
    ("requests-per-minute", int, "SaladCloud's limit on requests (default 240)"),
    ("key-write-seconds", float, "R2's least time between two writes of one key; 0: none (default 1)"),
    ("stop-grace-seconds", float, "time a node has to end before it is killed (default 10)"),
    ("work-race-seconds", float, "gap in which one job can reach two nodes (default 0)"),
)


def parser() -> argparse.ArgumentParser:
    """The command line. `--home` and `--port` may stand before or after the command."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--home", type=Path, help="its folder (default .localcloud)")
    shared.add_argument(
        "--port", type=int, help=f"port of the APIs, S3 is the next one; 0: any (default {DEFAULT_PORT})"
    )
    top = argparse.ArgumentParser(prog="localcloud", description="A cloud on this machine.", parents=[shared])
    commands = top.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start", help="start it in the background", parents=[shared])
    for name, kind, text in SETTINGS:
        begin.add_argument(f"--{name}", type=kind, help=text, default=argparse.SUPPRESS)
    begin.add_argument(
        "--ban-machines",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="never give a job again to a machine that failed it, as Kelpie (default no)",
    )
    begin.add_argument(
        "--kelpie-invited",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="Kelpie's user is in the organization, so that its autoscaler can work (default yes)",
    )
    commands.add_parser("stop", help="end its nodes and itself", parents=[shared])
    look = commands.add_parser("status", help="how to reach it", parents=[shared])
    look.add_argument("--json", action="store_true", help="as JSON")
    chaos.add_to(commands, shared)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Gives the exit code."""
    given = vars(parser().parse_args(arguments))
    command, as_json = given.pop("command"), given.pop("json", False)
    home = Home(given.pop("home", Path(".localcloud")))
    try:
        if command == "start":
            return start(home, given)
        if command == "chaos":
            print(chaos.run(home, given))
            return 0
        if command == "stop":
            print("stopped" if lifecycle.stop(home) else "not running")
            return 0
        return show(lifecycle.status(home), as_json)
    except lifecycle.DaemonError as error:
        return complain(str(error), error.exit_code)
    except (HomeError, chaos.ChaosError) as error:
        return complain(str(error), EXIT_FAILED)


def start(home: Home, changes: dict[str, Any]) -> int:
    """Start it, once the settings are in order."""
    port = changes.get("port", 0)
    if not 0 <= port < 65535:
        return complain(f"port {port} is not from 0 to 65534; choose another with --port N", EXIT_PORT)
    for name, value in changes.items():
        if value < 0:
            option = name.replace("_", "-")
            return complain(f"--{option} is {value}; it must not be negative", 2)
    if changes.get("heartbeat_seconds") == 0:
        changes["heartbeat_seconds"] = None
    connection, started = lifecycle.start(home, changes)
    state = "running" if started else "already running"
    print(
        f"local cloud {state}; its page is {connection['page']} (pid {connection['pid']}, home {home.path})"
    )
    if changes and not started:
        print("settings given now are kept and taken at its next start")
    return 0


def show(status: dict[str, Any], as_json: bool) -> int:
    """Print what `status` found. Without --json no key is shown."""
    if as_json:
        print(json.dumps(status, indent=1))
    elif status["running"]:
        print(f"running: {status['page']} (pid {status['pid']})")
        print(f"s3 {status['s3']['url']}\nsalad {status['salad']['url']}\nkelpie {status['kelpie']['url']}")
    else:
        print(f"not running: start it with `python -m localcloud --home {status['home']} start`")
    return 0 if status["running"] else EXIT_NOT_RUNNING


def complain(message: str, code: int) -> int:
    """Say what is wrong, give the exit code."""
    print(f"localcloud: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
