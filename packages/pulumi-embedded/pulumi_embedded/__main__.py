"""`python -m pulumi_embedded COMMAND` and the console script `pulumi-embedded`."""

import sys


def main() -> int:
    """Run the command line of this process."""
    try:
        from pulumi_embedded.cli.main import run_command

        return run_command(sys.argv[1:])
    # The user pressed Ctrl-C while the modules were being imported.
    except KeyboardInterrupt:
        sys.stderr.write("error: canceled\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
