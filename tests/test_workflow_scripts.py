"""Each `run:` block of the workflows, executed by bash with programs in place of flux, make and GitHub's CLI."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / ".github/workflows"
# Notes its arguments, prints what is in NAME.out or in NAME-COMMAND.out, and exits with the code in .code.
PROGRAM = """\
#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "$HOME/calls"
for file in "$HOME/$name" "$HOME/$name-$1"; do
    if [ -f "$file.out" ]; then cat "$file.out"; fi
    if [ -f "$file.code" ]; then exit "$(cat "$file.code")"; fi
done
"""


def steps_with_scripts() -> dict[tuple[str, str], str]:
    """The scripts by workflow and name of the step."""
    found = {}
    for path in sorted(FOLDER.glob("*.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job.get("steps", ()):
                if "run" in step:
                    found[path.stem, step["name"]] = step["run"]
    return found


SCRIPTS = steps_with_scripts()
ISSUE = "Open, update or close the issue"
TESTED = {
    ("setup", "Check that the state has a place"),
    ("preview", "Lint"),
    ("preview", "Audit"),
    ("preview", "Plan"),
    ("preview", "Fail if the change would be refused"),
    ("preview", "Create or update the comment"),
    ("deploy", "Queue"),
    ("drift", "Refresh and plan"),
    ("drift", ISSUE),
    ("watch", "Status"),
    ("watch", ISSUE),
    ("destroy", "Check that the state has a place"),
    ("destroy", "Check the typed name"),
    ("destroy", "Destroy"),
}


@dataclass
class Runner:
    """A runner's folder, with a checkout. `prints` and `codes`: what a program does, by its name or NAME-COMMAND."""

    folder: Path
    prints: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    def execute(self, workflow: str, step: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """With the shell and the options that `shell: bash` means on GitHub."""
        assert (workflow, step) in TESTED
        for name in ("flux", "bin/make", "bin/gh"):
            program = self.folder / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(PROGRAM, encoding="utf-8")
            program.chmod(0o755)
        for name, text in self.prints.items():
            (self.folder / f"{name}.out").write_text(text, encoding="utf-8")
        for name, code in self.codes.items():
            (self.folder / f"{name}.code").write_text(str(code), encoding="utf-8")
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "STACK": "prod",
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            **variables,
        }
        line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", SCRIPTS[workflow, step]]
        return subprocess.run(
            line, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def calls(self) -> list[str]:
        return self.read("calls").splitlines()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on the PATH (apt-get install jq)")


@pytest.mark.parametrize(
    ("variables", "code", "output", "said"),
    [
        ({}, 0, "", "::notice::skipped"),
        ({"OTHERS": "my-organization"}, 1, "", "::error::the variable PULUMI_BACKEND_URL is not set"),
        ({"PULUMI_BACKEND_URL": "s3://state"}, 0, "ready=true\n", ""),
    ],
)
def test_a_repository_without_setup_is_skipped_and_half_a_setup_is_an_error(
    variables: Mapping[str, str], code: int, output: str, said: str, runner: Runner
) -> None:
    given = {"PULUMI_BACKEND_URL": "", "OTHERS": "", **variables}
    done = runner.execute("setup", "Check that the state has a place", **given)
    assert (done.returncode, runner.read("output")) == (code, output)
    assert done.stdout.startswith(said)


def test_a_state_without_a_place_is_not_destroyed(runner: Runner) -> None:
    step = "Check that the state has a place"
    assert runner.execute("destroy", step, PULUMI_BACKEND_URL="").returncode == 1
    assert runner.execute("destroy", step, PULUMI_BACKEND_URL="s3://state").returncode == 0


@pytest.mark.parametrize(("typed", "code"), [("prod", 0), ("dev", 1)])
def test_the_name_of_a_stack_to_destroy_is_typed(typed: str, code: int, runner: Runner) -> None:
    assert runner.execute("destroy", "Check the typed name", TYPED=typed).returncode == code


def test_destroy_and_deploy_call_flux(runner: Runner) -> None:
    assert runner.execute("deploy", "Queue").returncode == 0
    assert runner.execute("destroy", "Destroy").returncode == 0
    assert runner.calls == ["flux up --stack prod --yes --no-wait", "flux destroy --stack prod --yes"]


@pytest.mark.parametrize(("has_stack", "options"), [(True, "--stack prod"), (False, "--all")])
def test_jobs_are_linted_before_there_is_a_stack(has_stack: bool, options: str, runner: Runner) -> None:
    if has_stack:
        (runner.folder / "Pulumi.prod.yaml").touch()
    runner.prints["flux"], runner.codes["flux"] = "1 error\n", 1
    assert runner.execute("preview", "Lint").returncode == 1
    assert (runner.calls, runner.read("summary")) == ([f"flux lint {options}"], "1 error\n")


@pytest.mark.parametrize("place", [".", "flux-training"])
def test_packages_are_audited(place: str, runner: Runner) -> None:
    (runner.folder / place).mkdir(exist_ok=True)
    runner.prints["make"] = "No known vulnerabilities\n"
    assert runner.execute("preview", "Audit").returncode == 0
    assert (runner.calls, runner.read("summary")) == (["make audit"], "No known vulnerabilities\n")


@pytest.mark.parametrize("code", [0, 1])
def test_a_refused_plan_is_commented_before_the_check_fails(code: int, runner: Runner) -> None:
    runner.prints["flux"], runner.codes["flux"] = "the plan\n", code
    assert runner.execute("preview", "Plan").returncode == 0
    assert runner.read("output") == f"code={code}\n"
    assert runner.read("plan.md") == runner.read("summary") == "the plan\n"
    assert runner.execute("preview", "Fail if the change would be refused", CODE=str(code)).returncode == code


def test_a_plan_without_text_is_an_error(runner: Runner) -> None:
    runner.codes["flux"] = 1
    assert runner.execute("preview", "Plan").returncode == 1


@needs_jq
@pytest.mark.parametrize(
    ("comments", "call"),
    [
        ([], "--method POST repos/me/loras/issues/7/comments -F"),
        ([{"id": 5, "user": {"type": "Bot"}, "body": "<!-- plan -->\nold"}], "--method PATCH repos/me/loras/issues/comments/5 -F"),
        ([{"id": 5, "user": {"type": "User"}, "body": "<!-- plan -->\nold"}], "--method POST repos/me/loras/issues/7/comments -F"),
    ],
)  # fmt: skip
def test_one_comment_is_created_or_updated(comments: list[dict[str, Any]], call: str, runner: Runner) -> None:
    (runner.folder / "plan.md").write_text("<!-- plan -->\nnew", encoding="utf-8")
    runner.prints["gh"] = json.dumps(comments)
    done = runner.execute("preview", "Create or update the comment", REPOSITORY="me/loras", NUMBER="7")
    assert done.returncode == 0
    assert runner.calls[1].startswith(f"gh api {call}")


def plan_of(what: str, cluster: list[str]) -> str:
    return json.dumps({"jobs": [{"name": "cat", "what": what}], "cluster": cluster})


@needs_jq
@pytest.mark.parametrize(
    ("what", "cluster", "code", "verdict"),
    [
        ("kept", [], 0, "fine"),
        ("goes on", [], 0, "fine"),
        ("failed before", [], 0, "fine"),
        ("trained", [], 0, "wrong"),
        ("kept", ["replicas"], 0, "wrong"),
        ("kept", [], 1, "wrong"),
    ],
)
def test_differences_are_found(
    what: str, cluster: list[str], code: int, verdict: str, runner: Runner
) -> None:
    runner.prints["flux-plan"], runner.codes["flux-plan"] = plan_of(what, cluster), code
    assert runner.execute("drift", "Refresh and plan").returncode == 0
    assert runner.read("verdict.txt") == f"{verdict}\n"
    assert runner.read("finding.md")


def test_a_failed_refresh_is_a_finding(runner: Runner) -> None:
    runner.prints["flux-refresh"], runner.codes["flux-refresh"] = "error: the key is refused\n", 1
    assert runner.execute("drift", "Refresh and plan").returncode == 0
    assert runner.read("verdict.txt") == "wrong\n"
    assert "error: the key is refused" in runner.read("finding.md")
    assert runner.calls == ["flux refresh --stack prod"]


@pytest.mark.parametrize(("code", "verdict"), [(0, "fine"), (1, "wrong")])
def test_a_job_that_failed_or_hangs_is_a_finding(code: int, verdict: str, runner: Runner) -> None:
    runner.prints["flux"], runner.codes["flux"] = "cat  failed\n", code
    assert runner.execute("watch", "Status").returncode == 0
    assert runner.read("verdict.txt") == f"{verdict}\n"
    assert "cat  failed" in runner.read("finding.md")
    assert runner.read("finding.md") == runner.read("summary")


@needs_jq
@pytest.mark.parametrize("workflow", ["drift", "watch"])
@pytest.mark.parametrize(
    ("verdict", "number", "call"),
    [
        ("wrong", None, "gh issue create"),
        ("wrong", 4, "gh issue edit 4"),
        ("fine", 4, "gh issue close 4"),
        ("fine", None, None),
    ],
)
def test_one_issue_is_opened_updated_and_closed(
    workflow: str, verdict: str, number: int | None, call: str | None, runner: Runner
) -> None:
    for name in ("verdict.txt", "finding.md"):
        (runner.folder / name).write_text(f"{verdict}\n", encoding="utf-8")
    issues = [{"number": 3, "title": "another"}, {"number": number, "title": "the title"}]
    runner.prints["gh"] = json.dumps(issues if number else issues[:1])
    done = runner.execute(workflow, ISSUE, REPOSITORY="me/loras", TITLE="the title")
    assert done.returncode == 0
    assert runner.calls[0].startswith("gh issue list")
    assert len(runner.calls) == (2 if call else 1)
    assert runner.calls[-1].startswith(call or "gh issue list")


def test_every_script_has_a_test() -> None:
    assert set(SCRIPTS) == TESTED
