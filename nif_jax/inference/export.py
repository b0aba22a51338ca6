"""--mode=export: a variant of a finished run as an artefact, which nif_jax.serving loads.

Every function has parameters and tables as arguments, so that a program is small and independent of
their values. Letters as in functions.py.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from nif_jax.data import storage
from nif_jax.data.files import naming, write_json
from nif_jax.data.schema import ConfigError
from nif_jax.inference import onnx_export
from nif_jax.inference.model import RunModel
from nif_jax.requests.encode import generator_windows
from nif_jax.requests.log import lay_out
from nif_jax.serving import artefact
from nif_jax.serving.batching import pieces
from nif_jax.serving.loading import load
from nif_jax.serving.onnx_score import onnx_difference
from nif_jax.serving.programs import GIVEN_WIDTH, SPARE_ITEMS
from nif_jax.serving.samples import sample_requests
from nif_jax.serving.selftest import TOLERANCE, largest_difference, sample

PLATFORMS = ("cpu", "cuda", "tpu")
LIBRARIES = ("nif_jax", "jax", "jaxlib", "flax", "numpy", "pyarrow")


def export(model: RunModel, output: pathlib.Path, onnx: bool = False) -> None:
    """Writes an artefact, whole or not at all, in place of one that is there.

    Args:
      model: see nif_jax.load.
      output: a folder that is new, empty, or an artefact.
      onnx: whether `score` is also written as ONNX, see onnx_export.

    Raises:
      ConfigError: the folder has other files, JAX does not run on the CPU, a function cannot be
        exported, the artefact has other scores than the run, or ONNX cannot be written here.
      OSError: the folder cannot be written.
    """
    begin = time.monotonic()
    if output.exists() and not (
        output.is_dir() and ((output / artefact.MANIFEST).exists() or not any(output.iterdir()))
    ):
        raise ConfigError(
            f"--output={output} is no artefact, and not empty; give a new folder, or remove it."
        )
    if jax.default_backend() != "cpu":
        raise ConfigError(
            "--mode=export needs JAX on the CPU, where models use functions that all platforms "
            "have: set JAX_PLATFORMS=cpu. The artefact runs on accelerators too."
        )
    if onnx:
        onnx_export.require_converter()
    with naming(output), storage.scratch_directory(output.absolute().parent) as scratch:
        folder = scratch / "artefact"
        folder.mkdir()
        _write(model, folder, onnx)
        loaded, manifest = load(folder), artefact.read_manifest(folder)
        worst = largest_difference(loaded, manifest["samples"])
        if onnx:
            by_onnx = onnx_difference(folder, manifest, loaded, manifest["samples"])
            worst = max(worst, by_onnx or 0.0)
        if not worst <= TOLERANCE:
            raise ConfigError(
                f"the artefact's scores differ from the run's by {worst:.1e}: nothing was written. "
                "Score with --mode=score."
            )
        storage.discard_directory(output.absolute())
        folder.rename(output)
    print(
        f"{output}: variant {model.variant} for {', '.join(PLATFORMS)} in "
        f"{time.monotonic() - begin:.1f} s; largest difference of the samples: {worst:.1e}"
    )
    if onnx and "not_converted" in manifest["onnx"]["score"]:
        print(f"score has no ONNX program: {manifest['onnx']['score']['not_converted']}.")


def _write(model: RunModel, folder: pathlib.Path, onnx: bool) -> None:
    manifest = {
        "kind": artefact.KIND,
        "format": artefact.FORMAT,
        "variant": model.variant,
        "seed": model.run.seed,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "platforms": list(PLATFORMS),
        "programs": _write_programs(model, folder),
        "onnx": onnx_export.write(model, _score_inputs(model, 1), folder) if onnx else None,
        "tables": artefact.write_arrays(folder, "tables", model.tables),
        "encoder": artefact.write_encoder(folder, model.encoder),
        "vocabulary": artefact.write_vocabulary(folder, model.vocabulary),
        "calibration": artefact.as_json(model.calibration),
        "samples": _samples(model),
    }
    manifest["files"] = artefact.describe_files(folder)
    write_json(folder / artefact.MANIFEST, manifest)


def _write_programs(model: RunModel, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Exports every function of a model; returns file, inputs and outputs of each."""
    (folder / "programs").mkdir()
    found: dict[str, dict[str, Any]] = {}
    for name, function, inputs, more in _functions(model):
        try:
            exported = _exported(function, model.arrays, inputs)
            content = exported.serialize()
        except Exception as error:  # JAX has many errors for what it cannot export
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"variant {model.variant!r} cannot be exported: {name} has no StableHLO for "
                f"{', '.join(PLATFORMS)} ({reason}). Score with --mode=score, or export another "
                "variant."
            ) from error
        file = f"programs/{name}.stablehlo"
        (folder / file).write_bytes(content)
        shapes = jax.tree.leaves_with_path(inputs)
        found[name] = more | {
            "file": file,
            "calling_convention": exported.calling_convention_version,
            "inputs": [_described(x) | {"name": jax.tree_util.keystr(p)} for p, x in shapes],
            "outputs": [_described(x) for x in exported.out_avals],
        }
    return found


