"""Notebooks run from top to bottom in smoke mode, and are committed without outputs."""

import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRINTED = {
    "01_nif_tour.ipynb": ["| amen", "| generator"],
    "02_serve.ipynb": [
        "files are intact; largest difference of",
        "are equal: settings, vocabularies, data",
        "history/item: 27 of 27 rows",
        "reason: left lacks the newest event",
    ],
}
"""Notebook -> parts of its output."""


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == sorted(PRINTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    for part in PRINTED[path.name]:
        assert part in printed
