"""The passphrase of local stacks: empty, and `local-cloud` for those that were made until version 0.2."""

import gzip
import os
from pathlib import Path

import pytest
import yaml

from flux_training.commands.stack.engine import find_cli, find_engine
from flux_training.commands.stack.passphrase import (
    CURRENT_SALT,
    FORMER_PASSPHRASE,
    FORMER_SALT,
    has_former_salt,
    local_passphrase,
    salt_of_file,
)
from flux_training.training.errors import BadInput
from tests.support.flux import ROOT

# Made with `local-cloud`.
OTHER_FORMER = "v1:oT46Ff2G/uA=:v1:4tn3M7VeO0BbQyYP:LKNAWvDCgJY2MlMmKlbwU2XjLFcL6w=="
STATE = ".pulumi/stacks/flux-training/dev.json"
SIGNATURE = "4dabf18193072939515e22adb298388d"
STACK = "urn:pulumi:dev::flux-training::pulumi:pulumi:Stack::flux-training-dev"


def write_stack(root: Path, salt: str) -> None:
    (root / "Pulumi.yaml").write_text("name: flux-training\nruntime: python\nbackend: {url: 'file://.'}\n")
    (root / "Pulumi.dev.yaml").write_text(f"encryptionsalt: {salt}\nconfig: {{flux-training:cloud: local}}\n")


def test_the_stack_dev_has_the_empty_passphrase() -> None:
    assert salt_of_file(ROOT, "dev") == CURRENT_SALT


@pytest.mark.parametrize(
    ("salt", "passphrase"),
    [
        (FORMER_SALT, FORMER_PASSPHRASE),
        (CURRENT_SALT, ""),
        (OTHER_FORMER, FORMER_PASSPHRASE),
        (f"{OTHER_FORMER[:-6]}AAAA==", ""),
        ("'damaged'", ""),
        ("''", ""),
    ],
)
def test_the_salt_of_the_stack_file_decides(tmp_path: Path, salt: str, passphrase: str) -> None:
    write_stack(tmp_path, salt)
    assert local_passphrase(tmp_path, "dev") == passphrase


@pytest.mark.parametrize("variable", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
@pytest.mark.parametrize(("salt", "is_used"), [(CURRENT_SALT, False), (OTHER_FORMER, True)])
def test_the_passphrase_of_another_stack_in_the_same_terminal_is_not_used_for_dev(
    tmp_path: Path, variable: str, salt: str, is_used: bool
) -> None:
    write_stack(tmp_path, salt)
    environ = {"PATH": "", "HOME": str(tmp_path), "ENGINE": "embedded", variable: "of-prod"}
    found = find_engine("dev", local=True, environ=environ, root=tmp_path).environment
    own = {} if is_used else {"PULUMI_CONFIG_PASSPHRASE": ""}
    given = {variable: "of-prod"} if is_used else {}
    assert {name: value for name, value in found.items() if "PASSPHRASE" in name} == own | given


@pytest.mark.parametrize("packed", [True, False])
def test_a_state_with_the_former_salt_needs_the_former_passphrase(tmp_path: Path, packed: bool) -> None:
    write_stack(tmp_path, CURRENT_SALT)
    state = tmp_path / (f"{STATE}.gz" if packed else STATE)
    state.parent.mkdir(parents=True)
    text = f'{{"salt":"{FORMER_SALT}"}}'.encode()
    state.write_bytes(gzip.compress(text) if packed else text)
    assert local_passphrase(tmp_path, "dev") == FORMER_PASSPHRASE


@pytest.mark.parametrize("name", ["embedded", "cli"])
def test_the_state_gets_the_salt_of_the_stack_file(tmp_path: Path, name: str) -> None:
    if name == "cli" and find_cli() is None:
        pytest.skip("the Pulumi CLI is not on the PATH")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
    environ |= {"ENGINE": name, "PULUMI_HOME": str(tmp_path / "home")}
    write_stack(tmp_path, FORMER_SALT)
    former = find_engine("dev", local=True, environ=environ, root=tmp_path)
    former.select()
    secret = {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "plaintext": '"hush"'}
    root = {"urn": STACK, "custom": False, "type": "pulumi:pulumi:Stack", "outputs": {"a": secret}}
    manifest = {"time": "2026-11-30T00:00:00Z", "magic": "", "version": ""}
    providers = {"type": "passphrase", "state": {"salt": FORMER_SALT}}
    deployment = {"manifest": manifest, "secrets_providers": providers, "resources": [root]}
    former.import_state({"version": 3, "deployment": deployment})
    assert has_former_salt(tmp_path, "dev")
    assert former.update_passphrase() is former  # as long as the stack file has it too

    write_stack(tmp_path, CURRENT_SALT)
    updated = find_engine("dev", local=True, environ=environ, root=tmp_path).update_passphrase()
    assert updated.environment["PULUMI_CONFIG_PASSPHRASE"] == ""
    assert not has_former_salt(tmp_path, "dev")
    exported = updated.export()
    assert exported is not None
    assert exported["deployment"]["secrets_providers"]["state"] == {"salt": CURRENT_SALT}
    assert find_engine("dev", local=True, environ=environ, root=tmp_path).environment == updated.environment
    assert yaml.safe_load(updated.settings()["cloud"]) == "local"


@pytest.mark.parametrize(
    "config", ["null", "{flux-training:cloud: [local]}", "{other:cloud: local, other:jobs: {}}"]
)
def test_a_stack_file_of_a_wrong_shape_is_not_blamed_on_the_passphrase(config: str, tmp_path: Path) -> None:
    write_stack(tmp_path, CURRENT_SALT)
    (tmp_path / "Pulumi.dev.yaml").write_text(f"encryptionsalt: {CURRENT_SALT}\nconfig: {config}\n")
    environ = {"PATH": os.environ["PATH"]}
    with pytest.raises(BadInput) as caught:
        find_engine("dev", local=False, environ=environ, root=tmp_path)
    assert "flux-training:jobs: is missing" in str(caught.value)
