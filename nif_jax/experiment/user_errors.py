"""One line for errors that a user can correct, instead of a traceback."""

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator

_NO_SPACE = "Free some space, then run the same command to resume."
_NOT_WRITABLE = (
    "Give folders that can be written to: --workdir of the run, and --config.data.cache_dir or "
    "$NIF_JAX_CACHE of prepared data."
)
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EROFS: _NOT_WRITABLE,
    errno.EEXIST: _NOT_WRITABLE,
    errno.ENOTDIR: _NOT_WRITABLE,
    errno.EISDIR: "Give a file, not a folder.",
    errno.ENOENT: "Check the path.",
}


@contextlib.contextmanager
def one_line(kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Ends the process with one line if the body raises one of `kinds`, or an error of its system.

    Exit codes: 1, or `exit_code` of the error's class where it has one; 130 if interrupted.
    """
    try:
        yield
    except kinds as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            sys.exit(f"error: {error}")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(code)
    except OSError as error:
        sys.exit(f"error: {_describe(error)}")
    except MemoryError:
        sys.exit("error: out of memory; lower --config.train.batch_size, or use less data.")
    except KeyboardInterrupt:
        print("interrupted; run the same command to resume", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _describe(error: OSError) -> str:
    """What happened, the path and, where there is one, a remedy."""
    if error.errno is None:
        return " ".join(str(error).split())
    paths = " -> ".join(str(name) for name in (error.filename, error.filename2) if name)
    what = f"{error.strerror}: {paths}." if paths else f"{error.strerror}."
    return f"{what} {_REMEDIES.get(error.errno, '')}".rstrip()
