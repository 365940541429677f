"""Runs Pulumi Python programs without the Pulumi CLI. The command line is `python -m pulumi_embedded COMMAND`."""

VERSION = "0.2.0"
# The release of the Pulumi CLI whose commands, state files and output this engine reproduces.
CLI_VERSION = "3.276.0"
