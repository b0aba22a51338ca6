"""When processes are joined, and compiler flags."""

import os

import jax
import pytest

from nif_jax.training.devices.processes import initialize, set_compiler_flags

# What a batch script of four tasks has, and what srun adds in a step.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
STEP = {**BATCH, "SLURM_STEP_NODELIST": "node[1-4]"}


@pytest.mark.parametrize(
    ("slurm", "joins"),
    [
        ({}, False),
        (BATCH, False),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, True),
    ],
    ids=["no Slurm", "batch script", "step of one task", "step of four"],
)
def test_only_a_step_of_several_tasks_joins(monkeypatch, slurm, joins):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no TPU
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: calls.append(given))
    initialize()
    assert calls == ([()] if joins else [])
    initialize("host:1", 2, 0)
    assert calls[-1] == ("host:1", 2, 0)


@pytest.mark.parametrize(("version", "kept"), [((0, 10, 2), True), ((0, 11, 0), False)])
def test_a_removed_flag_is_left_out_and_the_users_win(monkeypatch, version, kept):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    set_compiler_flags("--xla_cpu_use_fusion_emitters=false --other=2")
    gone = ["--xla_cpu_use_fusion_emitters=false"] if kept else []
    assert os.environ["XLA_FLAGS"].split() == [*gone, "--other=2", "--mine=1"]
