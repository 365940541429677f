"""Reading Pulumi.<stack>.yaml, which a pull request may have replaced by something else."""

import os
from pathlib import Path

import pytest

from flux_training.commands.stack.file import stack_config, stack_settings, steps_limit, uses_local_cloud
from flux_training.commands.stack.project import project_name
from flux_training.training.errors import BadInput
from flux_training.training.setting_errors import ignored_in


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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("config:\n  a:b: c\n  a:b: d\n", "Pulumi.dev.yaml:3: a:b occurs a second time; delete one"),
        (
            "config:\n  a:jobs:\n    cat: {}\n    dog: {}\n    cat: {skip: true}\n",
            "Pulumi.dev.yaml:5: cat occurs",
        ),
        ("config: {}\nconfig: {}\n", "Pulumi.dev.yaml:2: config occurs"),
    ],
)
def test_a_repeated_key_is_an_error(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    assert line in finding(tmp_path)


@pytest.mark.parametrize("cloud", ["Local", "aws", "[local]", "true"])
def test_another_cloud_is_refused_before_anything_is_asked_for(cloud: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: loras\nruntime: python\n", encoding="utf-8")
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  loras:cloud: {cloud}\n", encoding="utf-8")
    with pytest.raises(BadInput, match="loras:cloud: must be 'local' or 'salad'"):
        uses_local_cloud(tmp_path, "dev")


@pytest.mark.parametrize("text", ["config: [a]", "config: a", "- config", "hello"])
def test_a_file_of_another_shape_is_named_with_an_example(text: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: loras\nruntime: python\n", encoding="utf-8")
    (tmp_path / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    assert "must have the line `config:` and settings below it, such as `  loras:cloud: local`" in finding(
        tmp_path
    )


@pytest.mark.parametrize(
    ("line", "said"),
    {
        "loras:budget: {maxUsd: 1}": "`loras:budget` would be ignored, because it is not below `config:`; indent it by two spaces there",
        "confg: {}": "`confg:` would be ignored (did you mean `config`?); there are: config, encryptedkey,",
    }.items(),
)
def test_what_pulumi_would_ignore_is_an_error(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: loras\nruntime: python\n", encoding="utf-8")
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  loras:cloud: local\n{line}\n", encoding="utf-8")
    assert said in finding(tmp_path)
    (found,) = ignored_in(tmp_path / "Pulumi.dev.yaml")
    assert found == finding(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "hello", "- a", "config: {a: 1}\nencryptionsalt: v1\n", "? [a]\n: b", "a: [", None]
)
def test_the_program_leaves_other_mistakes_to_pulumi(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    assert ignored_in(tmp_path / "Pulumi.dev.yaml") == []


@pytest.mark.parametrize("text", ["", "config:", "config: {}", "encryptionsalt: a"])
def test_a_file_without_settings_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    assert stack_config(tmp_path, "dev") == {}


def test_a_job_may_have_a_name_that_yaml_takes_for_a_date_or_a_number(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: loras\nruntime: python\n", encoding="utf-8")
    settings = "config:\n  loras:cloud: local\n  loras:storage: {bucket: my-loras}\n  loras:cluster: {gpu: RTX 5090}\n"
    text = f"{settings}  loras:jobs: {{2026-11-30: {{}}, 7: {{}}}}\n"
    (tmp_path / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    assert list(stack_settings(tmp_path, "dev").jobs) == ["2026-11-30", "7"]


UNREADABLE = {
    "!!bool 1": "'1' is not a valid bool",
    "!!int x": "'x' is not a valid int",
    '!!int ""': "'' is not a valid int",
    "!!float x": "'x' is not a valid float",
    "!!python/object:os.system x": "a tag such as !!python/object is not supported",
    "[" * 5000: "nested too deeply",
}


@pytest.mark.parametrize(("value", "said"), UNREADABLE.items(), ids=lambda text: text[:20])
def test_a_value_that_does_not_fit_its_tag_is_named(value: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  a:b: {value}\n", encoding="utf-8")
    assert said in finding(tmp_path)
    (tmp_path / "Pulumi.yaml").write_text(f"name: {value}\n", encoding="utf-8")
    with pytest.raises(BadInput, match="fix the file"):
        project_name(tmp_path)


@pytest.mark.parametrize("text", ["2026-11-30", "2026-02-30", "!!timestamp soon"])
def test_dates_are_texts(text: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  a:b: {text}\n", encoding="utf-8")
    assert stack_config(tmp_path, "dev") == {"a:b": text.removeprefix("!!timestamp ")}


def test_settings_without_a_namespace_are_those_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: loras\nruntime: python\n", encoding="utf-8")
    settings = "cloud: local\n  loras:config:storage: {bucket: my-loras}\n  jobs: {}\n  maxSteps: 7"
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  {settings}\n", encoding="utf-8")
    assert stack_settings(tmp_path, "dev").max_steps == 7
    assert steps_limit(tmp_path, "dev") == 7
    assert uses_local_cloud(tmp_path, "dev")
