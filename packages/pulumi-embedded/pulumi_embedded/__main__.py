"""`python -m pulumi_embedded COMMAND`: see `cli.py`."""

import sys

from pulumi_embedded.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
