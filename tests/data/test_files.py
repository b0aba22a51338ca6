"""Files are old or new, never half written."""

import pytest

from nif_jax.data import files


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


def test_an_error_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a\.txt cannot be written \(.*\): make its folder"):
        files.write_whole(tmp_path / "file" / "a.txt", "new")


class TestJson:
    def test_comes_back_and_every_flipped_bit_is_harmless_or_found(self, tmp_path):
        content = {"rows": [{"auc": 0.7123, "name": "é"}, None, True], "n": 12}
        path = files.write_json(tmp_path / "a.json", content)
        whole = path.read_bytes()
        assert files.read_json(path) == content
        found = 0
        for at in range(len(whole)):
            for bit in range(8):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
                try:
                    read = files.read_json(path)
                except ValueError:
                    found += 1
                else:  # white space, or the key of the checksum
                    assert read == content or len(read) == 1 + len(content)
                    assert {key: read[key] for key in content} == content
        assert found > 0.8 * 8 * len(whole)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"NaN"])
    def test_what_is_no_object_is_named(self, tmp_path, content):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json is damaged"):
            files.read_json(tmp_path / "a.json")

    def test_a_file_without_a_checksum_is_read_with_a_warning(self, tmp_path, caplog):
        (tmp_path / "a.json").write_text('{"n": 1}')
        assert files.read_json(tmp_path / "a.json") == {"n": 1}
        assert "a.json has no checksum" in caplog.text
