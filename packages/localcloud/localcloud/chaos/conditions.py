"""Bad machines: a node applies the conditions in NODE_CONDITIONS to itself (`bad-gpu`, `full-disk=KB`, `slow-network=KB/s`)."""

import logging
import os
import resource
from pathlib import Path

from localcloud.chaos.proxy import Proxy, s3_service

log = logging.getLogger("node")

VARIABLE = "NODE_CONDITIONS"
KILOBYTE = 1024
# This program runs in place of the trainer and fails with PyTorch's message for a broken GPU.
BAD_GPU = """\
import sys

print("RuntimeError: CUDA error: an illegal memory access was encountered", file=sys.stderr)
sys.exit(1)
"""


def apply_conditions(home: Path) -> None:
    """Apply the conditions to this process and its children. `home` is the node's folder, already prepared."""
    for condition in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, amount = condition.partition("=")
        log.info("this machine has: %s", condition)
        if name == "bad-gpu":
            (home / "run.py").write_text(BAD_GPU, encoding="utf-8")
        elif name == "full-disk":
            _fill_disk(int(amount) * KILOBYTE)
        elif name == "slow-network":
            _slow_network(int(amount) * KILOBYTE)


def _fill_disk(max_bytes: int) -> None:
    """Limit the size of files. Writing fails as on a full disk, though with EFBIG instead of ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))


def _slow_network(bytes_a_second: int) -> None:
    """Access the bucket through a slow proxy in this process."""
    url = os.environ.get("AWS_ENDPOINT_URL")
    if url:
        proxy = Proxy(url, s3_service, bytes_a_second=bytes_a_second)
        os.environ["AWS_ENDPOINT_URL"] = proxy.open().url
