#!/usr/bin/env bash
# Runs nif_jax on a Google Cloud TPU slice of one or many hosts.
set -euo pipefail

usage() {
  cat << 'TEXT'
Usage: bash launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [option...] [-- main's arguments]

Commands
  create     makes the slice
  install    copies this checkout to all workers and installs it there
  run        starts nif_jax.main on all workers, in the background
  status     says how the slice is, and how the run is on each worker
  resume     after a preemption or a crash: makes the slice again if it is gone, and starts the run
             again if it does not run. It leaves a run alone that is under way or finished, so it
             can be called every few minutes
  teardown   deletes the slice; what is in the bucket stays

Options, or their environment variables
  --name=NAME          TPU_NAME           of the slice; all commands need it
  --zone=ZONE          TPU_ZONE           e.g. europe-west4-b; all commands need it
  --project=PROJECT    TPU_PROJECT        default: gcloud's own
  --accelerator=TYPE   TPU_ACCELERATOR    e.g. v5litepod-16, v6e-8; create and resume need it
  --version=RUNTIME    TPU_VERSION        default: the one for JAX that goes with the accelerator
  --spot                                  cheaper, may be preempted
  --lines=N                               of each worker's log in status; default 3
  --dry-run                               prints the commands, runs none; also among main's arguments

run and resume need main's arguments after --, among them a --workdir=gs://BUCKET/FOLDER. The
checkpoints lie there, so that a new slice goes on where the old one stopped: give resume the
arguments of run. The workers mount the bucket with Cloud Storage FUSE. Make it with a hierarchical
namespace, which gives the atomic renames that checkpoints need, and let the slice's service account
write to it. Main's other arguments may name gs:// paths of this bucket too.

A batch has to be an even number of rows on each device, and the generator's 16 are too few for a
pod: 64 make 4 rows on each of the 16 devices of a v5litepod-16. Tables that do not fit one device
are sharded by the text of the config: "...:parallel=mesh,mesh.data=4,mesh.model=4".

With several workers, gcloud wants the key in an agent first: ssh-add ~/.ssh/google_compute_engine

  export TPU_NAME=nif TPU_ZONE=europe-west4-b TPU_ACCELERATOR=v5litepod-16
  bash launch/tpu_pod.sh create --spot
  bash launch/tpu_pod.sh install
  bash launch/tpu_pod.sh run -- --config=configs/nif.py --config.pretrain.batch_size=64 \
    --workdir=gs://my-bucket/nif
  bash launch/tpu_pod.sh status
  bash launch/tpu_pod.sh resume --spot -- --config=configs/nif.py \
    --config.pretrain.batch_size=64 --workdir=gs://my-bucket/nif
  bash launch/tpu_pod.sh teardown

Data of your own go through the bucket:

  gcloud storage cp events.parquet gs://my-bucket/
  bash launch/tpu_pod.sh run -- --config=configs/nif.py:files --config.pretrain.batch_size=64 \
    --config.source.path=gs://my-bucket/events.parquet --workdir=gs://my-bucket/own
TEXT
}

fail() {
  echo "error: $1" >&2
  echo "See: bash launch/tpu_pod.sh --help" >&2
  exit 2
}

# Prints a command so that a shell can read it back.
show() {
  local word line=""
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/\'\\\'\'}'"
    fi
  done
  echo "${line# }"
}

do_or_show() {
  if $dry_run; then show "$@"; else "$@"; fi
}

# gcloud for our slice: tpu VERB [argument...]
tpu() {
  local verb="$1"
  shift
  do_or_show gcloud compute tpus tpu-vm "$verb" "$name" "$@" "${place[@]}"
}

on_all_workers() {
  tpu ssh --worker=all --command="$1"
}

create() {
  local options=(--accelerator-type="$accelerator" --version="$version")
  if $spot; then options+=(--spot); fi
  tpu create "${options[@]}"
}

# The runtimes' own Python is older than 3.11, so uv brings one. --seed adds pip, with which the
# default data set is fetched.
INSTALL='set -e
mkdir -p ~/nif_jax && cd ~/nif_jax
rm -rf nif_jax configs launch
tar -xzf ~/nif_jax.tar.gz
python3 -m pip install --user --quiet uv
[ -x .venv/bin/python ] || python3 -m uv venv --quiet --seed --python=3.12 .venv
python3 -m uv pip install --quiet --python=.venv/bin/python --editable ".[tpu]"
if ! command -v gcsfuse > /dev/null; then
  host=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
  curl -fsS "$host/doc/apt-key.gpg" | sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] $host gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  sudo apt-get -qq update
  sudo apt-get -qq install gcsfuse
