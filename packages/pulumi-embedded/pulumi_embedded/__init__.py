"""Runs Pulumi Python programs without the Pulumi CLI. The command line is `python -m pulumi_embedded COMMAND`."""

VERSION = "0.2.0"
