#!/bin/sh
# Makes .venv and installs this project into it, editable and pinned. Needs Python 3.11 or newer with venv, no more.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() { echo "make setup: $1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "there is no $python. On Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Python 3.11 or newer, please (make setup PYTHON=python3.12 names another one)"

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # none yet, or one that was never finished
    "$python" -c 'import ensurepip' 2>/dev/null ||
        fail "this Python cannot make virtual environments. On Debian: apt-get install python3-venv"
    "$python" -m venv --clear .venv
fi

echo "installing into .venv, pinned by constraints.txt: a minute or more the first time"
[ -t 1 ] && quiet= || quiet=--quiet # progress bars for a person, silence for a log
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install $quiet --no-compile -c constraints.txt -e '.[dev]'
pip install $quiet --no-compile --no-deps -r requirements-demo.txt
