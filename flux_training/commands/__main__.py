"""Starts the `flux` command.

Other imports come later: a full disk that has damaged Python's compiled files, or Ctrl-C, can make them fail.
"""

import sys

from flux_training.commands.interrupts import EXIT_INTERRUPTED, STOPPED, is_interrupt
from flux_training.training.compiled_files import describe_damaged_bytecode, disable_bytecode_if_disk_is_full


def run() -> None:
    disable_bytecode_if_disk_is_full()
    try:
        from flux_training.commands.main import run_command

        run_command()
    except (Exception, KeyboardInterrupt) as error:
        if damage := describe_damaged_bytecode(error):
            sys.exit(f"error: {damage}")
        if is_interrupt(error):
            sys.stderr.write(f"{STOPPED}\n")
            sys.exit(EXIT_INTERRUPTED)
        raise


if __name__ == "__main__":
    run()
