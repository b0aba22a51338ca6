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
