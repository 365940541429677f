"""Stacks that need a plugin, on an engine without it: what is missing is named, and nothing is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.life.stacks import Stack, as_real, new_stack


def prepared(cloud: Path, folder: Path, place: str, **settings: object) -> Stack:
    stack = new_stack(folder, cloud, place, {"cat": 1})
    stack.configure(
        {"cat": {}}, {"cloud": "salad", "storage": {"bucket": "life", "prefix": stack.place}, **settings}
    )
    return replace(stack, variables=as_real(stack.connection))


def test_an_engine_without_pulumi_command_says_what_is_missing(cloud: Path, tmp_path: Path) -> None:
    image = {"build": True, "repository": "r.io/me/x", "kelpieSha256": "a" * 64}
    stack = prepared(cloud, tmp_path / "a", "own-image", image=image)
    (stack.root / "docker").mkdir()
    (stack.root / "docker/Dockerfile").write_text("FROM a\n")
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        printed = stack.run(*command, code=1)
        assert "pulumi-resource-command" in printed
        assert "pulumi plugin install resource command" in printed
    assert stack.connection.salad().get_group(stack.place) is None
    assert stack.jobs() == []


PROGRAM = """
import pulumi
from components.aws import AwsArgs, AwsStorage
from training.run import Layout

bucket = pulumi.ComponentResource("test:index:Bucket", "bucket")
AwsStorage("aws", AwsArgs("weights", Layout("team/"), "eu-west-1", "p/s", {}, 1), bucket)
"""


def test_an_engine_without_pulumi_aws_says_what_is_missing(cloud: Path, tmp_path: Path) -> None:
    """The component alone: the whole stack would ask AWS first."""
    stack = prepared(cloud, tmp_path / "a", "on-aws")
    (stack.root / "__main__.py").write_text(PROGRAM)
    printed = stack.run("preview", code=1)
    assert "pulumi-resource-aws" in printed
    assert "pulumi plugin install resource aws" in printed
