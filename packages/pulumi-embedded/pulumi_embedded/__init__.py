"""Pulumi for machines without the Pulumi CLI: runs a Python program with dynamic providers, state in a folder or bucket.

Start with `README.md`; the command line is `python -m pulumi_embedded COMMAND`.
"""

VERSION = "0.1.0"
