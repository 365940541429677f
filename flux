#!/bin/sh
# The `flux` command of this checkout: `./flux --help`.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
make -s -C "$here" ready >&2 || exit 1
# As in the Makefile: its processes would compile everything anew, each of them.
unset PYTHONDONTWRITEBYTECODE
# -P: the folder it is called from, which may be a stranger's, is not looked in for modules.
PYTHONPATH="$here" exec "$here/.venv/bin/python" -P -m flux_training.commands "$@"
