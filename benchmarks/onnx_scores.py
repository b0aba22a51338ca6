"""Latency of one user's candidates: the ONNX program of an artefact against XLA's.

    python -m nif_jax.main --mode=export --onnx --workdir=runs/nif --output=artefacts/nif
    python -m benchmarks.onnx_scores --artefact=artefacts/nif [--rounds=50] [--candidates=1000]

Both get the same encoded request, and give the same logits. The time is CPU time of the process.
onnxruntime has as many threads as there are cores in --cores.
"""

import pathlib
import time

from absl import app, flags

from benchmarks import common

flags.DEFINE_string("artefact", None, "Folder of --mode=export --onnx.", required=True)
flags.DEFINE_integer("rounds", 50, "Counted rounds.")
flags.DEFINE_integer("candidates", 1000, "Candidates of the user.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints milliseconds of both, and the ratio to XLA."""
    del argv
    common.pin()
    import os

    import numpy as np

    from nif_jax import serving
    from nif_jax.serving import artefact
    from nif_jax.serving.onnx_score import OnnxScore
    from nif_jax.serving.samples import sample_requests

    folder = pathlib.Path(FLAGS.artefact)
    model, described = serving.load(folder), artefact.read_manifest(folder)["onnx"]["score"]
    request = sample_requests(model.vocabulary, model.encoder)[0]
    request["items"] = np.resize(model.vocabulary.item, FLAGS.candidates).tolist()
    encoded = model.encoder.encode(model.number([request]))
    by_onnx = OnnxScore(folder, described, threads=len(os.sched_getaffinity(0)))
    np.testing.assert_allclose(by_onnx(encoded), model.raw_logits(encoded), atol=1e-5)

    calls = {"XLA": lambda: model.raw_logits(encoded), "ONNX": lambda: by_onnx(encoded)}
    seconds = common.interleave(calls, FLAGS.rounds, time.process_time)
    print(f"{common.machine()}, variant {model.variant}, {FLAGS.candidates} candidates")
    common.print_milliseconds(seconds)


if __name__ == "__main__":
    app.run(main)
