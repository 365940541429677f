"""`flux init`: makes a project of your own, with the tool in it as a git submodule."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import rich_click as click

from flux_training.commands.cli import UserPath, say, say_wrapped
from flux_training.commands.init.existing import existing_setup
from flux_training.commands.stack.file import stack_path
from flux_training.commands.stack.project import TOOL_FOLDER, tool_root
from flux_training.commands.stack.yaml_file import load_yaml
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import add_file_name_to_errors
from flux_training.training.schemas import stack_schema, train_schema
from flux_training.training.words import DEFAULT_STACK

PACKAGE = "flux-training"
# A placeholder in messages for the address of the tool's repository, which only the user knows.
UNKNOWN = "ADDRESS"
# The files of the tool in a clone. Job folders and stack files are excluded: they are the user's own.
TOOL_FILES = (".", ":!jobs", ":!Pulumi*.yaml")
# Arguments of `git rev-list` that leave out commits that the server already has.
NOT_PUBLISHED = ("--not", "--remotes=origin")
TEMPLATES = Path(__file__).parent / "templates"
# Template files whose name differs from that of the file that they become, because linters, git or the link test would
# otherwise read them.
RENAMED = {"README.template": "README.md", "__main__.py.txt": "__main__.py", "gitignore": ".gitignore"}
EXECUTABLE = "flux"
# Pulumi allows longer names, but the project's name is also the namespace of its settings.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}", re.ASCII)
# The workflows check out the tool itself without submodules. In a user's project the tool is a submodule, so the step needs
# this option.
CHECKOUT_OPTION, WITH_TOOL = "persist-credentials: false\n", "submodules: true\n"


@click.command()
@click.argument("folder", type=UserPath(path_type=Path))
@click.option(
    "--name",
    help="The project's name: the namespace of its settings. [default: the folder's name, or that of CLONE]",
)
@click.option(
    "--from",
    "clone",
    metavar="CLONE",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="Move the setup of this clone to the new project: copy its stack files and job folders, move its state, local cloud "
    "and results. Nothing is trained again.",
)
def init(folder: Path, name: str | None, clone: Path | None) -> None:
    """Make a project of your own in FOLDER: a git repository for your photos, jobs and stacks, with this tool as a submodule.

    The tool gets its own virtual environment there at the first command.
    """
    folder = folder.resolve()
    setup = existing_setup(clone, name) if clone else None
    name = setup.renaming.new if setup else name or folder.name
    tool = tool_root()
    _refuse_unusable_folder(folder, name, tool)
    if setup:
        setup.check()
    commit = commit_of_tool(tool)
    if note := why_clones_lack_the_tool(tool, commit):
        say_wrapped(note)
    if _git(tool, "status", "--porcelain", "--", *TOOL_FILES):
        say_wrapped(f"note: the changes in {tool} that are not committed are not in the new project")
    folder.mkdir(parents=True, exist_ok=True)
    with add_file_name_to_errors(folder):
        write_project(folder, name, tool)
        if setup:
            setup.copy_to(folder)
    _git(folder, "init", "--quiet")
    _add_tool(folder, tool, commit)
    # Write the project before moving anything, so that a failure leaves the clone as it was. Git ignores the files that are
    # moved later.
    _git(folder, "add", "--all")
    moved = setup.move_to(folder) if setup else []
    say_wrapped(
        f"{folder}: the project {name}, a git repository with the tool at commit {commit[:12]} in {TOOL_FOLDER}/"
    )
    if setup:
        say_wrapped(
            f"Moved here from {setup.root}: {', '.join(moved) or 'nothing, it had no state'}. Its stack files and jobs are copies: "
            "do not run `make up` there any more."
        )
        say(f'Next:\n  cd {shlex.quote(str(folder))}\n  make plan\n  git commit -m "Moved from a clone"')
        return
    say(
        f"Next:\n  cd {shlex.quote(str(folder))}\n"
        '  ./flux new NAME --from PHOTOS --trigger "tr1gger word" --stack dev\n'
        "  ./flux caption NAME\n"
        "  make up\n"
        '  git add --all && git commit -m "First job"'
    )


def write_project(folder: Path, name: str, tool: Path) -> None:
    """Write the files of the project. Raises FluxError if the tool's stack file cannot be read."""
    values = {"name": name, "salt": _salt(tool)}
    for template in sorted(TEMPLATES.iterdir()):
        path = folder / RENAMED.get(template.name, template.name)
        path.write_text(fill_in_template(template.read_text(encoding="utf-8"), values), encoding="utf-8")
    (folder / EXECUTABLE).chmod(0o755)
    for schema, content in (("stack", stack_schema(name)), ("train", train_schema())):
        path = folder / "schemas" / f"{schema}.schema.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tool / ".gitattributes", folder / ".gitattributes")
    (folder / "jobs").mkdir()
    (folder / "jobs" / ".gitkeep").touch()
    workflows = folder / ".github" / "workflows"
    workflows.mkdir(parents=True)
    for workflow in sorted((tool / ".github" / "workflows").glob("*.yml")):
        text = workflow.read_text(encoding="utf-8")
        (workflows / workflow.name).write_text(check_out_with_submodules(text), encoding="utf-8")


