"""From the folder of an artefact to a Model."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import numpy as np

from nif_jax.data import storage
from nif_jax.data.schema import ConfigError
from nif_jax.metrics.calibration import Calibration
from nif_jax.serving import artefact
from nif_jax.serving.artefact import AGAIN, ArtefactError
from nif_jax.serving.model import Model
from nif_jax.serving.programs import GIVEN_WIDTH, Programs, StatePrograms


def load(folder: str | os.PathLike[str]) -> Model:
    """The model of an artefact, which `python -m nif_jax.main --mode=export` has written.

    Compiled programs are kept for the next process, in the folder of storage.cache_dir. Files are
    checked for their sizes; `python -m nif_jax.serving.selftest` checks their digests.

    Args:
      folder: of the artefact; it has to stay while the model is used, which maps its arrays.

    Raises:
      ArtefactError: the folder is no artefact, or a file is missing or damaged.
    """
    storage.enable_compilation_cache(storage.cache_dir() / "programs")
    folder = pathlib.Path(folder)
    manifest = artefact.read_manifest(folder)
    tables = artefact.read_arrays(folder, manifest["tables"])
    calibration = dict(manifest["calibration"])
    for key in ("knots", "values"):
        calibration[key] = tuple(calibration[key])
    return Model(
        variant=manifest["variant"],
        programs=_programs(folder, manifest["programs"]),
        arrays={name: jax.device_put(table) for name, table in tables.items()},
        vocabulary=artefact.read_vocabulary(folder, manifest["vocabulary"]),
        encoder=artefact.read_encoder(folder, manifest["encoder"]),
        calibration=Calibration(**calibration),
    )


def _programs(folder: pathlib.Path, described: Mapping[str, Mapping[str, Any]]) -> Programs:
    """The functions of a Model, each the call of a serialised one."""
    found = {name: _call(folder / one["file"]) for name, one in described.items()}

    def first(name: str) -> Callable[..., Any]:
        return lambda *given: found[name](*given)[0]

    state, generate = None, None
    if "update" in found:
        state = StatePrograms(
            empty=functools.partial(_zeros, described["update"]["state"]),
            update=lambda arrays, *given: found["update"](arrays, *given),
            flow=_three(found["state_flow"]),
            score=first("state_score"),
        )
    if "generate" in found:
        generate = functools.partial(_generate, first("generate"), described["generate"]["width"])
    has_flow = "flow" in found
    return Programs(
        score=_score(first("score"), first("score_one")),
        flows=_three(found["flow"]) if has_flow else None,
        item_vectors=first("item_vectors") if has_flow else None,
        embed_items=first("embed_items") if has_flow else None,
        state=state,
        generate=generate,
    )


def _score(several: Callable[..., jax.Array], one: Callable[..., jax.Array]):
    """The program of `score` for the number of requests."""

    def found(arrays: Any, batch: Any, entries: np.ndarray, *rest: Any) -> jax.Array:
        program = one if len(entries) == 1 else several
        return program(arrays, batch, entries, *rest)

    return found


def _three(call: Callable[..., tuple[jax.Array, ...]]):
    """A program of flow, past and mask."""

    def found(*given: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        flow, past, mask = call(*given)
        return flow, past, mask

    return found


def _call(path: pathlib.Path) -> Callable[..., tuple[jax.Array, ...]]:
    """The program of a file: (arrays, *inputs) -> tuple of arrays; inputs are any trees."""
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # the reader of a foreign library; it has no error of its own
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(
            f"{path} cannot be read by JAX {jax.__version__} ({reason}); {AGAIN}."
        ) from error
    call = jax.jit(exported.call)
    return lambda arrays, *inputs: call(tuple(arrays.values()), tuple(jax.tree.leaves(inputs)))


def _zeros(shapes: list[Mapping[str, Any]]) -> tuple[np.ndarray, ...]:
    return tuple(np.zeros(one["shape"], one["dtype"]) for one in shapes)


def _generate(call: Callable[..., jax.Array], given: int, arrays, history, width: int) -> jax.Array:
    if width > given:
        raise ConfigError(
            f"this artefact generates {given} items, not {width}: give k of at most "
            f"{GIVEN_WIDTH // 2}, or recommend by the run (nif_jax.load)."
        )
    return call(arrays, history)[:, :width]
