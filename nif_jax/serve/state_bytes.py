"""A record of a user as bytes, without pickle: a line of JSON, then the arrays.

A checksum is before the line, which has the digest of the artefact, so that a value of any other
origin is refused. Shapes and types of the arrays are those of the artefact's empty state.
"""

import json
import zlib

import jax
import numpy as np

from nif_jax.requests.log import Rows
from nif_jax.serve.states import Record
from nif_jax.serving.state import UserState

FORMAT = 1


class StateFormatError(ValueError):
    """Bytes that are no record of this artefact."""


class StateBytes:
    """Reads and writes the records of one artefact."""

    def __init__(self, digest: str, empty: UserState):
        """Takes the digest of the artefact, and its state before the first event."""
        self._digest, self._empty = digest, empty
        self._generator = [np.asarray(leaf) for leaf in jax.tree.leaves(empty.generator)]

    def write(self, record: Record) -> bytes:
        """The bytes of a record."""
        state = record.state
        rows = [column[: state.size] for column in state.rows]
        features = [state.user_features[name] for name in sorted(self._empty.user_features)]
        arrays = [*features, *rows, *map(np.asarray, jax.tree.leaves(state.generator))]
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        head = {
            "format": FORMAT,
            "artefact": self._digest,
            "size": state.size,
            "entries": state.entries,
            "last": state.last,
            "ids": record.ids,
        }
        rest = json.dumps(head).encode() + b"\n" + content
        return b"%08x " % zlib.crc32(rest) + rest

    def read(self, value: bytes) -> Record:
        """What `write` wrote; raises StateFormatError for anything else."""
        if value[:9] != b"%08x " % zlib.crc32(value[9:]):
            raise StateFormatError("it is damaged, or no state")
        line, _, content = value[9:].partition(b"\n")
        head = json.loads(line)
        if (head["format"], head["artefact"]) != (FORMAT, self._digest):
            raise StateFormatError("it is of another artefact or version")
        size, empty = head["size"], self._empty
        space = len(empty.rows.item)
        while space < size:
            space *= 2
        names = sorted(empty.user_features)
        like = [(np.asarray(empty.user_features[name]), None) for name in names]
        like += [(column, size) for column in empty.rows]
        like += [(array, None) for array in self._generator]
        arrays, place = [], 0
        for array, length in like:
            shape = array.shape if length is None else (length,)
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(content, array.dtype, count, place).reshape(shape))
            place += count * array.dtype.itemsize
        features = dict(zip(names, arrays, strict=False))
        rows = (_padded(x, space) for x in arrays[len(names) : len(names) + len(Rows._fields)])
        tree = jax.tree.structure(empty.generator)
        generator = jax.tree.unflatten(tree, arrays[len(names) + len(Rows._fields) :])
        numbers = size, head["entries"], head["last"]
        return Record(UserState(features, Rows(*rows), *numbers, generator), tuple(head["ids"]))


def _padded(column: np.ndarray, space: int) -> np.ndarray:
    whole = np.zeros(space, column.dtype)
    whole[: len(column)] = column
    return whole
