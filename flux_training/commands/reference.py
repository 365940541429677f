"""docs/commands.md: what `flux … --help` says of every command, for those who read before they type."""

from __future__ import annotations

import inspect

import rich_click as click

HEAD = """\
# Commands

Made by `make generated` from what `./flux COMMAND --help` prints; a test holds both together.
"""


def commands_document(group: click.Group) -> str:
    """Every command in the order of `--help`: its words, its arguments and its options."""
    context = click.Context(group, info_name="flux")
    parts = [HEAD, _plain(inspect.cleandoc(group.help or ""))]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            parts += _section(command, f"./flux {name}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(command: click.Command, line: str) -> list[str]:
    if isinstance(command, click.Group):
        parts = [f"## `{line}`", _plain(inspect.cleandoc(command.help or ""))]
        for name, below in command.commands.items():
            parts += _section(below, f"{line} {name}")
        return parts
    context = click.Context(command)
    usage = " ".join([line, *command.collect_usage_pieces(context)])
    parts = [f"## `{usage}`", _plain(inspect.cleandoc(command.help or ""))]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if options:
        rows = [f"| {_names(option)} | {_words(option)} |" for option in options]
        parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return parts


def _names(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return f"`{', '.join([*option.opts, *option.secondary_opts])}{value}`".replace("|", "\\|")


def _words(option: click.Option) -> str:
    words = [option.help or ""]
    if option.show_default and not option.is_flag:
        words.append(f"Default: `{option.default}`.")
    if option.envvar:
        words.append(f"Also from `{option.envvar}`.")
    return _plain(" ".join(words)).replace("|", "\\|")


def _plain(text: str) -> str:
    """`<stack>` stays to be read, and is no tag."""
    return text.replace("<", "\\<")
