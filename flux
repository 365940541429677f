#!/bin/sh
# The `flux` command of this checkout: `./flux --help`.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
make -s -C "$here" ready >&2 || exit 1
# As in the Makefile: otherwise each Python process would compile all modules again.
unset PYTHONDONTWRITEBYTECODE
# File names, captions and messages are UTF-8, whatever the locale says.
export PYTHONUTF8=1
# -P: modules in the working directory must not be imported.
PYTHONPATH="$here" exec "$here/.venv/bin/python" -P -m flux_training.commands "$@"
