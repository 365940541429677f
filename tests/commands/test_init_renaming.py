"""What `flux init --from CLONE --name NAME` changes in settings and states."""

import pytest

from flux_training.commands.init.renaming import ProjectRename, group_names
from flux_training.training.errors import BadInput

RENAMING = ProjectRename("old", "new")
STACK = "urn:pulumi:dev::old::pulumi:pulumi:Stack::old-dev"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STACK, "urn:pulumi:dev::new::pulumi:pulumi:Stack::new-dev"),
        (
            "urn:pulumi:dev::old::pulumi:providers:aws::x::id-1",
            "urn:pulumi:dev::new::pulumi:providers:aws::x::id-1",
        ),
        ("urn:pulumi:dev::old::flux:Dataset::old-dev", "urn:pulumi:dev::new::flux:Dataset::old-dev"),
        ("urn:pulumi:prod::old::a::b", "urn:pulumi:prod::old::a::b"),
        ("old/dev", "new/dev"),
        ("older/dev", "older/dev"),
        ("old", "old"),
    ],
)
def test_texts_of_a_state(before: str, after: str) -> None:
    assert RENAMING.rename_state({"resources": [{"urn": before, "n": 1.5}]}, "dev") == {
        "resources": [{"urn": after, "n": 1.5}]
    }


def test_settings_in_a_state() -> None:
    inputs = {"old:cloud": "local", "aws:region": "eu-west-1", "older:x": "old:y"}
    assert RENAMING.rename_state(inputs, "dev") == {
        "new:cloud": "local",
        "aws:region": "eu-west-1",
        "older:x": "old:y",
    }


def test_settings_of_a_file_keep_their_comments() -> None:
    text = '# old:cloud\nconfig:\n  old:cloud: local # old: not new\n  "old:jobs":\n    old: {}\n  aws:region: x\n'
    assert RENAMING.rename_settings(text, "Pulumi.dev.yaml") == (
        '# old:cloud\nconfig:\n  new:cloud: local # old: not new\n  "new:jobs":\n    old: {}\n  aws:region: x\n'
    )


def test_settings_that_cannot_be_renamed_are_refused() -> None:
    with pytest.raises(BadInput, match=r"Pulumi\.dev\.yaml: its settings cannot be renamed"):
        RENAMING.rename_settings("config: {old:cloud: local, old:jobs: {}}\n", "Pulumi.dev.yaml")


def test_container_groups_of_a_state() -> None:
    resources = [
        {"type": "pulumi-python:dynamic/flux:ContainerGroup", "outputs": {"name": "a"}},
        {"type": "pulumi-python:dynamic/flux:DevGroup", "outputs": {"name": "b"}},
        {"type": "pulumi-python:dynamic/flux:Bucket", "outputs": {"name": "c"}},
    ]
    assert group_names({"deployment": {"resources": resources}}) == ["a", "b"]
    assert group_names({"deployment": {}}) == []
