#!/bin/sh
# The `flux` command of this checkout: `./flux --help`.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
if command -v make >/dev/null; then
	make -s -C "$here" ready >&2 || exit 1
elif [ ! -e "$here/.venv/ready" ]; then
	echo "error: make is missing, which the first start needs; install it: \`sudo apt install make\` (Debian, Ubuntu)," \
		"\`sudo dnf install make\` (Fedora) or \`xcode-select --install\` (macOS)" >&2
	exit 1
fi
# As in the Makefile: otherwise each Python process would compile all modules again.
unset PYTHONDONTWRITEBYTECODE
# File names, captions and messages are UTF-8, whatever the locale says.
export PYTHONUTF8=1
# SIGINT is ignored until the command can handle it, because Python prints a traceback if it is interrupted while starting.
if [ -t 0 ]; then trap '' INT; fi
# -P: modules in the working directory must not be imported.
PYTHONPATH="$here" exec "$here/.venv/bin/python" -P -m flux_training.commands "$@"
