"""Artefacts: the scores of the run without its code, or one clear line."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from nif_jax import serving
from nif_jax.data.files import read_json, write_json
from nif_jax.data.schema import ConfigError
from nif_jax.inference import export
from nif_jax.serving import artefact, selftest
from nif_jax.serving.artefact import ArtefactError
from tests.inference.period import given

CLOSE = 1e-5
BLOCKED = (
    "flax",
    "optax",
    "orbax",
    "sklearn",
    "nif_jax.models",
    "nif_jax.stages",
    "nif_jax.training",
    "nif_jax.experiment",
    "nif_jax.inference",
)
ALONE = """
import json, sys
sys.modules.update(dict.fromkeys({blocked!r}))
from nif_jax import serving
model = serving.load({folder!r})
requests = json.loads({requests!r})
print(json.dumps(model.uncalibrated(model.number(requests)).tolist()))
"""


def damaged(folder, tmp_path):
    """A copy whose files are links: writing a new file in place of one leaves the original."""
    copy = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy / path.relative_to(folder))
    return copy


def rewrite(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("variant", ["popularity", "hybrid"])
def test_an_artefact_has_the_scores_of_the_run(load, artefacts, variant):
    run, model = load(variant), serving.load(artefacts(variant))
    items = [*run.vocabulary.item[:5], "an unknown item"]
    requests = [dataclasses.replace(r, items=items) for r in given(run.run, "online")[:40]]
    requests += [dataclasses.replace(r, moveline=None) for r in requests[:9]]
    expected = run.score(requests)
    np.testing.assert_allclose(model.score(requests).logit, expected.logit, atol=CLOSE)
    raw = (m.uncalibrated(m.number(requests)) for m in (model, run))
    np.testing.assert_allclose(*raw, atol=CLOSE)
    users = [dataclasses.replace(r, items=()) for r in requests[:9]]
    for one, other in zip(model.recommend(users, 5), run.recommend(users, 5), strict=True):
        np.testing.assert_allclose(one.logit, other.logit, atol=CLOSE)
    if run.functions.generator is None:
        with pytest.raises(ConfigError, match="has no flow; load one that has"):
            model.flow([])
        return
    movelines = [r.moveline for r in requests if r.moveline][:20]
    np.testing.assert_allclose(model.flow(movelines), run.flow(movelines), atol=CLOSE)


def test_states_of_an_artefact_are_those_of_the_run(load, artefacts):
    run, model = load("hybrid"), serving.load(artefacts("hybrid"))
    longest = max(given(run.run, "online"), key=lambda r: len(r.moveline))
    one, other = (m.new_state(longest.user_id, moveline=longest.moveline) for m in (run, model))
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, atol=CLOSE)
    np.testing.assert_allclose(model.flow(other), run.flow(one), atol=CLOSE)
    request = dataclasses.replace(longest, moveline=[], items=list(run.vocabulary.item[:9]))
    expected = run.uncalibrated(run.number(request), one)
    found = model.uncalibrated(model.number(request), other)
    np.testing.assert_allclose(found, expected, atol=CLOSE)


def test_an_artefact_is_scored_without_the_code_of_models_and_training(load, artefacts):
    folder, run = artefacts("hybrid"), load("hybrid")
    samples = json.loads((folder / "manifest.json").read_text())["samples"]
    requests = json.dumps([sample["request"] for sample in samples])
    code = ALONE.format(blocked=BLOCKED, folder=str(folder), requests=requests)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = run.uncalibrated(run.number(json.loads(requests)))
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=CLOSE)


def test_damage_is_one_line_that_names_the_file(artefacts, tmp_path, capsys):
    folder = damaged(artefacts("popularity"), tmp_path)
    selftest.main([f"--artefact={folder}"])
    assert "files are intact; largest difference of" in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [manifest["programs"]["score"]["file"], manifest["tables"][0]["file"]]
    names += [manifest["vocabulary"]["files"]["item"], "manifest.json"]
    for name in names:
        path, content = folder / name, (folder / name).read_bytes()
        place = len(content) // 2
        rewrite(path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(SystemExit, match=rf"error: .*{name} is damaged.*; export it again by"):
            selftest.main([f"--artefact={folder}"])
        rewrite(path, content[:-9])
        with pytest.raises(ArtefactError, match=rf"{name} (has \d+ bytes, not|is damaged)"):
            serving.load(folder)
        rewrite(path, content)
    (folder / names[0]).unlink()
    with pytest.raises(ArtefactError, match=rf"{names[0]} is missing"):
        serving.load(folder)
    with pytest.raises(ArtefactError, match=r"is no artefact: it has no manifest\.json"):
        serving.load(tmp_path)


def test_other_scores_fail_the_selftest(artefacts, tmp_path):
    folder = damaged(artefacts("popularity"), tmp_path)
    content = read_json(folder / "manifest.json")
    content["samples"][0]["logit"][0] += 2e-5
    (folder / "manifest.json").unlink()
    write_json(folder / "manifest.json", content)
    with pytest.raises(SystemExit, match=r"differ by 2\.\de-05, more than 1e-05"):
        selftest.main([f"--artefact={folder}"])
    (folder / "manifest.json").unlink()
    write_json(folder / "manifest.json", content | {"format": 1})
    with pytest.raises(
        SystemExit, match=rf"format 1; this version reads .*, format {artefact.FORMAT}"
    ):
        selftest.main([f"--artefact={folder}"])


def test_an_export_replaces_artefacts_only_and_whole(load, artefacts, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is no artefact, and not empty; give a new folder"):
        export.export(load("popularity"), other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    folder = damaged(artefacts("popularity"), tmp_path)
    (folder / "tables" / "old.npy").write_bytes(b"")
    kept = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    model = load("popularity")
    called = jax.pure_callback

    def on_host(*given):
        return called(lambda x: x, jax.ShapeDtypeStruct((), np.float32), np.float32(0))

    broken = dataclasses.replace(
        model.functions, predict_candidates=lambda *g: {"logit": on_host()}
    )
    with monkeypatch.context() as patch:
        patch.setattr(model, "functions", broken)
        with pytest.raises(ConfigError, match="variant 'popularity' cannot be exported: score has"):
            export.export(model, folder)
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == kept
    export.export(model, folder)
    assert not (folder / "tables" / "old.npy").exists()
    assert (
        selftest.check(folder).split(" ", 1)[1]
        == "files are intact; largest difference of 9 samples: 0.0e+00"
    )
