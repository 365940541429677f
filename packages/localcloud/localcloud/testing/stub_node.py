"""A node for tests: completes every job at once, or keeps it if the variable HOLD is set. It writes its environment to env.json."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from localcloud.home import EXIT_REALLOCATE
from localcloud.node.kelpie_api import KelpieError, WorkerApi


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_REALLOCATE))
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    (home / "env.json").write_text(json.dumps(dict(os.environ)))
    api = WorkerApi(os.environ)
    while home.exists():
        try:
            do_next_job(api)
        except KelpieError:
            continue
        time.sleep(float(os.environ["POLL_SECONDS"]))


def do_next_job(api: WorkerApi) -> None:
    job = api.work()
    while job and api.heartbeat(job["id"]) == "running":
        if "HOLD" not in os.environ:
            api.completed(job["id"])
        time.sleep(float(os.environ["POLL_SECONDS"]))


if __name__ == "__main__":
    main()
