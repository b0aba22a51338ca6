"""--mode=export --onnx: onnxruntime has the scores of XLA, and what has no program says why."""

import dataclasses
import importlib.util
import shutil

import numpy as np
import pytest

from nif_jax import serving
from nif_jax.data.files import read_json, write_json
from nif_jax.data.schema import ConfigError
from nif_jax.inference import export, onnx_export
from nif_jax.serving import artefact, selftest
from nif_jax.serving.onnx_score import OnnxScore
from tests.inference.period import given

CLOSE = 1e-5


def test_without_the_converter_nothing_is_written(load, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'--onnx needs jax2onnx: pip install "nif_jax\[onnx\]"'):
        export.export(load("base"), tmp_path / "artefact", onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant", ["genci", "hybrid"])
def test_beam_search_is_named_as_what_has_no_program(load, tmp_path, variant):
    found = onnx_export.write(load(variant), (), tmp_path)
    assert found["score"]["not_converted"].startswith("beam search (nif_jax/models/beam.py)")
    assert not list(tmp_path.iterdir())


def test_the_selftest_says_why_onnx_is_not_checked(load, artefacts, tmp_path):
    folder = tmp_path / "artefact"
    shutil.copytree(artefacts("popularity"), folder)
    content = read_json(folder / "manifest.json")
    assert content["onnx"] is None
    (folder / "manifest.json").unlink()
    content["onnx"] = onnx_export.write(load("genci"), (), folder)
    write_json(folder / "manifest.json", content)
    assert "; ONNX is not checked: beam search" in selftest.check(folder)


@pytest.mark.parametrize("variant", ["popularity", "base", "amen_labels"])
def test_onnx_scores_are_those_of_the_run(load, tmp_path, variant, capsys):
    pytest.importorskip("jax2onnx", reason='needs pip install "nif_jax[onnx]"')
    folder, run = tmp_path / "artefact", load(variant)
    export.export(run, folder, onnx=True)
    described = artefact.read_manifest(folder)["onnx"]["score"]
    score, model = OnnxScore(folder, described), serving.load(folder)
    items = [*run.vocabulary.item[:5], "an unknown item"]
    for place, request in enumerate(given(run.run, "online")[:40]):
        some = items[: 1 + place % len(items)]
        numbered = model.number(dataclasses.replace(request, items=some))
        found = score(model.encoder.encode(numbered))
        np.testing.assert_allclose(found, run.uncalibrated(numbered), atol=CLOSE)
    capsys.readouterr()
    selftest.main([f"--artefact={folder}"])
    assert " by ONNX" in capsys.readouterr().out


def test_other_onnx_scores_fail_the_selftest(load, tmp_path):
    pytest.importorskip("jax2onnx", reason='needs pip install "nif_jax[onnx]"')
    folder = tmp_path / "artefact"
    export.export(load("popularity"), folder, onnx=True)
    content = read_json(folder / "manifest.json")
    other = content["onnx"]["score"]["inputs"]
    place = [one["name"] for one in other].index("item")
    other[place], other[place - 1] = other[place - 1], other[place]  # owner for item
    (folder / "manifest.json").unlink()
    write_json(folder / "manifest.json", content)
    with pytest.raises(SystemExit, match=r"samples by ONNX differ by \d"):
        selftest.main([f"--artefact={folder}"])
