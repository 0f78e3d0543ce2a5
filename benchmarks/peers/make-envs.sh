#!/bin/sh
# Makes an environment for each peer, or for those named, under benchmarks/peers/.envs: never in the project's own.
# Ray Serve needs none: it is a dependency of ours, at the version of constraints.txt.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
[ $# -gt 0 ] || set -- triton mosec litserve bytewax
for peer in "$@"; do
    echo "environment of $peer"
    "$python" -m venv ".envs/$peer"
    ".envs/$peer/bin/python" -m pip --disable-pip-version-check install --quiet -r "requirements-$peer.txt"
    touch ".envs/$peer/.installed"
done
