"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a line of progress."""

import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
import tensorboardX
import tqdm
from absl import logging

from nif_jax.data.files import naming, write_whole
from nif_jax.metrics.records import METRICS_FILE, good_records, read_metrics


class MetricWriter:
    """Appends measurements to <workdir>/metrics.jsonl and to TensorBoard events.

    A line is {"step": int, "stage": str, "time": unix seconds, "values": {name: number or null}}.
    Each stage has its own TensorBoard folder, because steps start again at every stage. Both files
    are made at the first write. A context manager; a second `close` does nothing.
    """

    def __init__(self, workdir: str | os.PathLike[str], enabled: bool = True):
        """Opens the writer; `enabled` is False on all processes but the first."""
        self._workdir = Path(workdir)
        self._path = self._workdir / METRICS_FILE
        self._enabled = enabled
        self._file: TextIO | None = None
        self._boards: dict[str, tensorboardX.SummaryWriter] = {}
        self._purge_steps: dict[str, int] = {}
        if enabled:
            with naming(self._workdir):
                self._workdir.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._rewrite(good_records(self._path))

    def write(self, step: int, stage: str, values: Mapping[str, Any]) -> None:
        """Records scalars at a step of a stage, and hands the line to the operating system.

        Args:
          step: of the stage.
          stage: its name.
          values: name -> scalar (Python, NumPy or JAX) or None. Non-finite ones become null:
            JSON has no NaN.

        Raises:
          TypeError: a value that is not one number.
          OSError: a file cannot be written; names it.
        """
        if not self._enabled:
            return
        values = {name: _number(name, value) for name, value in values.items()}
        record = {
            "step": int(step),
            "stage": stage,
            "time": round(time.time(), 3),
            "values": values,
        }
        with naming(self._path):
            if self._file is None:
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        with naming(self._workdir / "tensorboard"):
            board = self._board(stage)
            for name, value in values.items():
                if value is not None:
                    board.add_scalar(name, value, step)

    def truncate_after(self, step: int, stage: str) -> None:
        """Forgets the records of `stage` later than `step`, which the resumed run writes again.

        With it a resumed run's file equals an unbroken one's, but for the times. Records of other
        stages stay: each stage truncates its own when it starts (-1 forgets all of it).
        """
        if not self._enabled:
            return
        self.close()
        self._purge_steps[stage] = step + 1
        if not self._path.exists():
            return
        records = read_metrics(self._path)
        kept = [r for r in records if r["stage"] != stage or r["step"] <= step]
        if len(kept) == len(records):
            return
        logging.info(
            "%s: dropped %d records of stage %s after step %d",
            self._path,
            len(records) - len(kept),
            stage,
            step,
        )
        self._rewrite(kept)

    def flush(self) -> None:
        """Puts everything written so far on disk."""
        with naming(self._workdir):
            if self._file is not None:
                self._file.flush()
                os.fsync(self._file.fileno())
            for board in self._boards.values():
                board.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        with naming(self._workdir):
            if self._file is not None:
                self._file.close()
                self._file = None
            for board in self._boards.values():
                board.close()
        self._boards.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replaces the file, where it holds anything else."""
        content = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        if self._path.read_bytes() != content.encode():
            write_whole(self._path, content)

    def _board(self, stage: str) -> tensorboardX.SummaryWriter:
        if stage not in self._boards:
            self._boards[stage] = tensorboardX.SummaryWriter(
                str(self._workdir / "tensorboard" / stage),
                purge_step=self._purge_steps.pop(stage, None),
            )
        return self._boards[stage]


class Progress:
    """One line a log step (step of total, loss, examples/s, time left); a bar on a terminal.

    A context manager, so that the bar ends before the next message.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        start: int = 0,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
          stage: name to print.
          total: last step.
          start: step the run resumed from.
          enabled: False prints nothing (all processes but the first).
          clock: seconds; tests pass their own.
        """
        self._stage, self._total, self._enabled, self._clock = stage, total, enabled, clock
        self._last = (start, clock())
        self._warm: tuple[int, float] | None = None
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, initial=start, desc=stage, unit="step")

    def update(self, step: int, loss: float, examples: int) -> float:
        """Prints the line of a log step.

        Args:
          step: just done.
          loss: mean since the last log step.
          examples: trained on since the last log step, over all devices.

        Returns:
          Examples a second since the last log step.
        """
        now = self._clock()
        rate = examples / max(now - self._last[1], 1e-9)
        # The first interval holds compilation, so later estimates count from its end.
        since_step, since_time = self._warm or self._last
        remaining = (self._total - step) * (now - since_time) / max(step - since_step, 1)
        self._last = (step, now)
        self._warm = self._warm or self._last
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} examples/s", refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._enabled:
            logging.info(
                "%s %d/%d (%.0f %%)  loss %.4f  %s examples/s  ETA %s",
                self._stage,
                step,
                self._total,
                100 * step / max(self._total, 1),
                loss,
                f"{rate:,.0f}",
                datetime.timedelta(seconds=round(remaining)),
            )
        return rate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _number(name: str, value: Any) -> int | float | None:
    """A JSON number; None for None and for what is not finite."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise TypeError(f"metric {name!r} must be one number, got {value!r}")
    if array.dtype.kind in "biu":
        return int(array.item())
    number = float(array.item())
    return number if math.isfinite(number) else None
