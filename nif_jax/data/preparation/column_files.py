"""Columns as .npy files: written in pieces, mapped, and verified a shard at a time."""

import hashlib
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

_BLOCK = 1 << 18
"""Bytes that are read at one time to digest a file: they stay in the cache of the CPU."""


class Digest(Protocol):
    """What require_digests needs of an object of hashlib."""

    def update(self, data: memoryview, /) -> None:
        """Adds bytes."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


class Crc32:
    """CRC-32 as a Digest: takes a third of SHA-256's time. Finds damage, but no manipulation."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        """Adds bytes."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._value:08x}"


class ColumnWriter:
    """Writes a column [E] as a .npy file in pieces, whatever E becomes.

    Args of the constructor: the file, and the type of the column.
    """

    def __init__(self, path: pathlib.Path, dtype: np.dtype):
        self._file, self._dtype, self._rows = path.open("wb"), dtype, 0
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves space for the largest shape, so that the header keeps its length.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._rows,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Adds values [n]."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._rows += len(values)

    def close(self) -> None:
        """Completes the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()


def map_file(path: pathlib.Path) -> np.ndarray:
    """A read-only array whose pages are read when they are used; ValueError if it is none."""
    return np.asarray(_map(path))


def _map(path: pathlib.Path) -> np.memmap:
    """See map_file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is not what was written: {error}") from error


def form(array: np.ndarray) -> tuple[str, tuple[int, ...]]:
    """Type and shape."""
    return array.dtype.str, array.shape


def require_digests(
    path: pathlib.Path,
    digests: Sequence[str],
    rows: np.ndarray,
    shards: Sequence[int] | np.ndarray | None = None,
    method: Callable[[], Digest] = hashlib.sha256,
) -> None:
    """Raises ValueError unless shards of a column have these digests [S]; see shard_digests."""
    shards = range(len(digests)) if shards is None else shards
    require(path, [digests[s] for s in shards], shard_digests(path, rows, shards, method))


def shard_digests(
    path: pathlib.Path,
    rows: np.ndarray,
    shards: Sequence[int] | np.ndarray | None = None,
    method: Callable[[], Digest] = hashlib.sha256,
) -> list[str]:
    """Digests of the bytes of shards of a column [E], all by default; shard s has the rows rows[s]
    to rows[s + 1] - 1."""
    array, found = _map(path), []
    block = memoryview(bytearray(_BLOCK))
    # Read, not mapped: pages that are mapped count as memory of this process.
    with path.open("rb", buffering=0) as file:
        for shard in range(len(rows) - 1) if shards is None else shards:
            file.seek(array.offset + int(rows[shard]) * array.itemsize)
            count = int(rows[shard + 1] - rows[shard]) * array.itemsize
            total = method()
            while count > 0 and (size := file.readinto(block[: min(count, _BLOCK)])):
                total.update(block[:size])
                count -= size
            found.append(total.hexdigest())
    return found


def require(path: pathlib.Path, expected: object, found: object) -> None:
    """Raises ValueError, which names the file, unless both are equal."""
    if expected != found:
        raise ValueError(f"{path} is not what was written: {found}, expected {expected}")
