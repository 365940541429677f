"""The stylesheet and the scripts that pages share, and the names of inline styles and scripts in a Content-Security-Policy."""

import base64
import hashlib
from pathlib import Path

DESIGN = Path(__file__).with_name("design.css")
SCRIPTS = [Path(__file__).with_name(name) for name in ("loss_chart.js", "copy.js")]


def shared_style_with(own: Path) -> str:
    """The shared stylesheet, followed by a page's own rules in the file `own`."""
    return "".join(path.read_text(encoding="utf-8") for path in (DESIGN, own))


def shared_script() -> str:
    """JavaScript with the functions `lossChart` and `copyOnClick`."""
    return "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


def content_security_policy_hash(text: str) -> str:
    """The source of an inline style or script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
