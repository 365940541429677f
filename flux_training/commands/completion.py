"""`flux completion`: a script that lets a shell complete commands, options, job names and stacks."""

import os
from pathlib import Path

import rich_click as click
from click.shell_completion import get_completion_class

from flux_training.commands.stack.file import stack_names, stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import job_folder_names

PROGRAM, VARIABLE = "flux", "_FLUX_COMPLETE"
# Click's scripts for zsh and fish call the `flux` on the PATH. These replacements make them call the command as the user typed
# it, such as `./flux`.
AS_TYPED = {
    "bash": [],
    "zsh": [
        ("    (( ! $+commands[flux] )) && return 1\n", ""),
        ("zsh_complete flux)", "zsh_complete ${words[1]})"),
    ],
    "fish": [("(commandline -t) flux)", "(commandline -t) (commandline -opc)[1])")],
}


@click.command()
@click.argument("shell", type=click.Choice(list(AS_TYPED)))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, job names and stacks when you press Tab.

    bash: add `eval "$(/path/to/flux completion bash)"` to ~/.bashrc. zsh: the same with zsh in ~/.zshrc, below `compinit`.
    fish: add `/path/to/flux completion fish | source` to ~/.config/fish/config.fish.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click knows all three shells
    script = found(click.Command(PROGRAM), {}, PROGRAM, VARIABLE).source()
    for old, new in AS_TYPED[shell]:
        script = script.replace(old, new)
    click.echo(script)


def complete_stack(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The project's stacks that begin with the text."""
    return [name for name in stack_names(project_root()) if name.startswith(incomplete)]


def complete_job(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The job folders of the stack that begin with the text; none if the stack file cannot be used."""
    os.chdir(project_root())
    try:
        folder = stack_settings(project_root(), ctx.params.get("stack") or "dev").jobs_folder
    except BadInput:
        return []
    return [name for name in job_folder_names(Path(folder)) if name.startswith(incomplete)]
