"""The folder of the stand-ins."""

import pytest


@pytest.fixture
def bin_folder(tmp_path):
    """A folder that stands first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder
