"""`flux lint` in a pipe and on a terminal."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.flux import HALF_WRITTEN
from tests.training.lint_folders import MISTAKES, make_clean_job

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("flux_training",)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clean_job(tmp_path_factory.mktemp("clean"), "cat")


@pytest.fixture
def checkout(tmp_path: Path, clean: Path) -> Iterator[Path]:
    """A checkout with the clean job `cat`, declared, and the clean job `dog`, not declared."""
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=HALF_WRITTEN)
    shutil.copytree(clean, tmp_path / "jobs/cat")
    shutil.copytree(clean, tmp_path / "jobs/dog")
    path = tmp_path / "jobs/dog/train.yml"
    path.write_text(path.read_text(encoding="utf-8").replace('"cat"', '"dog"'), encoding="utf-8")
    declare(tmp_path, cat={})
    return tmp_path


def declare(checkout: Path, stack: str = "dev", **jobs: object) -> None:
    config = {
        "flux-training:cloud": "salad",
        "flux-training:storage": {"bucket": "bucket"},
        "flux-training:saladApiKey": {"secure": "v1:abc"},
        "flux-training:jobs": jobs,
    }
    (checkout / f"Pulumi.{stack}.yaml").write_text(yaml.safe_dump({"config": config}), encoding="utf-8")


def command(checkout: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX_", "PULUMI_"))}
    line = [sys.executable, "-m", "flux_training.commands", "lint", *arguments]
    return line, {**kept, "PYTHONPATH": str(checkout), "TERM": "xterm-256color"}


def lint(checkout: Path, *arguments: str, where: str = ".") -> tuple[int, str]:
    """In a pipe: exit code, and what was printed."""
    line, environment = command(checkout, *arguments)
    done = subprocess.run(
        line, cwd=checkout / where, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def lint_on_a_terminal(checkout: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    line, environment = command(checkout, *arguments)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line, cwd=checkout, env=environment | variables, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = b""
    try:
        while block := os.read(ours, 4096):
            printed += block
    except OSError:  # the other side has closed it
        pass
    os.close(ours)
    return process.wait(timeout=60), printed.decode()


def test_a_clean_job_has_no_findings_and_undeclared_jobs_are_named(checkout: Path) -> None:
    code, printed = lint(checkout)
    assert code == 0
    assert "1 job, 0 errors, 0 warnings" in printed
    assert "Not checked, because stack dev does not declare them: dog" in printed
    assert lint(checkout, "--all")[1].startswith("2 jobs, 0 errors")


def test_findings_are_grouped_by_job_with_file_and_line(checkout: Path) -> None:
    MISTAKES["model-path"](checkout / "jobs/cat")
    MISTAKES["caption-trigger"](checkout / "jobs/cat")
    MISTAKES["caption-trigger"](checkout / "jobs/dog")
    code, printed = lint(checkout, "--all", "--each")
    assert code == 1
    head, cat, dog = printed.partition("cat\n")[0], *printed.partition("cat\n")[2].split("\ndog\n")
    assert head == ""
    lines = (checkout / "jobs/cat/train.yml").read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "name_or_path" in line)
    assert f"jobs/cat/train.yml:{number}: " in cat
    assert cat.index("error model-path") < cat.index("warning caption-trigger")
    assert "fix: " in cat
    assert "jobs/dog/dataset/00001.txt: it does not contain the trigger word" in dog
    assert "2 jobs, 1 error, 2 warnings" in dog
    assert "\x1b" not in printed


def test_output_is_coloured_only_on_a_terminal_without_no_color(checkout: Path) -> None:
    MISTAKES["model-path"](checkout / "jobs/cat")
    code, printed = lint_on_a_terminal(checkout)
    assert code == 1
    assert "\x1b[1;31merror\x1b[0m: jobs/cat/train.yml" in printed
    code, printed = lint_on_a_terminal(checkout, NO_COLOR="1")
    assert "model-path" in printed
    assert "31m" not in printed


def test_findings_of_one_rule_are_one_line_wrapped_to_the_terminal(checkout: Path) -> None:
    dataset = checkout / "jobs/cat/dataset"
    for number in range(1, 16):
        source = dataset / f"{(number - 1) % 8 + 1:05}.jpg"
        shutil.copy(source, dataset / f"x{number}.jpg")
        (dataset / f"x{number}.txt").write_text(f"nothing {number}", encoding="utf-8")
    in_a_pipe = lint(checkout)[1].splitlines()
    [line] = [line for line in in_a_pipe if "caption-trigger" in line]
    assert line.startswith(
        "warning: jobs/cat/dataset/x1.txt, x10.txt, x11.txt and 12 more: it does not contain"
    )
    assert line.endswith("[caption-trigger]; `./flux lint --each` shows all")
    printed = lint_on_a_terminal(checkout, NO_COLOR="1", COLUMNS="70")[1]
    shown = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", printed[printed.index("warning: ") :])
    assert max(map(len, shown.splitlines())) <= 70
    # Nothing is left out; the lines after the first are indented.
    assert shown.split() == " ".join(in_a_pipe).split()
    assert lint(checkout, "--each")[1].count("it does not contain the trigger word `tr1gger`") == 15


def test_warnings_fail_only_with_strict(checkout: Path) -> None:
    MISTAKES["caption-trigger"](checkout / "jobs/cat")
    assert lint(checkout)[0] == 0
    assert lint(checkout, "--strict")[0] == 1


@pytest.mark.parametrize(
    ("argument", "where"),
    [
        ("dog", "."),
        ("jobs/dog", "."),
        ("jobs/dog/", "."),
        ("jobs/dog/dataset/00001.txt", "."),
        ("dog", "jobs"),
        ("train.yml", "jobs/dog"),
    ],
)
def test_a_job_can_be_given_by_name_folder_or_file(checkout: Path, argument: str, where: str) -> None:
    MISTAKES["model-path"](checkout / "jobs/dog")
    code, printed = lint(checkout, argument, where=where)
    assert (code, "1 job, 1 error" in printed) == (1, True)


def test_a_stack_file_stands_for_all_declared_jobs(checkout: Path) -> None:
    assert "1 job, 0 errors" in lint(checkout, "Pulumi.dev.yaml")[1]
    assert "2 jobs, 0 errors" in lint(checkout, "Pulumi.dev.yaml", "jobs/dog/train.yml")[1]


@pytest.mark.long
def test_several_stack_files_are_checked_separately(checkout: Path) -> None:
    MISTAKES["model-path"](checkout / "jobs/dog")
    declare(checkout, "prod", dog={})
    assert lint(checkout, "Pulumi.dev.yaml")[0] == 0
    code, printed = lint(checkout, "Pulumi.prod.yaml")
    assert (code, "1 job, 1 error" in printed) == (1, True)
    code, printed = lint(checkout, "../Pulumi.dev.yaml", "../Pulumi.prod.yaml", where="jobs")
    assert (code, printed.count("1 job, "), "Stack dev" in printed, "Stack prod" in printed) == (
        1,
        2,
        True,
        True,
    )
    document = json.loads(lint(checkout, "--json", "Pulumi.dev.yaml", "Pulumi.prod.yaml")[1])
    assert (document["jobs"], document["errors"]) == (["cat", "dog"], 1)


def test_json_counts_a_finding_in_two_stacks_once(checkout: Path) -> None:
    MISTAKES["model-path"](checkout / "jobs/cat")
    declare(checkout, "prod", cat={})
    document = json.loads(lint(checkout, "--json", "Pulumi.dev.yaml", "Pulumi.prod.yaml")[1])
    assert (document["jobs"], document["errors"]) == (["cat"], 1)


def test_errors_of_all_stack_files_are_reported(checkout: Path) -> None:
    declare(checkout, cat={"lnt": 1})
    declare(checkout, "prod", cat={"atempt": 1})
    code, printed = lint(checkout, "Pulumi.dev.yaml", "Pulumi.prod.yaml")
    assert (code, "lnt" in printed, "atempt" in printed) == (1, True, True)


def test_an_unknown_job_is_reported_with_the_nearest_name(checkout: Path) -> None:
    code, printed = lint(checkout, "dgo")
    assert code == 1
    assert "`dgo` is not a job folder below jobs (did you mean `dog`?)" in printed


def test_the_json_output_is_complete(checkout: Path) -> None:
    MISTAKES["model-path"](checkout / "jobs/cat")
    MISTAKES["image-few"](checkout / "jobs/cat")
    declare(checkout, cat={"lint": {"silence": {"image-few": "seven will do"}}})
    code, printed = lint(checkout, "--json")
    document = json.loads(printed)
    assert code == 1
    assert (document["jobs"], document["errors"], document["warnings"]) == (["cat"], 1, 0)
    (finding,) = document["findings"]
    assert finding["code"] == "model-path"
    assert finding.keys() == {"code", "severity", "path", "line", "message", "rule", "mend", "job"}
    (silenced,) = document["silenced"]
    assert (silenced["code"], silenced["reason"]) == ("image-few", "seven will do")
    assert "1 silenced" in lint(checkout)[1]


def test_an_invalid_stack_file_is_reported(checkout: Path) -> None:
    declare(checkout, cat={"lint": {"silence": {"image-fwe": "x"}}})
    code, printed = lint(checkout)
    assert code == 1
    assert "`image-fwe` is not a lint rule (did you mean `image-few`?)" in printed
    assert "there is no Pulumi.prod.yaml" in lint(checkout, "--stack", "prod")[1]


def test_no_cache_disables_the_cache(checkout: Path) -> None:
    lint(checkout, "--no-cache")
    assert not (checkout / ".flux-cache").exists()


def test_the_pre_commit_hook_checks_every_stack_after_a_deletion(checkout: Path) -> None:
    """pre-commit does not pass deleted files, so the hook takes no file names and always checks all declared jobs."""
    config = yaml.safe_load((ROOT / ".ci/pre-commit-config.yaml").read_text(encoding="utf-8"))
    (hook,) = config["repos"][0]["hooks"]
    assert (hook["always_run"], hook["pass_filenames"], "files" in hook) == (True, False, False)
    # The real script would create a virtual environment here.
    (checkout / "flux").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m flux_training.commands "$@"\n', encoding="utf-8"
    )
    (checkout / "flux").chmod(0o755)
    declare(checkout, "prod", dog={})
    next((checkout / "jobs/dog/dataset").glob("*.txt")).unlink()
    line = shlex.split(hook["entry"])
    environment = command(checkout)[1]
    done = subprocess.run(
        line, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "caption-missing" in done.stdout
    assert "Stack prod" in done.stdout
