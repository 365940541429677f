"""Starts the `flux` command.

Other imports come later: a full disk that has damaged Python's compiled files, or Ctrl-C, can make them fail.
"""

import sys

from flux_training.commands.interrupts import HANDLER, catch_interrupts, end_silently, exit_interrupted
from flux_training.training.compiled_files import describe_damaged_bytecode, disable_bytecode_if_disk_is_full


def run() -> None:
    try:
        catch_interrupts()
        disable_bytecode_if_disk_is_full()
        from flux_training.commands.main import run_command

        run_command()
    except (Exception, KeyboardInterrupt) as error:
        if damage := describe_damaged_bytecode(error):
            sys.exit(f"error: {damage}")
        if HANDLER.was_called or isinstance(error, KeyboardInterrupt):
            exit_interrupted()
        raise
    finally:
        end_silently()


if __name__ == "__main__":
    run()
