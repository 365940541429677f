"""A cloud on this machine: S3 storage, SaladCloud, Kelpie, Cloudflare and GPU nodes as real HTTP servers and processes."""

import sys

# Setting a module to None makes its import fail. If rich, click and pygments are installed, httpx
# imports its command-line tool, which takes longer than the rest of httpx and is not used here. httpx
# also works without it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # declared without None
