"""Where data and compiled programs are kept, and writes that are whole or absent."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
import numpy as np

from nif_jax.data.files import naming


def cache_dir(override: str = "") -> pathlib.Path:
    """The folder of cached data: `override`, else $NIF_JAX_CACHE, else the user's cache folder.

    The user's cache folder is $XDG_CACHE_HOME/nif_jax, or ~/.cache/nif_jax.
    """
    chosen = override or os.environ.get("NIF_JAX_CACHE", "")
    if chosen:
        return pathlib.Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    return pathlib.Path(caches).expanduser() / "nif_jax"


def enable_compilation_cache(folder: pathlib.Path) -> None:
    """Keeps compiled programs in a folder, for other seeds and runs, and for processes that serve.

    Has to be called before the first compilation. JAX's own variables take precedence:
    $JAX_COMPILATION_CACHE_DIR, and $JAX_ENABLE_COMPILATION_CACHE=false.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Seconds. The default is 1, but most programs of a seed take less.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def mapped_zeros(folder: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Zeros in a memory-mapped file, which has no name and is gone when nothing refers to it.

    Raises:
      OSError: the folder cannot be written, or its disk has too little space.
    """
    size = max(1, int(np.prod(shape)) * dtype.itemsize)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Space is taken now: a full disk would end the process at a later write.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)


@contextlib.contextmanager
def scratch_directory(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder inside `parent`, so that a rename out of it is atomic; gone at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=".incomplete-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_directory(folder: pathlib.Path, target: pathlib.Path) -> bool:
    """Renames `folder` to `target`; False when another process has published `target` already.

    A folder cannot be renamed onto a non-empty one, so of two writers the second one loses and
    goes on with the first one's work. Raises OSError for every other reason not to rename.
    """
    try:
        folder.rename(target)
    except OSError:
        if target.is_dir():
            return False
        raise
    return True


def discard_directory(target: pathlib.Path) -> None:
    """Removes `target` in one step as seen by other processes; absent is fine."""
    with scratch_directory(target.parent) as trash, contextlib.suppress(FileNotFoundError):
        target.rename(trash / target.name)
