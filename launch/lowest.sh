#!/usr/bin/env bash
# Tests the lowest versions that setup.py allows, in a fresh virtual environment: a fast subset of
# the tests, and a smoke run of all stages.
#
#   bash launch/lowest.sh
#   bash launch/lowest.sh tests/stages tests/training         other tests
#
# Variables: PYTHON, and NIF_JAX_VENV to keep the environment; see launch/setup_venv.sh.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/setup_venv.sh"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
venv="${NIF_JAX_VENV:-$folder/venv}"
cd "$root"

python="$(find_python)"
# setup.py's lower bounds as constraints; the stub stands for setuptools, which may be absent.
"$python" - > "$folder/constraints.txt" << 'PYTHON'
import re
import runpy
import sys
import types

given = {}
stub = types.ModuleType("setuptools")
stub.setup, stub.find_packages = given.update, lambda include: []
sys.modules["setuptools"] = stub
runpy.run_path("setup.py")
for line in given["install_requires"] + given["extras_require"]["test"]:
    name, bound = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
    print(f"{name}=={bound}")
PYTHON
cat "$folder/constraints.txt"

"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$folder/constraints.txt" --editable ".[test]"

if (($# == 0)); then
  set -- tests/data tests/losses tests/metrics tests/models
fi
"$venv/bin/python" -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
"$venv/bin/python" -m nif_jax.main --config=configs/hybrid.py:synthetic,smoke \
  --config.data.cache_dir="$folder/cache" --workdir="$folder/run"
