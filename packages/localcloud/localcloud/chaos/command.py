"""`python -m localcloud chaos …`: cause faults, at once or at a seeded rate.

chaos                                     list the active faults
chaos off [WHAT]                          end all faults (or only WHAT)
chaos interrupt [NODE] [--kill]           take a node away now, preferably one with a job; --kill: without notice
chaos interrupt --per-hour N [--seed S]   take each node away N times an hour
chaos bad-gpu | full-disk | slow-network [--share 0.5] [--seed S] [--amount N]
                                          a fault of the machines rented from now on, or of a share of them
chaos kelpie-403 | salad-html (--next N | --rate R [--seed S])
                                          transient 403 from Kelpie, HTML from SaladCloud
chaos proxy [--rate R] [--seed S]         until Ctrl-C: a proxy on which a share of the requests fails
"""

import argparse
import json
import signal
import sqlite3
import threading
from typing import Any

from localcloud import processes
from localcloud.chaos.plan import Faults
from localcloud.chaos.proxy import Proxy, api_service, connection_through_proxy, s3_service
from localcloud.chaos.settings import CONDITIONS, INTERRUPT, REQUESTS
from localcloud.database import open_database
from localcloud.home import Home, read_json, start_command, write_json

WHATS = (*REQUESTS, *CONDITIONS, INTERRUPT)


class ChaosError(Exception):
    """The command cannot be carried out; the message says why."""


def add_chaos_command(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `chaos` to the local cloud's commands (argparse's subparsers)."""
    chaos = commands.add_parser(
        "chaos",
        help="cause faults",
        parents=[shared],
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # The subcommand is optional: `chaos` alone lists the active faults.
    kinds = chaos.add_subparsers(dest="what", metavar="WHAT")
    off = kinds.add_parser("off")
    off.add_argument("which", nargs="?", choices=WHATS)
    for what in REQUESTS:
        request = kinds.add_parser(what)
        how = request.add_mutually_exclusive_group(required=True)
        how.add_argument("--next", type=_count, metavar="N", help="the next N requests")
        how.add_argument("--rate", type=_share, metavar="R", help="this share of all requests, 0 to 1")
        request.add_argument("--seed", type=int, default=0)
    for what, (unit, default) in CONDITIONS.items():
        condition = kinds.add_parser(what)
        text = "of the machines, 0 to 1 (default 1)"
        condition.add_argument("--share", type=_share, default=1.0, help=text)
        condition.add_argument("--seed", type=int, default=0)
        if unit:
            text = f"{unit} (default {default})"
            condition.add_argument("--amount", type=_count, default=default, help=text)
    interrupt = kinds.add_parser(INTERRUPT)
    interrupt.add_argument("node", nargs="?", help="its id, or the beginning of it")
    interrupt.add_argument("--kill", action="store_true", help="without notice, like a power cut")
    interrupt.add_argument("--per-hour", type=_count, metavar="N", help="take each node away N times an hour")
    interrupt.add_argument("--seed", type=int, default=0)
    proxy = kinds.add_parser("proxy")
    proxy.add_argument("--rate", type=_share, default=0.2)
    proxy.add_argument("--seed", type=int, default=0)


def run_chaos_command(home: Home, given: dict[str, Any]) -> str:
    """Run the command; return its output. Raises ChaosError, HomeError."""
    what = given.pop("what", None)
    entries = read_json(home.chaos)
    if what is None:
        return "\n".join(f"{name}: {json.dumps(entry)}" for name, entry in entries.items()) or "nothing"
    if what == "proxy":
        return _run_proxy(home, given["rate"], given["seed"])
    if what == INTERRUPT and given["per_hour"] is None:
        return _interrupt(home, given["node"], kill=given["kill"])
    if what == "off":
        which = given["which"]
        left = {} if which is None else {name: entry for name, entry in entries.items() if name != which}
        write_json(home.chaos, left)
        return f"off: {which or 'everything'}"
    kept = given.keys() - {"node", "kill"}
    entry = {name: value for name, value in given.items() if value is not None and name in kept}
    home.create()
    write_json(home.chaos, {**entries, what: entry})
    return f"{what}: {json.dumps(entry)}" + (" (machines rented from now on)" if what in CONDITIONS else "")


def _interrupt(home: Home, node: str | None, *, kill: bool) -> str:
    database = open_database(home.database) if home.database.exists() else None
    found = _find_running_node(database, node or "") if database else None
    if found is None:
        nothing = "no node runs; wait for one, or see the web page"
        raise ChaosError(f"no node {node} runs" if node else nothing)
    if kill:
        processes.kill_group(found["pid"], found["pid_start"])
    else:
        processes.send(found["pid"], signal.SIGTERM)
    return f"node {found['id']} {'was killed' if kill else 'is taken away'}; another machine replaces it"


def _find_running_node(database: sqlite3.Connection, prefix: str) -> sqlite3.Row | None:
    """The running node whose id begins with `prefix`; if there are several, one that has a job."""
    rows = database.execute(
        "SELECT i.* FROM instances i LEFT JOIN jobs j ON j.machine_id = i.machine_id AND j.status = 'running'"
        " WHERE i.state = 'running' AND i.pid IS NOT NULL ORDER BY j.id IS NULL, i.created"
    ).fetchall()
    database.close()
    alive = [row for row in rows if processes.is_same(row["pid"], row["pid_start"])]
    return next((row for row in alive if row["id"].startswith(prefix)), None)


def _run_proxy(home: Home, rate: float, seed: int) -> str:
    """Serve until SIGINT or SIGTERM."""
    connection = home.load_connection()
    if not connection:
        raise ChaosError(
            f"the local cloud of {home.path} does not run; start it with {start_command(home.path)}"
        )
    faults = Faults(rate, seed, delays=rate / 4)
    page = str(connection["page"]).rstrip("/")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Proxy(page, api_service, faults) as api, Proxy(connection["s3"]["url"], s3_service, faults) as s3:
        write_json(home.rerouted, connection_through_proxy(connection, api.url, s3.url))
        use = f"to use it, set FLUX_LOCAL_CLOUD={home.rerouted}"
        print(f"{rate:.0%} of the requests through this proxy fail; {use}", flush=True)
        stop.wait()
        home.rerouted.unlink(missing_ok=True)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.counts.items()) if kind != "none")
    return f"{faults.counts.total()} requests; failed: {kinds or 'none'}"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value
