"""Two processes compute what one process of two devices computes, by pmap and on a mesh."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from nif_jax.reports import results
from tests.end_to_end.runs import best_parameters

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = (
    "configs/nif.py:synthetic,smoke,source.num_users=40,source.num_items=30,"
    "source.events_per_user=20.0,ranker.dim=8,ranker.attention=8,ranker.tower=16,"
    "data.history_length=6,train.batch_size=64,train.microbatch=0,train.epochs=1.0,"
    "train.steps_per_dispatch=2,eval.batch_size=16,generator.dim=8,generator.heads=2,"
    "flow_loss.negatives=in_batch,flow_loss.uniform=8,"
    "pretrain.batch_size=16,pretrain.context=6,pretrain.epochs=1.0,pretrain.eval_epochs=1.0,"
    "pretrain.steps_per_dispatch=2,flow.horizon=2,rows=base+amen"
)


def start(
    processes: int, workdir: pathlib.Path, cache: pathlib.Path, *overrides: str, devices: int = 2
) -> subprocess.Popen:
    command = [
        sys.executable,
        "launch/local_cluster.py",
        f"--processes={processes}",
        f"--devices_per_process={devices // processes}",
        "--",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        *overrides,
    ]
    environment = dict(os.environ, NIF_JAX_CACHE=str(cache))
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    found = {}
    for processes in (1, 2):
        found[processes] = folder / str(processes)
        process = start(processes, found[processes], folder / "cache")
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    return found


def read(workdir, stage):
    return best_parameters(workdir / "seed_0" / stage)


def require_same_parameters(first: pathlib.Path, second: pathlib.Path, stages) -> None:
    def compare(path, a, b):
        # A bias that shifts all keys of the alignment alike changes no score: its gradient is
        # rounding, which Adam brings to full size.
        if "['align']['key']['bias']" not in jax.tree_util.keystr(path):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=str(path))

    for stage in stages:
        one, two = (read(folder, stage) for folder in (first, second))
        jax.tree_util.tree_map_with_path(compare, one, two)


def test_the_same_parameters(workdirs):
    require_same_parameters(workdirs[1], workdirs[2], ("base", "generator", "amen"))


def test_the_same_results_written_once(workdirs):
    one, two = (results.read_results(workdirs[n]) for n in (1, 2))
    for key in ("auc", "gauc", "logloss"):
        np.testing.assert_allclose(
            [row[key] for row in one["rows"]], [row[key] for row in two["rows"]], atol=1e-5
        )
    assert one["retrieval"] == two["retrieval"]
    lines = [(workdirs[n] / "seed_0" / "metrics.jsonl").read_text().count("\n") for n in (1, 2)]
    assert lines[0] == lines[1]


MESH = ("parallel=mesh", "mesh.data=2", "mesh.model=2", "rows=base")


def test_a_mesh_of_two_processes_with_two_devices_each(workdirs, tmp_path):
    """It computes what pmap on two devices does, and each process writes what it has."""
    overrides = [f"--config.{setting}" for setting in MESH]
    process = start(2, tmp_path, workdirs[1].parent / "cache", *overrides, devices=4)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    require_same_parameters(workdirs[1], tmp_path, ["base"])
    saved = next((tmp_path / "seed_0/base/last").glob("[0-9]*/tree"))
    wrote = {path.name for path in saved.glob("ocdbt.process_*")}
    assert wrote == {"ocdbt.process_0", "ocdbt.process_1"}


def test_a_signal_to_one_process_stops_both(workdirs, tmp_path):
    cache, override = workdirs[1].parent / "cache", "--config.pretrain.log_dispatches=1"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "nif_jax.main", f"--config={CONFIG}", "--num_processes=2"]
    command += [coordinator, f"--workdir={tmp_path}", override]
    flags = "--xla_force_host_platform_device_count=1"
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment = os.environ | variables | {"NIF_JAX_CACHE": str(cache)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen([*command, f"--process_id={number}"], cwd=ROOT, env=environment, **options)
        for number in range(2)
    ]
    for line in processes[0].stdout:
        if "generator 2/" in line:
            break
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "stopped by SIGTERM after step" in said[0] and "stopped" not in said[1]
    process = start(2, tmp_path, cache, override)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    for stage in ("base", "generator", "amen"):
        jax.tree.map(np.testing.assert_array_equal, read(tmp_path, stage), read(workdirs[2], stage))
