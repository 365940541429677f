"""Which project a command works on: the one around the current folder, as git finds it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from flux_training.commands.stack.declared import why_job_is_not_deployed, why_nothing_is_deployed
from flux_training.commands.stack.edit import declare_jobs_in_file, declared_jobs
from flux_training.commands.stack.file import uses_local_cloud
from flux_training.commands.stack.project import project_name, project_root, tool_root
from flux_training.commands.watch.status import status
from flux_training.training.errors import BadInput
from tests.support.flux import STACK_FILE, in_pipe, with_code


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A project of one's own, with the tool's code in flux-training/, and a folder inside."""
    root = tmp_path / "my-loras"
    (root / "jobs/deep").mkdir(parents=True)
    (root / "Pulumi.yaml").write_text("name: my-loras\nruntime: python\n", encoding="utf-8")
    (root / "Pulumi.dev.yaml").write_text(STACK_FILE.replace("flux-training:", "my-loras:"), encoding="utf-8")
    (root / "flux-training").mkdir()
    with_code(root / "flux-training")
    return root


def test_the_project_is_found_upward(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own / "jobs/deep")
    assert project_root({}) == own
    assert project_name(own) == "my-loras"


def test_another_pulumi_project_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: web\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert project_root({}) == tool_root()


def test_a_variable_names_the_project(own: Path) -> None:
    assert project_root({"FLUX_PROJECT": str(own)}) == own
    with pytest.raises(BadInput, match=r"is not a project: it has no Pulumi\.yaml; set FLUX_PROJECT"):
        project_root({"FLUX_PROJECT": str(own / "jobs")})


def test_settings_have_the_name_of_the_project(own: Path) -> None:
    assert uses_local_cloud(own, "dev")
    declare_jobs_in_file(own, "dev", {"second": {}})
    assert sorted(declared_jobs(own, "dev")) == ["first", "second"]
    assert "    second: {}" in (own / "Pulumi.dev.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "name: [1]", "name: {"])
def test_an_unusable_name_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "Pulumi.yaml").write_text(name, encoding="utf-8")
    with pytest.raises(BadInput, match=r"Pulumi\.yaml (has no name|cannot be read)"):
        project_name(tmp_path)


def test_cwd_is_where_the_command_acts(own: Path, tmp_path: Path) -> None:
    listed = in_pipe(tmp_path, "--cwd", str(own / "jobs"), "list")
    assert (listed.code, "deep" in listed.output) == (0, True)
    elsewhere = in_pipe(own, "--cwd", str(tmp_path), "list")
    assert (elsewhere.code, f"--cwd {tmp_path}: it is in no project" in elsewhere.output) == (1, True)


@pytest.mark.parametrize(
    ("jobs", "folders", "reason", "step"),
    [
        ("{}", [], "declares none", './flux new NAME --from PHOTOS --trigger "tr1gger word" --stack two'),
        ("{}", ["cat"], "declares none", "such as `cat: {}`"),
        ("{cat: {skip: true}}", ["cat"], "`skip: true`", "Remove it"),
    ],
)
def test_an_update_without_jobs_says_why(
    own: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, folders: list[str], reason: str, step: str
) -> None:
    declare(own, monkeypatch, jobs, folders)
    said = why_nothing_is_deployed("two", is_updated=True)
    assert reason in said
    assert step in said


@pytest.mark.parametrize(
    ("jobs", "budget", "is_updated", "said"),
    [
        ("{cat: {}, dog: {}}", "{maxUsdPerDay: 1}", True, "cat, dog wait for the budget; `./flux plan --stack two` says when they fit. `make up STACK=two` queues what fits then."),
        ("{cat: {}}", "{maxUsdPerMonth: 1}", False, "cat waits for the budget, or the last update was interrupted; `./flux plan --stack two` says which. `make up STACK=two` queues what fits."),
        ("{cat: {}}", "{maxUsd: 1}", False, "cat is declared, but not queued yet. `make up STACK=two` queues it; it also continues an update that was interrupted."),
        ("{cat: {}, dog: {}}", "{}", False, "cat, dog are declared, but not queued yet. `make up STACK=two` queues them; it also continues an update that was interrupted."),
    ],
)  # fmt: skip
def test_declared_jobs_wait_for_the_budget_only_if_there_is_one(
    own: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, budget: str, is_updated: bool, said: str
) -> None:
    declare(own, monkeypatch, jobs, ["cat", "dog"], budget)
    assert why_nothing_is_deployed("two", is_updated=is_updated) == f"No job is deployed: {said}"


@pytest.mark.parametrize(
    ("jobs", "budget", "said"),
    [
        ("{cat: {}}", "{}", "No job is deployed: cat is declared, but not queued yet."),
        ("{cat: {skip: true}}", "{}", "No job is deployed: all jobs of `my-loras:jobs` in Pulumi.two.yaml have `skip: true`."),
        ("{cat: {}}", "{maxUsd: x}", "No job is deployed, and Pulumi.two.yaml has mistakes; `./flux doctor --stack two` names them."),
    ],
)  # fmt: skip
def test_the_status_of_a_stack_without_jobs_says_why(
    own: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, budget: str, said: str
) -> None:
    """The first update was interrupted: the state has the bucket, but no job."""
    declare(own, monkeypatch, jobs, ["cat"], budget)
    monkeypatch.setattr(
        "flux_training.commands.watch.status.deployed_outputs", lambda _: {"bucket": "two", "jobs": {}}
    )
    shown = CliRunner().invoke(status, ["--stack", "two"])
    assert (shown.exit_code, " ".join(shown.output.split()).startswith(said)) == (0, True)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("cat", "it is declared, but not deployed yet, or it waits for the budget; `make up STACK=two`"),
        ("dog", "`skip: true`"),
        ("fox", "add `fox: {}` below `my-loras:jobs` in Pulumi.two.yaml"),
        ("cow", ""),
    ],
)
def test_a_job_that_is_not_deployed_has_a_reason(
    own: Path, monkeypatch: pytest.MonkeyPatch, job: str, why: str
) -> None:
    declare(own, monkeypatch, '{"c*": {}, dog: {skip: true}}', ["cat", "dog", "fox"])
    found = why_job_is_not_deployed(job, "two")
    assert (why in found) if why else not found


def declare(
    own: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, folders: list[str], budget: str = "{}"
) -> None:
    """The jobs of a stack `two`, whose job folders are in `photos`."""
    monkeypatch.setenv("FLUX_PROJECT", str(own))
    settings = f"cloud: local\n  my-loras:storage: {{bucket: two}}\n  my-loras:jobsFolder: photos\n  my-loras:jobs: {jobs}\n  my-loras:budget: {budget}"
    (own / "Pulumi.two.yaml").write_text(f"config:\n  my-loras:{settings}\n", encoding="utf-8")
    for folder in folders:
        (own / "photos" / folder).mkdir(parents=True)
