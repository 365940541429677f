"""The command line: `python -m localcloud [--home DIR] [--port N] start | stop | status [--json] | chaos …`.

    start    start in the background, unless it already runs; `start --help` lists the settings
    stop     stop the nodes and the cloud
    status   print the addresses; with --json for programs
    chaos    cause faults; `chaos --help` lists them

Exit codes: 0 success; 1 failure; 2 wrong usage; 3 not running (`status` only); 4 a port cannot be used.
"""

import argparse
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from localcloud import lifecycle
from localcloud.chaos import command as chaos
from localcloud.home import DEFAULT_PORT, EXIT_FAILED, EXIT_PORT, Home, HomeError, start_command

EXIT_NOT_RUNNING = 3

# The name, type and help text of each option of `start`. An option that is not given keeps its previous
# value; localcloud/home.py has the defaults.
SETTINGS = (
    ("autoscaler-seconds", float, "period of Kelpie's autoscaler (real: 300; default 2)"),
    ("heartbeat-seconds", float, "upper limit for the jobs' heartbeat intervals; 0: no limit (default)"),
    ("idle-seconds", float, "upper limit for MAX_TIME_WITH_NO_WORK_S of nodes; 0: no limit (default 10)"),
    ("step-seconds", float, "minimum duration of a training step (default 0)"),
    ("boot-seconds", float, "time to allocate a machine and download the image (default 0.5)"),
    ("poll-seconds", float, "how often a node asks for work (default 1)"),
    ("nodes", int, "number of machines; more replicas wait in `allocating` (default 2)"),
    ("quota", int, "SaladCloud's limit on replicas (default 100)"),
    ("requests-per-minute", int, "SaladCloud's limit on requests (default 240)"),
    ("key-write-seconds", float, "R2's minimum time between two writes of one key; 0: none (default 1)"),
    ("stop-grace-seconds", float, "time that a node has to end before it is killed (default 10)"),
    ("work-race-seconds", float, "time window in which one job can be handed to two nodes (default 0)"),
)
SWITCHES = (
    ("ban-machines", "like Kelpie, never give a job to a machine again that failed it (default yes)"),
    ("kelpie-invited", "Kelpie's user is in the organization, which its autoscaler needs (default yes)"),
)


def parser() -> argparse.ArgumentParser:
    """The argument parser. `--home` and `--port` are accepted before and after the command."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--home", type=Path, help="folder of the local cloud (default .localcloud)")
    shared.add_argument(
        "--port",
        type=int,
        help=f"port of the APIs; S3 uses the next one; 0: any (default {DEFAULT_PORT}, or any if it is used)",
    )
    top = argparse.ArgumentParser(prog="localcloud", description="A cloud on this machine.", parents=[shared])
    commands = top.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start it in the background", parents=[shared])
    for name, kind, text in SETTINGS:
        start.add_argument(f"--{name}", type=kind, help=text, default=argparse.SUPPRESS)
    for name, text in SWITCHES:
        action = argparse.BooleanOptionalAction
        start.add_argument(f"--{name}", action=action, help=text, default=argparse.SUPPRESS)
    commands.add_parser("stop", help="stop the nodes and the cloud", parents=[shared])
    status = commands.add_parser("status", help="print the addresses", parents=[shared])
    status.add_argument("--json", action="store_true", help="as JSON")
    chaos.add_chaos_command(commands, shared)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = vars(parser().parse_args(arguments))
    command, as_json = options.pop("command"), options.pop("json", False)
    home = Home(options.pop("home", Path(".localcloud")))
    try:
        if command == "start":
            return start(home, options)
        if command == "chaos":
            print(chaos.run_chaos_command(home, options))
            return 0
        if command == "stop":
            print("stopped" if lifecycle.stop_cloud(home) else "not running")
            return 0
        return show(lifecycle.cloud_status(home), as_json)
    except lifecycle.DaemonError as error:
        return fail(str(error), error.exit_code)
    except (HomeError, chaos.ChaosError) as error:
        return fail(str(error), EXIT_FAILED)
    except (OSError, sqlite3.Error) as error:
        return fail(
            f"{error}; {home.path.resolve()} must be writable, on a disk with free space", EXIT_FAILED
        )


def start(home: Home, changes: dict[str, Any]) -> int:
    """Check the settings and start."""
    port = changes.get("port", 0)
    if not 0 <= port < 65535:
        return fail(f"port {port} is not between 0 and 65534; choose another with --port N", EXIT_PORT)
    for name, value in changes.items():
        if value < 0:
            return fail(f"--{name.replace('_', '-')} is {value}; it must not be negative", 2)
    for name in ("heartbeat_seconds", "idle_seconds"):
        if changes.get(name) == 0:
            changes[name] = None
    connection, started = lifecycle.start_cloud(home, changes)
    state = "running" if started else "already running"
    print(f"local cloud {state}: {connection['page']} (pid {connection['pid']}, home {home.path})")
    if changes and not started:
        print("the new settings take effect at the next start")
    return 0


def show(status: dict[str, Any], as_json: bool) -> int:
    """Print the status. Keys are only shown with --json."""
    if as_json:
        print(json.dumps(status, indent=1))
    elif status["running"]:
        print(f"running: {status['page']} (pid {status['pid']})")
        print(f"s3 {status['s3']['url']}\nsalad {status['salad']['url']}\nkelpie {status['kelpie']['url']}")
    else:
        print(f"not running; start it with {start_command(status['home'])}")
    return 0 if status["running"] else EXIT_NOT_RUNNING


def fail(message: str, code: int) -> int:
    print(f"localcloud: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
