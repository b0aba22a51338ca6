#!/usr/bin/env bash
# Measures anew what the tables of results/ hold, in folders that the same command goes on in.
#
#   bash launch/refresh.sh DATA [FOLDER]       DATA: the parquet files that configs/datasets.py
#                                              describes; FOLDER of the runs, runs/refresh
#   SWEEPS="main labels" JOBS=4 bash launch/refresh.sh DATA
#
# Relative paths start at the checkout, wherever it is called from. After a change of the code use
# another FOLDER: a sweep copies the stages that another trained.
# Variables: SWEEPS, which ones; JOBS, runs at a time (2); and those of launch/setup_venv.sh.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
data="${1:?usage: bash launch/refresh.sh DATA [FOLDER]}"
cd "$root"
if [[ ! -d "$data" ]]; then
  echo "error: there is no folder $data; sweeps would skip every run that needs a file." >&2
  exit 1
fi
source "$root/launch/setup_venv.sh"
setup_venv "$root"
folder="${2:-runs/refresh}"
failed=""
for sweep in ${SWEEPS:-main labels ablations first_experiments horizon generator pairs factorial \
    genci_checks open_checks scenes simulator}; do
  "$VENV_PYTHON" launch/sweep.py "--sweep=configs/sweeps/$sweep.py" "--data=$data" \
    "--workdir=$folder/$sweep" "--reuse_from=$folder" "--jobs=${JOBS:-2}" || failed+=" $sweep"
done
if [[ -n "$failed" ]]; then
  echo "error: not finished:$failed. The same command goes on from here." >&2
  exit 1
fi
