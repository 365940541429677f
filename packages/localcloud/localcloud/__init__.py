"""A cloud on this machine: S3 storage, SaladCloud, Kelpie, Cloudflare and GPU nodes as real HTTP servers and processes."""

import sys

# None makes an import fail. httpx imports its command-line tool, with rich, click and pygments, where these are installed, and does
# without where they are not. The tool, which nothing here uses, takes longer to import than httpx.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # declared without None
