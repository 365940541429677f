"""A node of the local cloud: a folder in place of a container, and in it the Kelpie worker: `python -m localcloud.node --home DIR`.

Settings come from the environment: KELPIE_API_URL, NODE_TOKEN, SALAD_MACHINE_ID, SALAD_CONTAINER_GROUP_ID, SALAD_PROJECT_NAME (or
SALAD_PROJECT), AWS_* for the bucket, POLL_SECONDS, HEARTBEAT_SECONDS (upper limit for the jobs' intervals), MAX_TIME_WITH_NO_WORK_S and
its upper limit IDLE_SECONDS. Logs go to stdout.

SIGTERM: SaladCloud takes the node away; the command gets SIGTERM and three seconds, and nothing is reported.
SIGINT: end after the current job.
Exit codes: 0 ended; 1 Kelpie was unreachable at the end of a job; 75 the machine was taken away, or the node wants another; 2 settings are missing, or the folder is not a
node's.
"""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

from localcloud.chaos import conditions
from localcloud.node.kelpie_api import WorkerApi
from localcloud.node.worker import IdleLimits, KelpieWorker, run_worker

TRAINER = Path(__file__).parents[1] / "trainer"
MARKER = ".node"  # a folder with this file is a node's and may be emptied


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m localcloud.node", description="A node of the local cloud"
    )
    parser.add_argument("--home", type=Path, required=True, help="the node's folder, which is wiped")
    home = parser.parse_args().home.resolve()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for library in ("botocore", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    os.environ["AWS_EC2_METADATA_DISABLED"] = (
        "true"  # there is no metadata service for credentials on this machine
    )
    try:
        prepare(home)
        conditions.apply_conditions(home)
        max_heartbeat = os.environ.get("HEARTBEAT_SECONDS")
        poll_seconds = float(os.environ.get("POLL_SECONDS") or 10)
        api = WorkerApi(os.environ)
        heartbeat = float(max_heartbeat) if max_heartbeat else None
        worker = KelpieWorker(home, api, poll_seconds, heartbeat, idle=idle_limits())
    except KeyError as error:
        name = error.args[0]
        sys.stderr.write(f"{name} is not set in the environment; SaladCloud sets it on every node\n")
        sys.exit(2)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"this node cannot start: {error}\n")
        sys.exit(2)
    os.chdir(home)
    code = run_worker(worker)
    sys.stdout.flush()
    os._exit(code)  # exit without waiting for uploads in other threads


def idle_limits() -> IdleLimits:
    """How long the worker may be without work: as the group's environment says, and the local cloud's IDLE_SECONDS."""
    return IdleLimits(
        *(float(os.environ.get(name) or 0) for name in ("MAX_TIME_WITH_NO_WORK_S", "IDLE_SECONDS"))
    )


def prepare(home: Path) -> None:
    """Make the folder a new container: empty, with the trainer of the image. Raises ValueError."""
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()) and not (home / MARKER).exists():
        help_text = "give --home a folder that may be wiped"
        raise ValueError(f"{home} is neither empty nor a node's folder; {help_text}")
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    (home / MARKER).touch()
    for path in sorted(TRAINER.glob("*.py")):
        shutil.copy(path, home)


if __name__ == "__main__":
    main()
