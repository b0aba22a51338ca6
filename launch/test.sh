#!/usr/bin/env bash
# Lints and tests, in the virtual environment of launch/setup_venv.sh.
#
#   bash launch/test.sh                                       everything
#   bash launch/test.sh tests/models -k alignment             takes what pytest takes
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/setup_venv.sh"
setup_venv "$root"
cd "$root"

"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check --quiet .
"$VENV_PYTHON" -m codespell_lib .
"$VENV_PYTHON" -m mypy
# A process a core, whole files at a time, whose tests share runs, in the order of tests/conftest.py;
# a process may take 4 GB.
exec "$VENV_PYTHON" -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile \
    --no-loadscope-reorder "$@"
