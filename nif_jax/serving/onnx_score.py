"""Scores by the ONNX program of an artefact, run by onnxruntime (extra `onnx`)."""

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nif_jax.requests.encode import Encoded
from nif_jax.serving.model import Model


def is_installed() -> bool:
    """Whether there is an onnxruntime."""
    return importlib.util.find_spec("onnxruntime") is not None


class OnnxScore:
    """The program `score`: the logits before calibration of one request a call."""

    def __init__(self, folder: pathlib.Path, described: Mapping[str, Any], threads: int = 0):
        """Loads the program.

        Args:
          folder: of the artefact.
          described: manifest["onnx"]["score"], of a program that was converted.
          threads: of an operator; 0 = as many as there are cores.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings are about shapes that it infers itself
        options.intra_op_num_threads = threads
        path = str(folder / described["file"])
        self._session: Any = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [(one["name"], np.dtype(one["dtype"])) for one in described["inputs"]]

    def __call__(self, encoded: Encoded) -> np.ndarray:
        """[R] logits of one request with R candidates, as Encoder.encode gives it."""
        batch = encoded.batch._replace(pair=None)
        leaves = jax.tree.leaves(encoded._replace(batch=batch))
        given = {
            name: np.asarray(leaf, kind)
            for (name, kind), leaf in zip(self._inputs, leaves, strict=True)
        }
        return self._session.run(None, given)[0]


def onnx_difference(
    folder: pathlib.Path,
    manifest: Mapping[str, Any],
    model: Model,
    samples: Sequence[Mapping[str, Any]],
) -> float | None:
    """Largest difference of logits before calibration between samples and the ONNX program.

    None if the artefact has no such program, or if there is no onnxruntime.
    """
    described = (manifest.get("onnx") or {}).get("score", {})
    if "file" not in described or not is_installed():
        return None
    score = OnnxScore(folder, described)
    found = [score(model.encoder.encode(model.number([one["request"]]))) for one in samples]
    kept = (np.array(one["raw"], np.float32) for one in samples)
    return max(float(np.abs(a - b).max()) for a, b in zip(found, kept, strict=True))
