"""What is wrong with the machine that a node runs on, from NODE_CONDITIONS: `bad-gpu`, `full-disk=KB`, `slow-network=KB/s`.

The node calls `apply` once, when its folder is prepared and before it asks for work.
"""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

from localcloud.chaos.proxy import Proxy, s3_service

log = logging.getLogger("node")

VARIABLE = "NODE_CONDITIONS"
KILOBYTE = 1024
# In place of the image's trainer: what PyTorch says on a card that is broken.
BAD_GPU = """\
import sys

print("RuntimeError: CUDA error: an illegal memory access was encountered", file=sys.stderr)
sys.exit(1)
"""


def apply(home: Path) -> None:
    """Make this process, and what it starts, live with the machine's conditions. `home` is the node's folder."""
    for condition in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, amount = condition.partition("=")
        log.info("this machine has: %s", condition)
        if name == "bad-gpu":
            (home / "run.py").write_text(BAD_GPU, encoding="utf-8")
        elif name == "full-disk":
            _fill_disk(int(amount) * KILOBYTE)
        elif name == "slow-network":
            _slow_network(int(amount) * KILOBYTE)


def _fill_disk(most: int) -> None:
    """No file can grow beyond `most` bytes: writing fails as on a full disk, with EFBIG in place of ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _slow_network(bytes_a_second: int) -> None:
    """The bucket is reached through a slow proxy in this process."""
    url = os.environ.get("AWS_ENDPOINT_URL")
    if url:
        proxy = Proxy(url, s3_service, bytes_a_second=bytes_a_second)
        os.environ["AWS_ENDPOINT_URL"] = proxy.open().url
