"""Stacks that need a plugin. Without it, an error names the plugin and nothing is created."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.life.stacks import ROOT, Stack, as_real, new_stack
from tests.support.files import readable


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
from flux_training.training.runs.run import Layout

bucket = pulumi.ComponentResource("test:index:Bucket", "bucket")
AwsStorage("aws", AwsArgs("weights", Layout("team/"), "eu-west-1", "p/s", {}, 1), bucket)
"""


def test_an_engine_without_pulumi_aws_says_what_is_missing(cloud: Path, tmp_path: Path) -> None:
    """Only the component: a whole stack would call AWS first."""
    stack = prepared(cloud, tmp_path / "a", "on-aws")
    (stack.root / "__main__.py").write_text(PROGRAM)
    printed = stack.run("preview", code=1)
    assert "pulumi-resource-aws" in printed
    assert "pulumi plugin install resource aws" in printed


# Stand-in for docker: it logs its calls, and writes a digest of the folder's content where docker/build.sh expects it.
DOCKER = """#!/usr/bin/env python3
import hashlib, json, os, pathlib, sys
folder = pathlib.Path.cwd()
content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
with open(os.environ["BUILDS"], "a") as log:
    print(hashlib.sha256(content).hexdigest(), file=log)
target = sys.argv[sys.argv.index("--metadata-file") + 1]
names = [name for name in sys.argv if name in ("worker", "dev")]
digest = "sha256:" + hashlib.sha256(content).hexdigest()
pathlib.Path(target).write_text(json.dumps({name: {"containerimage.digest": digest} for name in names}))
"""


@pytest.mark.skipif(
    shutil.which("pulumi-resource-command") is None,
    reason="no plugin pulumi-resource-command on the PATH: it is in no package registry",
)
def test_a_custom_image_is_built_once_and_again_when_docker_changes(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    """Uses the real pulumi-command and docker/build.sh with a stand-in for docker."""
    stack = new_stack(tmp_path / "a", cloud, "built", {"cat": 1}, engine)
    image = {"build": True, "repository": "r.io/me/x", "kelpieSha256": "a" * 64}
    settings = {"cloud": "salad", "storage": {"bucket": "life", "prefix": stack.place}, "image": image}
    stack.configure({"cat": {}}, settings)
    shutil.copytree(ROOT / "docker", stack.root / "docker")
    tools, builds = tmp_path / "tools", tmp_path / "builds.log"
    tools.mkdir()
    (tools / "docker").write_text(DOCKER)
    (tools / "docker").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    stack = replace(
        stack,
        variables={**as_real(stack.connection), "PATH": path, "BUILDS": str(builds), "HF_TOKEN": "hf_x7q"},
    )

    def image_of_the_group() -> str:
        group = stack.connection.salad().get_group(stack.place)
        assert group is not None
        return group.container.image

    stack.run("preview")
    stack.up()
    (first,) = builds.read_text().split()
    assert image_of_the_group() == f"r.io/me/x@sha256:{first}"
    assert "unchanged" in stack.up()
    stack.run("refresh", "--yes", "--skip-preview")
    assert "unchanged" in stack.up()
    assert builds.read_text().split() == [first]
    with (stack.root / "docker/Dockerfile").open("a") as file:
        file.write("# changed\n")
    stack.up()
    assert len(builds.read_text().split()) == 2
    assert image_of_the_group() == f"r.io/me/x@sha256:{builds.read_text().split()[1]}"
    assert b"hf_x7q" not in b"".join(readable(f) for f in (stack.root / ".pulumi").rglob("*") if f.is_file())
    stack.destroy()
    assert stack.connection.salad().get_group(stack.place) is None
