"""Flags of the compiler: order, precedence, and those that a jax no longer has."""

import os

import jax
import pytest

from nif_jax.parallel import set_compiler_flags


@pytest.mark.parametrize(("version", "kept"), [((0, 10, 2), True), ((0, 11, 0), False)])
def test_a_removed_flag_is_left_out_and_the_users_win(monkeypatch, version, kept):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    set_compiler_flags("--xla_cpu_use_fusion_emitters=false --other=2")
    gone = ["--xla_cpu_use_fusion_emitters=false"] if kept else []
    assert os.environ["XLA_FLAGS"].split() == [*gone, "--other=2", "--mine=1"]