def fill_in_template(text: str, values: Mapping[str, str]) -> str:
    """Replace `{{name}}` by the value of `name`, and so on."""
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def check_out_with_submodules(workflow: str) -> str:
    """The workflow, with the tool's submodule checked out too."""
    indent = r"(?m)^( *)" + re.escape(CHECKOUT_OPTION)
    return re.sub(indent, lambda match: match[0] + match[1] + WITH_TOOL, workflow)


def _refuse_unusable_folder(folder: Path, name: str, tool: Path) -> None:
    """Raises BadInput with every finding."""
    findings = []
    if not (tool / ".git").exists():
        source = git_source_of_package()
        command = f"git clone {source} {TOOL_FOLDER} && {TOOL_FOLDER}/flux init {shlex.quote(str(folder))}"
        where = f", with the address of the tool's repository for {UNKNOWN}" if source == UNKNOWN else ""
        findings.append(
            f"this flux runs from {tool}, which is not a git repository, but a project contains the tool as a git submodule; run `{command}`{where}"
        )
    if folder.exists() and (not folder.is_dir() or any(path.name != ".git" for path in folder.iterdir())):
        findings.append(f"{folder}: exists and is not empty; give the name of a new folder")
    if not NAME.fullmatch(name):
        findings.append(
            f"{name!r} is not a valid project name: a name begins with a letter and has up to 50 letters, digits, hyphens and "
            "underscores; choose one with `--name my-loras`"
        )
    if findings:
        raise BadInput(findings)


def git_source_of_package() -> str:
    """What git can clone the tool from: pip notes where it installed a package from (PEP 610). ADDRESS if that is no repository."""
    with suppress(PackageNotFoundError, ValueError):
        noted = json.loads(distribution(PACKAGE).read_text("direct_url.json") or "{}")
        if "vcs_info" in noted or "dir_info" in noted:
            return shlex.quote(str(noted["url"]))
    return UNKNOWN


def commit_of_tool(tool: Path) -> str:
    """The newest commit that others can fetch, if it has the same tool as the checkout; otherwise the checkout's commit.

    `flux cancel` and `retry` advise to commit the stack's file, so a clone often has commits of its own that change no part of the tool.
    """
    head = _git(tool, "rev-parse", "HEAD")
    boundary = _git(tool, "rev-list", "--boundary", "HEAD", *NOT_PUBLISHED).splitlines()
    # After a merge there are several: the commits at which the clone left the published ones.
    published = [line[1:] for line in boundary if line.startswith("-")]
    return next(
        (one for one in published if not _git(tool, "diff", "--name-only", one, head, "--", *TOOL_FILES)),
        head,
    )


def why_clones_lack_the_tool(tool: Path, commit: str) -> str:
    """Why a clone of the project elsewhere could not fetch the tool, and what to do; empty if it can."""
    source = _submodule_address(tool)
    elsewhere = "so a clone of the project on another machine cannot fetch it"
    if (tool / source.removeprefix("file://")).exists():
        fix = f"publish the tool, then run `git submodule set-url {TOOL_FOLDER} ADDRESS` in the project"
        return f"note: the tool comes from {source}, a folder on this machine, {elsewhere}; {fix}"
    if not _git(tool, "rev-list", "--max-count=1", commit, *NOT_PUBLISHED):
        return ""
    fix = f"run `git push` in {tool} before you share the project"
    return f"note: commit {commit[:12]} of the tool is not in {source}, {elsewhere}; {fix}"


def _submodule_address(tool: Path) -> str:
    """The address from which clones of the project fetch the tool."""
    return _git(tool, "config", "--default", str(tool), "remote.origin.url")


def _salt(tool: Path) -> str:
    """The salt of the local stack, which has no secret."""
    document = load_yaml(stack_path(tool, DEFAULT_STACK).read_text(encoding="utf-8"))
    return str(document["encryptionsalt"])


def _add_tool(folder: Path, tool: Path, commit: str) -> None:
    """Clone the tool from this checkout, without the network, and record where it came from as a submodule."""
    place = folder / TOOL_FOLDER
    _git(folder, "clone", "--quiet", "--no-checkout", str(tool), TOOL_FOLDER)
    _git(place, "checkout", "--quiet", "--detach", commit)
    source = _submodule_address(tool)
    _git(place, "remote", "set-url", "origin", source)
    _git(folder, "submodule", "--quiet", "add", "--", source, TOOL_FOLDER)


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises FluxError."""
    try:
        done = subprocess.run(  # noqa: S603 - arguments of our own
            ["git", *arguments],  # noqa: S607 - the git on the PATH
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise FluxError(
            "there is no `git` on the PATH", "a project is a git repository", "install git"
        ) from None
    if done.returncode != 0:
        what = f"`git {' '.join(arguments)}` failed in {folder}: {done.stderr.strip()}"
        raise FluxError(
            what,
            "flux-training is cloned from its git checkout",
            "fix the cause and delete the new folder, then try again",
        )
    return done.stdout.strip()
