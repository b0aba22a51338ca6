"""Files are old or new, never half written."""

import pytest

from nif_jax import files


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path):
    path = files.write_whole(tmp_path / "new" / "a.txt", "é\n")
    assert path.read_text(encoding="utf-8") == "é\n"
    assert files.write_whole(path, b"\x00\xff").read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = files.write_whole(tmp_path / "a.txt", "old")

    def full_disk(_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        files.write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
