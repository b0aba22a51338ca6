"""Scripts that stand for python, gcloud and srun, and how they are run."""

import json
import os
import pathlib
import subprocess
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"]

STUB_RUN = """
import json, pathlib, sys, time
from nif_jax.reports import results
words = dict(word[2:].split("=", 1) for word in sys.argv[1:])
workdir, text = pathlib.Path(words["workdir"]), words["config"]
seed = int(text.partition("seed=")[2])
print(f"training with seed {seed}", flush=True)
if seed == 13:
    print("error: a bad number")
    sys.exit(3)
time.sleep(60 if seed == 60 and not (workdir / "again").exists() else 0)
row = dict.fromkeys(results.ROW_KEYS, 0.5 + seed / 100)
row |= {"model": "base", "seed": seed, "split": "test", "history": "frozen"}
run = {"config": {"train.metric": "auc", "num_seeds": 1, "rows": ["base"]}, "commit": "c0ffee"}
(workdir / "metrics.jsonl").write_text("")
results.write_results(workdir / "results.json", run, [row])
"""
"""Stands for nif_jax.main in a sweep; seed 13 fails, seed 60 takes a minute unless it resumes."""


def executable(path, text):
    """Writes a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755)


def environment_with(bin_folder, **more):
    """Variables of a process that finds the stand-ins first."""
    unset = ("PYTHON", "NIF_JAX_", "TPU_", "SLURM_", "JAX_", "XLA_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    return {**kept, "PATH": f"{bin_folder}:{os.environ['PATH']}", **more}


def run(command, environment, code=0, **more):
    """The finished process, which has to exit with `code`."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def records_of(log):
    """Lines of JSON that a stand-in wrote."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(condition, seconds=20):
    """Returns when the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
