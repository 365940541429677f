"""The library behind the Pulumi program and the `flux` command.

What a training job is (training/), the services it needs (clients/), the commands (commands/), and what runs on a GPU (node/).
"""

import sys

# None makes an import fail. httpx imports its command-line tool, with rich, click and pygments, where these are installed, and does
# without where they are not. The tool, which nothing here uses, takes longer to import than httpx.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # declared without None
