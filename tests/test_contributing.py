"""The walkthroughs of CONTRIBUTING.md, applied to a copy of the checkout: what they add works."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTINGS = (
    "smoke,ranker.dim=8,ranker.attention=8,ranker.tower=16,ranker.calibration=4,"
    "data.history_length=6,train.batch_size=64,train.microbatch=0,train.epochs=1.0,"
    "generator.dim=8,generator.heads=2,pretrain.batch_size=16,pretrain.context=6,"
    "pretrain.epochs=1.0,flow.horizon=2,flow_loss.cosine=0.1"
)
ROWS = "rows=base+wide+amen+amen_logit"


def _change(text: str, diff: str) -> str:
    """The text after a diff without line numbers."""
    lines = diff.splitlines(keepends=True)
    assert all(line[0] in " +-" for line in lines), diff
    before, after = ("".join(x[1:] for x in lines if x[0] in f" {sign}") for sign in "-+")
    assert text.count(before) == 1, f"the context has to occur once:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy in which all walkthroughs are followed."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("nif_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    for kind, name, content in blocks:
        path = root / name
        if kind == "python":
            assert not path.exists(), name
            path.write_text(content)
        else:
            path.write_text(_change(path.read_text(), content))
    return root


def _python(checkout, *arguments):
    environment = dict(os.environ, PYTHONPATH=str(checkout), NIF_JAX_CACHE=str(checkout / "cache"))
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=checkout, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_baseline_takes_two_files():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("### Add a baseline") : text.index("### Add a variant")]
    assert [name for _, name, _ in BLOCK.findall(section)] == [
        "nif_jax/models/baselines/wide.py",
        "nif_jax/variants.py",
    ]


def test_the_code_is_formatted(checkout):
    names = sorted({name for _, name, _ in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())})
    shutil.copy(ROOT / "pyproject.toml", checkout)
    _python(checkout, "-m", "ruff", "check", *names)
    _python(checkout, "-m", "ruff", "format", "--check", *names)


def test_a_run_with_all_of_it(checkout):
    """The new reader's data, the new baseline and variant, and the new loss in the generator."""
    rng = np.random.default_rng(0)
    with open(checkout / "taps.jsonl", "w") as file:
        for second, (user, item) in enumerate(zip(*rng.integers(0, 24, (2, 600)), strict=True)):
            tapped = bool(rng.random() < item / 24)
            event = {"who": f"u{user}", "what": f"i{item}", "when": second, "tapped": tapped}
            file.write(json.dumps(event) + "\n")
    config = f"configs/nif.py:tap_log,{SETTINGS},{ROWS},source.path=taps.jsonl"
    _python(checkout, "-m", "nif_jax.main", f"--config={config}", "--workdir=run")
    found = json.loads((checkout / "run" / "results.json").read_text())
    assert found["run"]["dataset"]["name"] == "tap_log"
    assert found["run"]["dataset"]["events"] == 600
    assert {row["model"] for row in found["rows"]} == {"base", "wide", "amen", "amen_logit"}
    assert ("amen_logit", "amen") in {(d["model"], d["reference"]) for d in found["differences"]}
    lines = (checkout / "run" / "seed_0" / "metrics.jsonl").read_text().splitlines()
    cosine = [
        record["values"]["train/cosine"]
        for record in map(json.loads, lines)
        if record["stage"] == "generator" and "train/cosine" in record["values"]
    ]
    assert cosine and all(0 < value < 2 for value in cosine)
