"""A small finished workdir, ways to damage it, and what counts as the same results."""

import pathlib
import shutil

import numpy as np
import pandas as pd

from configs import hybrid
from nif_jax.experiment import runner
from nif_jax.reports import results

TEXT = ",".join(
    [
        "files,smoke,rows=base+lr,init_rows=base,xla_flags=,content.source=file",
        "ranker.dim=4,ranker.attention=4,ranker.tower=8,ranker.calibration=4",
        "data.history_length=4,train.batch_size=64,train.microbatch=0,train.epochs=2.0",
        "train.eval_epochs=1.0,train.steps_per_dispatch=2,train.min_steps=0,eval.batch_size=16",
        "eval.resamples=20",
    ]
)
STAGES = ("base", "lr")


def write_tables(folder: pathlib.Path) -> None:
    """events.csv, items.csv, users.csv and content.npy."""
    rng = np.random.default_rng(0)
    items = [f"item {number}" for number in range(20)]
    pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), 12),
            "item_id": rng.choice(items, 480),
            "timestamp": 1_700_000_000 + 3_600 * np.arange(480),
            "label": rng.integers(0, 2, 480),
        }
    ).to_csv(folder / "events.csv", index=False)
    pd.DataFrame(
        {
            "item_id": items,
            "title": [f"title of {item}" for item in items],
            "category": rng.choice(["a", "b", "c"], 20),
        }
    ).to_csv(folder / "items.csv", index=False)
    pd.DataFrame({"user_id": range(40), "age": rng.integers(1, 5, 40)}).to_csv(
        folder / "users.csv", index=False
    )
    write_content(folder, seed=0)


def write_content(folder: pathlib.Path, seed: int) -> None:
    """content.npy, random vectors of the items."""
    content = np.zeros(20, [("item_id", "U16"), ("vector", np.float32, (4,))])
    content["item_id"] = [f"item {number}" for number in range(20)]
    content["vector"] = np.random.default_rng(seed).normal(size=(20, 4))
    np.save(folder / "content.npy", content)


def get_config(folder: pathlib.Path, more: str = ""):
    """The config of a run on `write_tables`."""
    paths = {name: folder / f"{name}.csv" for name in ("items", "users")}
    config = hybrid.get_config(TEXT + more)
    config.source.path = str(folder / "events.csv")
    config.source.update({name: str(path) for name, path in paths.items()})
    config.content.path = str(folder / "content.npy")
    return config


def measured(workdir: pathlib.Path) -> dict:
    """results.json without what two runs of one command differ in: times, and digests of files
    that hold times."""
    found = results.read_results(workdir)
    costs = ("train_examples_per_second", "peak_rss_bytes")
    found["rows"] = [{k: v for k, v in row.items() if k not in costs} for row in found["rows"]]
    return {key: value for key, value in found.items() if key not in ("run", "files")}


def outcome(config, workdir: pathlib.Path, mode: str, expected: dict) -> str:
    """ "same", or the name of the error; raises what a user must not see.

    Raises:
      AssertionError: the results are others.
      Exception: one that main does not print as one line.
    """
    try:
        runner.run(config, workdir, mode)
    except (*runner.USER_ERRORS, OSError) as error:
        return type(error).__name__
    assert measured(workdir) == expected, "other results"
    return "same"


def flip(path: pathlib.Path, at: int | None = None, bit: int = 0) -> None:
    """Inverts one bit of a file, by default in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1 << bit
    path.write_bytes(content)


def flip_digit(path: pathlib.Path, after: str) -> None:
    """Changes the last digit of the number that follows a text for the first time."""
    text = path.read_text()
    end = text.index(after) + len(after)
    while not text[end].isdigit():
        end += 1
    while text[end + 1].isdigit() or text[end + 1] == ".":
        end += 1
    path.write_text(text[:end] + str((int(text[end]) + 1) % 10) + text[end + 1 :])


def cut(path: pathlib.Path) -> None:
    """Truncates a file to its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: pathlib.Path) -> None:
    """Deletes a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def step_folder(folder: pathlib.Path) -> pathlib.Path:
    """The only <step> of best or last."""
    (path,) = (path for path in folder.iterdir() if path.name.isdigit())
    return path


def array_file(step: pathlib.Path) -> pathlib.Path:
    """The largest file of a checkpoint's arrays."""
    files = [path for path in (step / "tree").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def meta_file(step: pathlib.Path) -> pathlib.Path:
    """The file of a checkpoint's description."""
    return step / "meta" / "metadata"
