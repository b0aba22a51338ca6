#!/usr/bin/env bash
# Trains on this machine, in a virtual environment that it makes if there is none yet.
#
#   bash launch/run.sh                                        NIF/AMEN on MovieLens-100K
#   bash launch/run.sh --config=configs/nif.py:synthetic,smoke --workdir=runs/try
#
# Takes what nif_jax.main takes. Relative paths start at the checkout, wherever it is called from.
# Variables: see launch/setup_venv.sh.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/setup_venv.sh"
setup_venv "$root"
cd "$root"

for argument in "$@"; do
  if [[ "$argument" =~ ^--?config(=|$) ]]; then
    exec "$VENV_PYTHON" -m nif_jax.main "$@"
  fi
done
exec "$VENV_PYTHON" -m nif_jax.main --config=configs/nif.py "$@"
