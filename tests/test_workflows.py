""".github/workflows and docs/ci.md against the code: what the services are asked with is handed over, and runs do not push each other out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flux_training.clients.connection import SECRET_SETTINGS, VARIABLES

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github/workflows"
# Each changes a stack or asks how it is, so each needs every service.
CONNECTED = ("deploy", "destroy", "drift", "preview", "watch")


def workflow(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    return found


def environment_of_the_command(name: str) -> dict[str, str]:
    steps = [step for job in workflow(name)["jobs"].values() for step in job.get("steps", ())]
    (env,) = [step["env"] for step in steps if "SALAD_API_KEY" in step.get("env", {})]
    return {str(variable): str(value) for variable, value in env.items()}


@pytest.mark.parametrize("name", CONNECTED)
def test_workflows_pass_every_setting_of_the_services(name: str) -> None:
    env = environment_of_the_command(name)
    assert [variable for variable in VARIABLES if variable not in env] == []
    for variable, setting in VARIABLES.items():
        assert env[variable] in (f"${{{{ secrets.{variable} }}}}", f"${{{{ vars.{variable} }}}}")
        if setting in SECRET_SETTINGS:
            assert env[variable].startswith("${{ secrets.")


def test_the_document_names_every_variable_and_secret() -> None:
    text = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    assert [variable for variable in VARIABLES if f"`{variable}`" not in text] == []


def test_scheduled_checks_cannot_displace_a_deployment() -> None:
    """GitHub keeps one waiting run a group: a newer one cancels it, so a look at 05:17 could drop a merge."""
    groups = {
        name: workflow(name)["concurrency"]["group"] for name in ("deploy", "destroy", "drift", "watch")
    }
    assert not {groups["drift"], groups["watch"]} & {groups["deploy"], groups["destroy"]}
    assert groups["deploy"] == groups["destroy"]


def test_a_change_below_any_jobs_folder_is_deployed() -> None:
    """`jobsFolder` is a setting that no workflow can read; `on` is what YAML takes for true."""
    push = workflow("deploy")[True]["push"]
    assert "paths" not in push
    assert not any(pattern.startswith("jobs") for pattern in push["paths-ignore"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_check_out_images_that_are_in_git_lfs(path: Path) -> None:
    steps = [step for job in workflow(path.stem)["jobs"].values() for step in job.get("steps", [])]
    checkouts = [step for step in steps if str(step.get("uses", "")).startswith("actions/checkout@")]
    assert all(step["with"]["lfs"] is True for step in checkouts)
