"""Where the truth is known: interests drift, movelines are whole, labels are few. nif_labels wins,
by what its generator has learned of labels (results/README.md)."""

import os
import pathlib
import subprocess
import sys

from nif_jax.reports import results

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ",".join(
    [
        "configs/nif.py:synthetic,rows=base+nif_labels,data.label_share=0.05,source.drift=0.1",
        "source.num_users=500,source.num_items=60,eval.resamples=200",
        "pretrain.epochs=8.0,pretrain.eval_epochs=8.0",
    ]
)


def test_with_drift_and_few_labels_nif_labels_wins(tmp_path):
    # A process of its own: this trains for long enough that compiled code has to be fast.
    environment = os.environ | {"XLA_FLAGS": "", "NIF_JAX_CACHE": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]  # as it is for a user
    command = [sys.executable, "-m", "nif_jax.main", f"--config={CONFIG}"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert any((tmp_path / "cache" / "programs").iterdir())  # kept for the next run
    found = results.read_results(tmp_path / "run")
    auc = {(row["model"], row["history"]): row["auc"] for row in found["rows"]}
    for history in ("online", "frozen"):
        base, nif, bayes = (auc[model, history] for model in ("base", "nif_labels", "bayes"))
        # .74 and .66 with online histories where this was written, .90 the bound.
        assert base + 0.03 < nif < bayes
    verdicts = {
        (entry["model"], entry["reference"], entry["history"]): entry["verdict"]
        for entry in found["differences"]
        if entry["metric"] == "auc"
    }
    assert verdicts["nif_labels", "base", "online"] == "better"
    assert verdicts["nif_labels", "base", "frozen"] == "better"
