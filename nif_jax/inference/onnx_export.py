"""--mode=export --onnx: the score of one request as an ONNX program, parameters included.

The program takes one request with any number of candidates. jax2onnx converts it operator by
operator. A variant with beam search has none, and the manifest names the reason.
"""

import importlib.util
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nif_jax.data.schema import ConfigError
from nif_jax.inference.model import RunModel
from nif_jax.requests.encode import Encoded

FILE = "programs/score.onnx"
BEAMS = (
    "beam search (nif_jax/models/beam.py): jax2onnx converts no jax.lax.fori_loop whose body reads "
    "arrays from outside of it"
)


def require_converter() -> None:
    """Raises ConfigError if jax2onnx or onnxruntime is not installed."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f'--onnx needs {name}: pip install "nif_jax[onnx]".')


def write(model: RunModel, inputs: Sequence[Any], folder: pathlib.Path) -> dict[str, Any]:
    """Writes the program `score` of a model, unless it has a beam search.

    Args:
      model: of a run.
      inputs: shapes of Encoded for one request; the number of candidates is symbolic.
      folder: of the artefact.

    Returns:
      {"score": file, opset and inputs}, or {"score": {"not_converted": reason}}.

    Raises:
      ConfigError: another operator that cannot be converted.
    """
    if model.functions.cohorts.intent is not None:
        return {"score": {"not_converted": BEAMS}}
    import onnx
    from jax2onnx import to_onnx

    encoded = Encoded(*inputs)
    leaves, tree = jax.tree.flatten(encoded)
    paths = [path for path, _ in jax.tree.leaves_with_path(encoded)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    shapes = [[n if isinstance(n, int) else str(n) for n in x.shape] for x in leaves]

    def score(*values):
        return model.functions.score(model.arrays, *jax.tree.unflatten(tree, values))

    given: list[Any] = [
        jax.ShapeDtypeStruct(tuple(shape), x.dtype) for shape, x in zip(shapes, leaves, strict=True)
    ]
    try:
        with warnings.catch_warnings():  # it asks for 64 bits, and gets 32
            warnings.simplefilter("ignore", UserWarning)
            program: Any = to_onnx(
                score, given, model_name="score", input_names=names, output_names=["logit"]
            )
        onnx.save(program, folder / FILE)
    except Exception as error:  # the converter has many errors for what it cannot convert
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"variant {model.variant!r} has no ONNX program: jax2onnx stops with {reason!r}. "
            "Export without --onnx, or another variant."
        ) from error
    described = [
        {"name": name, "shape": shape, "dtype": jnp.dtype(x.dtype).name}
        for name, shape, x in zip(names, shapes, leaves, strict=True)
    ]
    opset = max(one.version for one in program.opset_import)
    return {"score": {"file": FILE, "opset": opset, "inputs": described}}
