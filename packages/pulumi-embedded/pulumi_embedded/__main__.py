"""`python -m pulumi_embedded COMMAND` and the console script `pulumi-embedded`."""

import sys

from pulumi_embedded.cli.main import run_command


def main() -> int:
    """Run the command line of this process."""
    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
