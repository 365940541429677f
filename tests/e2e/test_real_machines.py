"""The main job on machines as people have them: proxies, no home folder, LANG=C, odd paths, Windows checkouts."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.checkout import Checkout, new_checkout

DEAD_PROXY = "http://127.0.0.1:9"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
EVERY_PROXY = {name: DEAD_PROXY for lower in VARIABLES for name in (lower, lower.upper())}


def with_carriage_returns(checkout: Checkout) -> None:
    """As `core.autocrlf` and an editor's byte order mark leave them."""
    for path in [*checkout.root.glob("jobs/*/train.yml"), *checkout.root.glob("jobs/*/dataset/*.txt")]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    config = checkout.root / "jobs/cat/train.yml"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "environment"),
    [
        ("checkout", EVERY_PROXY),
        ("Müllers neue Katze 🐱", {}),
        ("checkout", {"LANG": "C", "LC_ALL": "C", "HOME": "/nowhere"}),
    ],
    ids=["dead proxies", "odd path", "LANG=C and no home"],
)
def test_the_main_job(folder: str, environment: dict[str, str], tmp_path: Path, virtualenv: Path) -> None:
    with new_checkout(tmp_path / folder, virtualenv=virtualenv) as plain:
        checkout = replace(plain, environment={**plain.environment, **environment})
        printed = checkout.make("up")
        assert "Traceback" not in printed
        assert {path.name for path in (checkout.root / "outputs/dev").iterdir()} >= {"cat", "dog"}

        with_carriage_returns(checkout)
        assert "2 unchanged" in checkout.make("plan")
        checkout.make("down")
