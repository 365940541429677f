"""Reading Pulumi.<stack>.yaml, which a pull request may have replaced by something else."""

import os
from pathlib import Path

import pytest

from flux_training.commands.stack.file import stack_config
from flux_training.training.errors import BadInput


def finding(root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        stack_config(root, "dev")
    return "\n".join(caught.value.findings)


def test_a_link_that_leaves_the_project_is_not_read(tmp_path: Path) -> None:
    root, secret = tmp_path / "project", tmp_path / ".netrc"
    root.mkdir()
    secret.write_text("machine example: [password canary-5f1c", encoding="utf-8")
    (root / "Pulumi.dev.yaml").symlink_to(secret)
    assert str(secret) in finding(root)
    assert "canary" not in finding(root)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Pulumi.dev.yaml")
    assert "named pipe" in finding(tmp_path)


def test_a_link_inside_the_project_is_followed(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("config:\n  a:b: c\n", encoding="utf-8")
    (tmp_path / "Pulumi.dev.yaml").symlink_to("common.yaml")
    assert stack_config(tmp_path, "dev") == {"a:b": "c"}
