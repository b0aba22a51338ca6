"""Checks an artefact: digests of its files, and scores of its sample requests.

python -m nif_jax.serving.selftest --artefact=<folder>
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.requests.objects import Event
from nif_jax.serving import artefact
from nif_jax.serving.loading import load
from nif_jax.serving.model import Model
from nif_jax.serving.onnx_score import onnx_difference

TOLERANCE = 1e-5
"""Largest difference of logits."""


def largest_difference(model: Model, samples: Sequence[Mapping[str, Any]]) -> float:
    """Between the logits of samples and those of a model, before calibration and after.

    A moveline is given with the request, and event by event to a state, which has to agree. The
    samples are scored one by one and all together, which are different programs.

    Args:
      model: of the artefact.
      samples: {"request", "raw", "logit"}, see `sample`.
    """
    worst = 0.0
    for one in samples:
        request = one["request"]
        found = [_logits(model, request)]
        if request.get("moveline"):
            events = [Event(**event) for event in request["moveline"]]
            state = model.new_state(request.get("user_id"), request.get("profile"), events)
            found.append(_logits(model, request | {"moveline": []}, state))
        kept = np.array([one["raw"], one["logit"]], np.float32)
        worst = max(worst, *(float(np.abs(logits - kept).max()) for logits in found))
    together = model.uncalibrated(model.number([one["request"] for one in samples]))
    kept = np.concatenate([np.array(one["raw"], np.float32) for one in samples])
    return max(worst, float(np.abs(together - kept).max()))


def sample(model: Model, request: Mapping[str, Any]) -> dict[str, Any]:
    """A request and its logits, before calibration ("raw") and after."""
    raw, logit = _logits(model, request).tolist()
    return {"request": request, "raw": raw, "logit": logit}


def _logits(model: Model, request: Mapping[str, Any], state: Any = None) -> np.ndarray:
    """[2, R] before calibration and after."""
    raw = model.uncalibrated(model.number([request]), state)
    return np.stack([raw, model.calibration(raw)])


def check(folder: pathlib.Path) -> str:
    """What was found: numbers of files and samples, and the largest differences of the samples.

    Raises:
      ArtefactError: damage, or a difference above TOLERANCE.
    """
    manifest = artefact.read_manifest(folder)
    artefact.check_digests(folder, manifest)
    model, samples = load(folder), manifest["samples"]
    worst = {"": largest_difference(model, samples)}
    by_onnx = onnx_difference(folder, manifest, model, samples)
    if by_onnx is not None:
        worst[" by ONNX"] = by_onnx
    for by, difference in worst.items():
        if not difference <= TOLERANCE:
            raise artefact.ArtefactError(
                f"{folder}: scores of the samples{by} differ by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}; {artefact.AGAIN} with the versions of this machine."
            )
    differences = ", ".join(f"{difference:.1e}{by}" for by, difference in worst.items())
    if manifest["onnx"] is not None and by_onnx is None:
        differences += f"; ONNX is not checked: {_why_not(manifest['onnx']['score'])}"
    files = f"{len(manifest['files'])} files are intact"
    return f"{files}; largest difference of {len(samples)} samples: {differences}"


def _why_not(described: Mapping[str, Any]) -> str:
    return described.get("not_converted", 'pip install "nif_jax[onnx]"')


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the largest difference, or ends with one line and status 1."""
    parser = argparse.ArgumentParser(prog="python -m nif_jax.serving.selftest")
    parser.add_argument("--artefact", required=True, type=pathlib.Path, help="folder to check")
    folder = parser.parse_args(arguments).artefact
    try:
        print(f"{folder}: {check(folder)}")
    except artefact.ArtefactError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