fi
echo "$(hostname): installed"'

install() {
  local folder=. archive
  if ! $dry_run; then folder="$(mktemp -d)"; fi
  archive="$folder/nif_jax.tar.gz"
  do_or_show tar -czf "$archive" --exclude=__pycache__ -C "$root" \
    setup.py pyproject.toml LICENSE nif_jax configs launch
  # Not `tpu scp`: there the slice's name stands in the destination.
  do_or_show gcloud compute tpus tpu-vm scp "$archive" "$name:nif_jax.tar.gz" --worker=all \
    "${place[@]}"
  if ! $dry_run; then rm -r "$folder"; fi
  on_all_workers "$INSTALL"
}

# Starts main on a worker. The mount caches no metadata: a worker has to see the checkpoint that
# another one has just written. setsid makes a process group, which STOP can end as a whole.
start() {
  local arguments
  arguments="$(show .venv/bin/python -m nif_jax.main "${main_arguments[@]}")"
  on_all_workers "set -e
cd ~/nif_jax
mkdir -p logs buckets/$bucket
if [ -f logs/pid ] && kill -0 -- \"-\$(cat logs/pid)\" 2> /dev/null; then
  echo \"\$(hostname): a run is under way\" >&2
  exit 1
fi
mountpoint -q buckets/$bucket || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \\
  --metadata-cache-negative-ttl-secs=0 $bucket buckets/$bucket
rm -f logs/code
cat > logs/command << 'END_OF_COMMAND'
$arguments
echo \$? > logs/code
END_OF_COMMAND
nohup setsid bash logs/command > logs/run.log 2>&1 < /dev/null &
echo \$! > logs/pid
echo \"\$(hostname): started\""
}

STOP='cd ~/nif_jax/logs 2> /dev/null && [ -f pid ] || exit 0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  kill -9 -- "-$(cat pid)" 2> /dev/null || break
  sleep 1
done
rm -f pid'

# A line for a worker, which resume reads too.
STATE='cd ~/nif_jax/logs 2> /dev/null && [ -f pid ] || { echo "$(hostname): has no run"; exit 0; }
if [ -f code ] && tail -n 3 run.log | grep -q "^stopped by "; then
  echo "$(hostname): was stopped" # by SIGTERM: status 0, and unfinished
elif [ -f code ]; then
  echo "$(hostname): ended with $(cat code)"
elif kill -0 -- "-$(cat pid)" 2> /dev/null; then
  echo "$(hostname): runs"
else
  echo "$(hostname): was cut off"
fi'

status() {
  tpu describe --format='value(state)'
  on_all_workers "$STATE
tail -n $lines run.log"
}

teardown() {
  tpu delete --quiet
}

# Prints the state of the slice, or ABSENT. Any other failure of gcloud (no rights, no network) ends
# the command: it must not pass for a slice that is gone.
slice_state() {
  local errors code=0
  errors="$(mktemp)"
  tpu describe --format='value(state)' 2> "$errors" || code=$?
  if ((code)); then
    if grep -qi 'not[_ ]found' "$errors"; then
      echo ABSENT
      code=0
    else
      cat "$errors" >&2
    fi
  fi
  rm "$errors"
  return "$code"
}

make_again() {
  if [[ "$1" != ABSENT ]]; then teardown; fi
  create
  install
  start
}

start_again() {
  install
  on_all_workers "$STOP"
  start
}

