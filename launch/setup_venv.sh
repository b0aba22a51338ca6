# Sourced by run.sh, test.sh and slurm.sbatch: `setup_venv ROOT` makes a virtual environment with
# nif_jax in it, or brings one up to date, and sets VENV_PYTHON to its interpreter.
#
#   PYTHON           interpreter to make it with; otherwise the first that works of
#                    python3.11 and python3.12 (which the tests run on), python3.13, python3, python
#   NIF_JAX_VENV     its folder; otherwise ROOT/.venv
#   NIF_JAX_EXTRAS   extras of setup.py to install; otherwise test. With a GPU: test,cuda

# Says why a command cannot make our environment; says nothing if it can. A name on PATH proves
# little: version managers put shims there for versions that they do not have.
python_fault() {
  local version
  version="$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" || true
  if [[ ! "$version" =~ ^([0-9]+)\.([0-9]+)$ ]]; then
    echo "does not run"
  elif ((BASH_REMATCH[1] < 3 || (BASH_REMATCH[1] == 3 && BASH_REMATCH[2] < 11))); then
    echo "is Python $version, older than 3.11"
  elif ! "$1" -c 'import ensurepip, venv' > /dev/null 2>&1; then
    echo "lacks the venv module (Debian and Ubuntu: apt-get install python3-venv)"
  fi
}

# Prints the interpreter to use, or says what was tried and fails.
find_python() {
  local name candidate fault tried=""
  if [[ -n "${PYTHON:-}" ]]; then
    fault="$(python_fault "$PYTHON")"
    if [[ -n "$fault" ]]; then
      echo "error: PYTHON=$PYTHON $fault." >&2
      return 1
    fi
    echo "$PYTHON"
    return
  fi
  for name in python3.11 python3.12 python3.13 python3 python; do
    while read -r candidate; do
      fault="$(python_fault "$candidate" < /dev/null)"
      if [[ -z "$fault" ]]; then
        echo "$candidate"
        return
      fi
      tried+="  $candidate $fault"$'\n'
    done < <(type -aP "$name")
  done
  echo "error: nif_jax needs Python 3.11 or newer with its venv module; none was found on PATH." >&2
  echo -n "$tried" >&2
  echo "Install one, or name one: PYTHON=/path/to/python3.12" >&2
  return 1
}

setup_venv() {
  local root="$1" python wanted
  local venv="${NIF_JAX_VENV:-$root/.venv}" extras="${NIF_JAX_EXTRAS:-test}"
  local stamp="$venv/nif_jax.installed"
  VENV_PYTHON="$venv/bin/python"
  # What the installation depends on. It is editable, so the code itself is not part of that.
  wanted="$root [$extras] $(cat "$root/setup.py" "$root/pyproject.toml" | cksum)"

  # A venv breaks when its interpreter is removed or the folder is moved.
  if ! "$VENV_PYTHON" -c '' > /dev/null 2>&1; then
    python="$(find_python)" || return 1
    echo "Making $venv with $python" >&2
    if ! "$python" -m venv --clear "$venv" >&2; then
      echo "error: '$python -m venv $venv' failed; see above." >&2
      return 1
    fi
  fi
  if [[ ! -f "$stamp" || "$(< "$stamp")" != "$wanted" ]]; then
    echo "Installing nif_jax[$extras] into $venv (the first time takes a few minutes)" >&2
    rm -f "$stamp"
    if ! "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check \
      --editable "$root[$extras]" >&2; then
      echo "error: pip could not install nif_jax[$extras]; see above. Run this again once the" \
        "cause is mended, or delete $venv to start over." >&2
      return 1
    fi
    echo "$wanted" > "$stamp"
  fi
}
