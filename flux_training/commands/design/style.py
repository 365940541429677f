"""The stylesheet and the loss chart of the pages, and the names of inline styles and scripts in a Content-Security-Policy."""

import base64
import hashlib
from pathlib import Path

DESIGN = Path(__file__).with_name("design.css")
LOSS_CHART = Path(__file__).with_name("loss_chart.js")


def style_with(own: Path) -> str:
    """The shared stylesheet, followed by a page's own rules in the file `own`."""
    return "".join(path.read_text(encoding="utf-8") for path in (DESIGN, own))


def loss_chart_script() -> str:
    """JavaScript with the function `lossChart`."""
    return LOSS_CHART.read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """The source of an inline style or script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