resume() {
  local state workers
  if $dry_run; then
    tpu describe --format='value(state)'
    echo "# If it is READY:"
    on_all_workers "$STATE"
    echo "# and if a worker's run is neither under way nor ended with 0:"
    start_again
    echo "# If it is PREEMPTED or TERMINATED; without the first if there is no such slice:"
    make_again PREEMPTED
    return
  fi
  state="$(slice_state)"
  echo "$name is $state"
  case "$state" in
    READY)
      workers="$(on_all_workers "$STATE")"
      echo "$workers"
      if grep -qE ': (has no run|was cut off|was stopped|ended with ([1-9]|$))' <<< "$workers"; then
        start_again
      elif grep -qE ': (runs|ended with 0)$' <<< "$workers"; then
        echo "Nothing to do."
      else
        echo "error: no worker said how the run is." >&2
        exit 1
      fi
      ;;
    PREEMPTED | TERMINATED | ABSENT) make_again "$state" ;;
    *)
      echo "error: nothing can be done while $name is $state; try again in a few minutes." >&2
      exit 1
      ;;
  esac
}

# The runtime that Google names for JAX on a kind of accelerator.
default_version() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
  esac
}

# Checks main's arguments and puts the mounted folder in the place of the bucket. A --dry-run among
# them is ours, as main has none: who writes it last must not start a run.
read_main_arguments() {
  local argument url folder
  bucket=""
  for argument in "$@"; do
    if [[ "$argument" =~ ^--?workdir=gs://([a-z0-9][a-z0-9._-]*)/.+$ ]]; then
      bucket="${BASH_REMATCH[1]}"
    fi
  done
  if [[ -z "$bucket" ]]; then
    fail "'$command' needs --workdir=gs://BUCKET/FOLDER among main's arguments, after --; got: $*"
  fi
  url="gs://$bucket/" folder="buckets/$bucket/"
  main_arguments=()
  for argument in "$@"; do
    if [[ "$argument" == --dry-run ]]; then
      dry_run=true
      continue
    fi
    argument="${argument//$url/$folder}" # all of them: --config has some in its text
    if [[ "$argument" == *gs://* ]]; then
      fail "the workers mount gs://$bucket/, the bucket of --workdir, and no other; got: $argument"
    fi
    main_arguments+=("$argument")
  done
}

main() {
  name="${TPU_NAME:-}" zone="${TPU_ZONE:-}" project="${TPU_PROJECT:-}"
  accelerator="${TPU_ACCELERATOR:-}" version="${TPU_VERSION:-}"
  spot=false dry_run=false lines=3 command=""
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

  while (($#)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --accelerator=*) accelerator="${1#*=}" ;;
      --version=*) version="${1#*=}" ;;
      --lines=*) lines="${1#*=}" ;;
      --spot) spot=true ;;
      --dry-run) dry_run=true ;;
      --) shift && break ;;
      -*) fail "no option $1; main's arguments come after --" ;;
      *)
        if [[ -n "$command" ]]; then fail "two commands: $command and $1"; fi
        command="$1"
        ;;
    esac
    shift
  done

  case "$command" in
    create | install | run | status | resume | teardown) ;;
    "") fail "no command: create, install, run, status, resume or teardown" ;;
    *) fail "no command $command: create, install, run, status, resume or teardown" ;;
  esac
  if [[ -z "$name" ]]; then fail "'$command' needs --name or TPU_NAME"; fi
  if [[ -z "$zone" ]]; then fail "'$command' needs --zone or TPU_ZONE"; fi
  if [[ ! "$lines" =~ ^[0-9]+$ ]]; then fail "--lines=$lines is no number"; fi
  place=(--zone="$zone")
  if [[ -n "$project" ]]; then place+=(--project="$project"); fi
  if [[ "$command" == create || "$command" == resume ]]; then
    if [[ -z "$accelerator" ]]; then
      fail "'$command' needs --accelerator or TPU_ACCELERATOR, e.g. v5litepod-16"
    fi
    version="${version:-$(default_version "$accelerator")}"
    if [[ -z "$version" ]]; then
      fail "no default runtime for $accelerator: give --version or TPU_VERSION"
    fi
  fi
  if [[ "$command" == run || "$command" == resume ]]; then
    read_main_arguments "$@"
  elif (($#)); then
    fail "'$command' takes no arguments after --; got: $*"
  fi
  if ! $dry_run && ! command -v gcloud > /dev/null; then
    fail "there is no gcloud; install the Google Cloud CLI"
  fi

  case "$command" in
    run) start ;;
    *) "$command" ;;
  esac
}

main "$@"
