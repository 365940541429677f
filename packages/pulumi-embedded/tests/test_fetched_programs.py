"""Programs from Pulumi's own integration tests, run by the CLI and by the engine: the same exit codes and the same states.

They are not part of this repository: PULUMI_PROGRAMS is the folder `tests/integration` of a checkout of pulumi/pulumi.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, essence
from engine_stack import PACKAGE_FOLDER

PROGRAMS = os.environ.get("PULUMI_PROGRAMS")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH"),
    pytest.mark.skipif(PROGRAMS is None, reason="PULUMI_PROGRAMS is not set"),
]
# Ids that programs and providers make up, and where a class of `__main__` was pickled.
MADE_UP = re.compile(r'"(id|__provider)": "[^"]*"|[0-9a-f]{30}')

# Edits the class of a dynamic provider, whose pickled form is an input of its resources.
PROVIDER_CLASS = re.compile(r"(?m)^class \w+\((?:\w+\.)*ResourceProvider\):\n")
SUMMARY = re.compile(r"(?m)^ +(?:[-+~]+ ?)(\d+ (?:created|updated|replaced|deleted))$")

# The CLI stores a provider for the function that looks up a resource of the stack.
ONLY_OF_THE_CLI = '"type": "pulumi:providers:pulumi"'


@dataclass(frozen=True)
class ProgramSteps:
    """`steps` are copied over each other, as the integration tests do. `config`: arguments of `config set-all`."""

    steps: tuple[str, ...]
    config: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.steps[0].replace("/", "-")


COLOURS = ("--secret=password=s3cret", "--plaintext=colors:banana=yellow")
BASIC = (
    "--path",
    "--plaintext=aConfigValue=this value is a Pythonic value",
    "--secret=bEncryptedSecret=this super Pythonic secret is encrypted",
    "--plaintext=outer.inner=value",
    "--plaintext=names[0]=a",
    "--plaintext=names[1]=b",
    "--plaintext=names[2]=c",
    "--secret=names[3]=super secret name",
    "--plaintext=servers[0].port=80",
    "--plaintext=servers[0].host=example",
    "--plaintext=a.b[0].c=true",
    "--plaintext=a.b[1].c=false",
    "--secret=tokens[0]=shh",
    "--secret=foo.bar=don't tell",
)
LIST = (
    ProgramSteps(("aliases/python/step1", "aliases/python/step2")),
    ProgramSteps(("config_basic/python",), BASIC),
    ProgramSteps(("config_missing/python",)),
    ProgramSteps(("custom_timeouts/python/success",)),
    ProgramSteps(("custom_timeouts/python/failure",)),
    ProgramSteps(("dynamic/python",)),
    ProgramSteps(("dynamic/python-config",), COLOURS),
    ProgramSteps(("dynamic/python-config-separate-module",), COLOURS),
    ProgramSteps(("dynamic/python-disable-serialization-as-secret",)),
    ProgramSteps(("dynamic/python-read-inputs",)),
    ProgramSteps(("dynamic/python-resource-type-name",)),
    ProgramSteps(("dynamic/python-secrets",), COLOURS),
    ProgramSteps(("empty/python",)),
    ProgramSteps(("enums/python",)),
    ProgramSteps(("get_resource/python",)),
    ProgramSteps(("partial_values/python",)),
    ProgramSteps(("printf/python",)),
    ProgramSteps(("python/duplicate-output",)),
    ProgramSteps(("python/dynamic-provider/pip",)),
    ProgramSteps(("python/implicit-dependency-cycles",)),
    ProgramSteps(("python/pylint",)),
    ProgramSteps(("python/resource_args",)),
    ProgramSteps(("python/translation",)),
    ProgramSteps(("python_await/asyncio_tasks",)),
    ProgramSteps(("python_await/create_inside_apply",)),
    ProgramSteps(("python_await/error_handling",)),
    ProgramSteps(("python_await/failure",)),
    ProgramSteps(("python_await/failure_exported_output",)),
    ProgramSteps(("python_await/multiple_outputs",)),
    ProgramSteps(("python_await/success",)),
    ProgramSteps(("secret_outputs/python",)),
    ProgramSteps(("stack_outputs/python",)),
    ProgramSteps(("stack_outputs_program_error/python/step1", "stack_outputs_program_error/python/step2")),
    ProgramSteps(("types/python/declared",)),
    ProgramSteps(("types/python/simple",)),
)


@dataclass(frozen=True)
class SeenStep:
    """What one command did: its exit code, the counts that it printed, and the resources in the state afterwards."""

    command: str
    code: int
    counts: list[str]
    resources: list[str]


class FetchedProgram:
    """The program in a folder of its own, driven by one tool."""

    def __init__(self, folder: Path, program: ProgramSteps, command: Sequence[str]) -> None:
        self.folder, self.program, self.command = folder / "program", program, command
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PULUMI")},
            "PULUMI_CONFIG_PASSPHRASE": "fetched",
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PYTHONPATH": str(PACKAGE_FOLDER),
            "PATH": path,
        }
        self.seen: list[SeenStep] = []
        self.printed: list[str] = []

    def life(self) -> None:
        """Create, nothing to do, update, replace, destroy."""
        self.copy(self.program.steps[0])
        self.run("stack", "init", "dev")
        if self.program.config:
            self.run("config", "set-all", *self.program.config)
        self.step("up")
        self.step("up")
        for step in self.program.steps[1:]:
            self.copy(step)
            self.step("up")
        self.edit()
        self.step("up")
        urns = [item["urn"] for item in self.state().get("resources", []) if "dynamic" in item["type"]]
        if urns:
            self.step("up", *(f"--replace={urn}" for urn in sorted(urns)))
            assert f"{len(urns)} replaced" in self.seen[-1].counts
        self.step("destroy")

    def edit(self) -> None:
        """A new output of the stack, and a new attribute in each class of a dynamic provider."""
        for file in self.folder.glob("*.py"):
            file.write_text(PROVIDER_CLASS.sub(r"\g<0>    edited = True\n", file.read_text()))
        with (self.folder / "__main__.py").open("a") as main:
            main.write("\nimport pulumi as pulumi_\npulumi_.export('updated', [1, {'a': True}])\n")

    def copy(self, step: str) -> None:
        shutil.copytree(Path(PROGRAMS or "") / step, self.folder, dirs_exist_ok=True)
        project = self.folder / "Pulumi.yaml"
        project.write_text(re.sub(r"(?m)^  options:\n(    .*\n?)+", "", project.read_text()))

    def step(self, *arguments: str) -> None:
        code = self.run(*arguments, "--yes", "--skip-preview")
        resources = sorted(
            MADE_UP.sub("MADE UP", line.replace(str(self.folder), "FOLDER"))
            for line in essence(self.state())
            if ONLY_OF_THE_CLI not in line
        )
        counts = SUMMARY.findall(self.printed[-1])
        self.seen.append(SeenStep(" ".join(arguments), code, counts, resources))

    def run(self, *arguments: str) -> int:
        done = subprocess.run(
            [*self.command, *arguments, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.printed.append(f"$ {' '.join(arguments)}\n{done.stdout}{done.stderr}exit code {done.returncode}")
        return done.returncode

    def state(self) -> dict[str, Any]:
        (file,) = self.folder.parent.glob(".pulumi/stacks/*/dev.json")
        latest: dict[str, Any] = json.loads(file.read_text())["checkpoint"]["latest"]
        return latest


@pytest.mark.parametrize("program", LIST, ids=str)
def test_the_engine_does_what_the_cli_does(program: ProgramSteps, tmp_path: Path) -> None:
    by_cli = FetchedProgram(tmp_path / "cli", program, [str(CLI)])
    by_engine = FetchedProgram(tmp_path / "engine", program, [sys.executable, "-m", "pulumi_embedded"])
    for run in (by_cli, by_engine):
        run.life()
        print(*run.printed, sep="\n")
    for ours, theirs in zip(by_engine.seen, by_cli.seen, strict=True):
        assert ours == theirs
