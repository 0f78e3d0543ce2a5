#!/bin/sh
# Installs what speech and video need into .venv, pinned, after scripts/make-venv.sh.
set -eu
cd "$(dirname "$0")/.."
[ -t 1 ] && quiet= || quiet=--quiet
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

echo "installing speech and video into .venv: about 250 MB to fetch, a minute or more the first time"
pip install $quiet -c constraints.txt -e '.[media]'
pip install $quiet --no-deps -r requirements-media.txt
