"""Which engine a command starts, how, and what it takes from the stack's configuration."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from flux_training.clients.connection import VARIABLES
from flux_training.commands.stack.access import connection_of
from flux_training.commands.stack.engine import UNKNOWN, Engine, without_unknown
from flux_training.training.errors import FluxError
from tests.support.flux import STACK_FILE

# As the CLI and the embedded engine answer `config get KEY`.
ENGINE = """\
import json, pathlib, sys
words = sys.argv[1:]
here = pathlib.Path(__file__).parent
if words[0] == "preview":
    print(json.dumps({"steps": [], "folder": str(pathlib.Path.cwd())}))
elif words[:2] == ["config", "get"]:
    if (here / "refusal.txt").exists():
        sys.exit((here / "refusal.txt").read_text())
    settings = json.loads((here / "settings.json").read_text())
    if words[2] not in settings:
        sys.exit(f"error: configuration key '{words[2]}' not found for stack 'prod'")
    print(settings[words[2]])
"""
SETTINGS = {"saladApiKey": "key", "saladOrganization": "us", "saladProject": "loras", "s3AccessKeyId": "id",
            "s3SecretAccessKey": "secret", "s3EndpointUrl": "https://s3.test"}  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    return Engine((sys.executable, str(tmp_path / "engine.py")), dict(os.environ), "prod", tmp_path)


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = STACK_FILE.replace("cloud: local", "cloud: salad")
    (tmp_path / "Pulumi.prod.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("flux_training.commands.stack.access.project_root", lambda: tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("prod")
def test_an_empty_variable_is_as_good_as_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow passes all of them, those that nobody has set as empty texts."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, " " if variable == "SALAD_PROJECT" else "")
    monkeypatch.setenv("SALAD_API_KEY", "another")
    found = connection_of(engine, "prod")
    assert (found.api_key.get_secret_value(), found.organization, found.project) == ("another", "us", "loras")


def test_the_preview_is_made_in_the_checkout_wherever_it_is_asked_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, words = engine.preview()
    assert (found["folder"], words) == (str(tmp_path), "")


@pytest.mark.usefixtures("prod")
def test_a_wrong_passphrase_is_said_and_not_taken_for_a_missing_key(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "refusal.txt").write_text("error: incorrect passphrase")
    with pytest.raises(FluxError, match="incorrect passphrase"):
        connection_of(engine, "prod")


@pytest.mark.parametrize(
    "words", ["error: no stack named 'prod' found", "error: configuration key 'x' not found for stack 'prod'"]
)
def test_what_is_not_there_is_none(engine: Engine, tmp_path: Path, words: str) -> None:
    (tmp_path / "refusal.txt").write_text(words)
    assert engine.setting("saladApiKey") is None


def test_what_an_update_did_not_come_to_know_is_no_output() -> None:
    """Seen: CLI 3.276.0 after `up --target` of one job, beside a new one that was no target."""
    outputs = {
        "jobs": {"cat": {"kelpieId": "k", "status": UNKNOWN}, "dog": UNKNOWN},
        "cost": UNKNOWN,
        "bucket": "b",
    }
    known = without_unknown(outputs)
    assert known == {"jobs": {"cat": {"kelpieId": "k"}}, "bucket": "b"}
    assert without_unknown({}) == {}
