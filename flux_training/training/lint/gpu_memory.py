"""How much memory a GPU has, as far as its name in the stack's configuration tells."""

from __future__ import annotations

import re

# GB of the classes SaladCloud rents out, without the size in their names (NVIDIA's data sheets; laptops' chips have less).
MEMORY_GB = {
    "rtx 5090": 32,
    "rtx 5080": 16,
    "rtx 5070 ti": 16,
    "rtx 5070": 12,
    "rtx 4090": 24,
    "rtx 4080": 16,
    "rtx 4070 ti super": 16,
    "rtx 4070 ti": 12,
    "rtx 4070": 12,
    "rtx 3090 ti": 24,
    "rtx 3090": 24,
    "rtx 3080 ti": 12,
    "rtx 3080": 10,
    "rtx 3060": 12,
    "rtx a5000": 24,
    "l40s": 48,
    "a100": 80,
    "h100": 80,
}
_SIZE = re.compile(r"(\d+)\s*GB", re.IGNORECASE)


def memory_gb(gpu: str) -> int | None:
    """GB of `RTX 5090`, `RTX 3080 (10 GB)` or `>= 24 GB`; None for a class this project does not know, such as a UUID."""
    said = _SIZE.search(gpu)
    if said:
        return int(said[1])
    return MEMORY_GB.get(" ".join(gpu.lower().replace("nvidia", "").replace("geforce", "").split()))
