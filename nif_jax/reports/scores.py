"""scores.npz: logits of each model of one seed for the R test impressions, in store order.

Kept so that differences within and across workdirs can be tested without scoring again.
"""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nif_jax.data.files import write_whole
from nif_jax.reports.results import AGAIN

SCORES_FILE = "scores.npz"
# What zipfile, zlib and NumPy raise for a damaged file.
_DAMAGE = (EOFError, KeyError, MemoryError, OSError, RuntimeError, ValueError)
_DAMAGE += (zipfile.BadZipFile, zlib.error)
_LOGIT = "logit/"


class Scores(NamedTuple):
    """Where the fingerprint is equal, so are label and user, and scores can be compared."""

    label: np.ndarray  # [R] int8 of 0 and 1
    user: np.ndarray  # [R] int32, numbers of users by order of name
    fingerprint: str  # of the impressions, see `fingerprint`
    logits: Mapping[str, Mapping[str, np.ndarray]]  # model -> history -> [R] float32


def fingerprint(users: np.ndarray, items: np.ndarray, times: np.ndarray, labels: np.ndarray) -> str:
    """16 hexadecimal digits of user, item, second and label of the impressions in order, each [R].

    Users and items by name, since their numbers depend on what else a data set holds.
    """
    digest = hashlib.sha256()
    for column in (users, items):
        digest.update("\n".join(map(str, column)).encode() + b"\0")
    digest.update(np.asarray(times, "<i8").tobytes())
    digest.update(np.asarray(labels, "<i1").tobytes())
    return digest.hexdigest()[:16]


def write_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Writes scores in one step: a reader sees the old file or the new one, whole."""
    columns: dict[str, Any] = {
        "label": np.asarray(scores.label, np.int8),
        "user": np.asarray(scores.user, np.int32),
    }
    for model, by_history in scores.logits.items():
        for history, logits in by_history.items():
            columns[f"{_LOGIT}{history}/{model}"] = np.asarray(logits, np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, fingerprint=np.array(scores.fingerprint), **columns)
    write_whole(path, file.getvalue())


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Reads scores; raises FileNotFoundError, or a ValueError that names a damaged file."""
    logits: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                if name.startswith(_LOGIT):
                    history, model = name.removeprefix(_LOGIT).split("/", 1)
                    logits.setdefault(model, {})[history] = file[name]
            return Scores(file["label"], file["user"], str(file["fingerprint"]), logits)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not a file of scores ({reason}). {AGAIN}") from error
