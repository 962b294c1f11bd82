#!/bin/sh
# The demonstrations: make demo, and with "agent" make demo-agent.  Wants git, Python 3.11+ with its headers, gcc and make.
set -eu
cd "$(dirname "$0")/../.."
PYTHON="${PYTHON:-python3}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "demo: $PYTHON is not Python 3.11 or newer; try make demo PYTHON=python3.12" >&2
    exit 1
}
SHOW="${1:-demo}"
WHAT=.
[ "$SHOW" = demo ] || WHAT=".[$SHOW]"
VENV="${VENV:-.venv-$SHOW-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}"
# again after a change of the sources: it is a copy of them that is installed
if [ ! -e "$VENV/.installed" ] ||
    [ -n "$(find src pyproject.toml setup.py -newer "$VENV/.installed" ! -path '*/__pycache__*' ! -path '*.egg-info*' -type f | head -n 1)" ]; then
    echo "== setting up $VENV"
    "$PYTHON" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$WHAT"
    touch "$VENV/.installed"
fi
exec "$VENV/bin/python" "examples/demo/$SHOW.py"
