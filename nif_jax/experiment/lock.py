"""One run at a time writes into a workdir."""

import contextlib
import json
import os
import pathlib
import socket
from collections.abc import Iterator

import filelock

from nif_jax.data.files import unwritable, write_whole
from nif_jax.reports.workdirs import WorkdirError

LOCK_FILE, HOLDER_FILE = ".lock", ".lock_holder.json"
"""Of a workdir: the lock, and who holds it, for messages only. The operating system frees the lock
when its process ends, however it ends, so the files may stay."""


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir, which is made.

    Raises:
      WorkdirError: another run holds it; names the workdir and the process.
      OSError: the workdir cannot be written.
    """
    lock = filelock.FileLock(workdir / LOCK_FILE)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:  # an OSError too
        raise WorkdirError(
            f"{workdir} is in use by another run{_holder(workdir)}. Wait until it ends, or use "
            "another --workdir."
        ) from error
    except OSError as error:
        raise unwritable(workdir, error) from error
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        write_whole(workdir / HOLDER_FILE, json.dumps(holder) + "\n")
        yield
    finally:
        (workdir / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _holder(workdir: pathlib.Path) -> str:
    """Process and host of who holds the lock, as far as it is written."""
    try:
        found = json.loads((workdir / HOLDER_FILE).read_text())
        return f" (process {found['pid']} on {found['host']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
