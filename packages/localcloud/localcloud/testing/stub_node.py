"""A node that completes every job at once, or with HOLD in its environment keeps it: for tests of what is around nodes.

Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

API = os.environ["KELPIE_API_URL"]
POLL_SECONDS = float(os.environ["POLL_SECONDS"])
MACHINE = {
    "machine_id": os.environ["SALAD_MACHINE_ID"],
    "container_group_id": os.environ["SALAD_CONTAINER_GROUP_ID"],
}


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    headers = {
        "Authorization": f"Bearer {os.environ['NODE_TOKEN']}",
        "Salad-Project": os.environ["SALAD_PROJECT_NAME"],
        "User-Agent": "kelpie-node",
    }
    data = None if body is None else json.dumps(body).encode()
    # S310: the address is the local cloud's own, given by it.
    request = urllib.request.Request(API + path, data, headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    (home / "env.json").write_text(json.dumps(dict(os.environ)))
    query = "&".join(f"{name}={value}" for name, value in MACHINE.items())
    while True:
        try:
            for job in call("GET", f"/work?{query}"):
                while call("POST", f"/jobs/{job['id']}/heartbeat", MACHINE)["status"] == "running":
                    if "HOLD" not in os.environ:
                        call("POST", f"/jobs/{job['id']}/completed", MACHINE)
                    time.sleep(POLL_SECONDS)
        except OSError:
            pass  # the cloud is away for a moment
        time.sleep(POLL_SECONDS)


main()