def _described(x: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in x.shape]
    return {"shape": shape, "dtype": jnp.dtype(x.dtype).name}


def _exported(function: Callable, arrays: Any, inputs: Any) -> jax.export.Exported:
    """A function of flat tuples: the leaves of arrays, and those of the inputs."""
    tables, tree = jax.tree.flatten(arrays)
    shapes, given = jax.tree.flatten(inputs)

    def flat(tables, values):
        found = function(jax.tree.unflatten(tree, tables), *jax.tree.unflatten(given, values))
        return tuple(jax.tree.leaves(found))

    specs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in tables)
    return jax.export.export(jax.jit(flat), platforms=PLATFORMS)(specs, tuple(shapes))


def _functions(model: RunModel) -> Iterator[tuple[str, Callable, tuple, dict[str, Any]]]:
    """Name, function, shapes of its inputs and further entries of the manifest.

    Numbers of requests, g, and of candidates, r, are symbolic.
    """
    functions, encoder = model.functions, model.encoder
    g, _ = symbols = jax.export.symbolic_shape("g, r")
    inputs = _score_inputs(model, *symbols)
    batch, _, _, owner, item, statistics = inputs
    yield "score", functions.score, inputs, {}
    if functions.cohorts.intent is not None:
        width = min(GIVEN_WIDTH, len(model.vocabulary.item))
        generate = functools.partial(functions.generate, width=width)
        yield "generate", generate, (batch.history,), {"width": width}
    # What depends on the user only is then computed once, not for every candidate.
    yield "score_one", functions.score, _score_inputs(model, 1), {}
    if functions.generator is None:
        return
    windows, entries = _flow_example(model)
    yield "flow", functions.flows, (_leading(g, windows), _leading(g, entries)), {}
    yield "item_vectors", functions.item_vectors, (), {}
    items = jax.tree.map(jnp.asarray, model.features.items)
    yield "embed_items", functions.embed_items, (_leading(SPARE_ITEMS, items),), {}
    if not encoder.chunked:
        return
    state = jax.eval_shape(functools.partial(functions.empty_state, encoder.context))
    entry = jax.ShapeDtypeStruct((6,), np.int32)
    more = {"state": [_described(x) for x in jax.tree.leaves(state)]}
    yield "update", functions.add_event, (state, entry), more
    of_state = (state, jax.ShapeDtypeStruct((), np.int32))
    yield "state_flow", functions.flow_of_state, of_state, {}
    given = jax.eval_shape(functions.flow_of_state, model.arrays, *of_state)
    yield "state_score", functions.score_with_flow, (*given, batch, owner, item, statistics), {}


def _score_inputs(model: RunModel, g: Any, r: Any = None) -> tuple[Any, ...]:
    """Shapes of Encoded for g requests with r candidates, a symbol if r is None."""
    r = jax.export.symbolic_shape("r")[0] if r is None else r
    encoder = model.encoder
    numbered = model.number([sample_requests(model.vocabulary, encoder)[0]])
    example, _ = next(pieces(encoder.encode(numbered)))
    windows = None
    if example.windows is not None:
        each = len(example.windows.item) // len(example.entries)
        windows = _leading(each * g, example.windows)
    of_requests = _leading(g, (example.batch, example.entries))
    candidates = _leading(r, (example.owner, example.item, example.statistics))
    return (*of_requests, windows, *candidates)


def _flow_example(model: RunModel) -> tuple[Any, np.ndarray]:
    """Windows and entries of the flow of a sample request."""
    encoder = model.encoder
    numbered = model.number([sample_requests(model.vocabulary, encoder)[0]])
    lines = lay_out(encoder.log, numbered)
    windows = generator_windows(lines, encoder.context, encoder.chunked, False)
    return windows, lines.end - lines.begin


def _leading(size: Any, tree: Any) -> Any:
    """Shapes of leaves [n, ...] with another first size."""

    def of(x: Any) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), dtype)

    return jax.tree.map(of, tree)


def _samples(model: RunModel) -> list[Mapping[str, Any]]:
    return [sample(model, request) for request in sample_requests(model.vocabulary, model.encoder)]
