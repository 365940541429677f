"""Starts the `flux` command. All other imports may fail where a full disk has damaged Python's compiled files."""

import sys

from flux_training.training.compiled_files import damage_behind, write_none_on_a_full_disk


def run() -> None:
    write_none_on_a_full_disk()
    try:
        from flux_training.commands.main import run_command

        run_command()
    except EOFError as error:
        if damage := damage_behind(error):
            sys.exit(f"error: {damage}")
        raise


if __name__ == "__main__":
    run()
