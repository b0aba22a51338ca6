"""Memory-mapped arrays without a name, and the folder of compiled programs."""

import errno
import os

import jax
import numpy as np
import pytest

from nif_jax.data import storage


def test_mapped_zeros_are_written_and_leave_no_file(tmp_path):
    folder = tmp_path / "new"
    found = storage.mapped_zeros(folder, (2, 3), np.dtype("float32"))
    assert isinstance(found, np.memmap) and not found.any()
    found[1, 2] = 7.0
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 7]])
    assert not list(folder.iterdir())


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*free some"):
        storage.mapped_zeros(tmp_path, (2, 3), np.dtype("float32"))


@pytest.mark.parametrize("mine", [None, "/there/already"])
def test_programs_are_kept_unless_the_user_says_where(tmp_path, mine):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update(names[0], mine)
        storage.enable_compilation_cache(tmp_path)
        assert jax.config.jax_compilation_cache_dir == (mine or str(tmp_path))
        changed = getattr(jax.config, names[1]) != before[names[1]]
        assert changed == (mine is None)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
