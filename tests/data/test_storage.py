"""Memory-mapped arrays without a name."""

import errno
import os

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
