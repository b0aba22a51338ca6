"""What a stage's train step costs, next to what this machine can do.

A trace of a few steps for https://ui.perfetto.dev or TensorBoard, and a row of a table for each
stage. Steps are taken from a copy of the state that training starts from, and thrown away: training
gives the same arrays with and without a profile.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nif_jax.data.files import write_whole
from nif_jax.data.input import Epochs
from nif_jax.training.devices.base import Devices
from nif_jax.training.devices.processes import is_writer
from nif_jax.training.stage import Stage
from nif_jax.training.step import make_train_step

TIMED, TRACED = 3, 2
"""Dispatches of a stage that are timed, and that are traced; one before them compiles."""

PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "Tesla V100-SXM2-16GB": 125e12,
    "Tesla T4": 65e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""device_kind -> dense FLOP/s in bfloat16 (float16 for V100 and T4), by the makers' data sheets."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A train step of a stage on one device.

    Attributes:
      stage: its name.
      step_ms: median milliseconds of a step.
      gflop: floating-point operations of a step in 10^9, by XLA's count of the program before it is
        optimised. The body of a loop within a step counts once, whatever its length.
      gbyte: what the compiled program of a step reads and writes in 10^9 bytes, by XLA's count, for
        one pass over the whole batch.
      gflop_per_s: gflop over the time.
      gbyte_per_s: gbyte over the time.
      of_matmul: gflop_per_s over that of a large matrix product in float32 on this device.
      of_copy: gbyte_per_s over that of a large copy. Above 1 where data stays in a cache.
      mfu: gflop_per_s over the peak of the device's kind; None where PEAK does not have it.
    """

    stage: str
    step_ms: float
    gflop: float
    gbyte: float
    gflop_per_s: float
    gbyte_per_s: float
    of_matmul: float
    of_copy: float
    mfu: float | None


def _fastest(call: Callable[[], Any], tries: int = 3) -> float:
    """Seconds of the fastest of several calls, after one that compiles."""
    seconds = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@functools.cache
def machine_rates() -> tuple[float, float]:
    """FLOP/s of a matrix product in float32, and bytes/s of a copy, on this process's first device.

    The copy reads and writes 256 MiB, which no cache holds.
    """
    size = 1024 if jax.default_backend() == "cpu" else 8192
    square = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    flat, times = jnp.ones(32 * 2**20), 4
    # Several in one program: the first writes to new memory, which the host has to map.
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda _, x: x + 1, x))
    copied = 2 * times * flat.nbytes
    return 2 * size**3 / _fastest(lambda: product(square)), copied / _fastest(lambda: copy(flat))


class Profiler:
    """Measures stages and writes profile.json, profile.md and profile/<stage>/ into a folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._rows: list[Row] = []

    def measure(
        self, stage: Stage, train_step: Callable, state: Any, epochs: Epochs, parallel: Devices
    ) -> None:
        """Measures a stage's train step, and writes all that has been measured.

        Args:
          stage: the stage.
          train_step: its mapped step, which may take the state's buffers.
          state: TrainState on the host.
          epochs: its input.
          parallel: the devices.
        """
        unit, data = stage.settings.unit, stage.data
        stream = epochs.batches(
            first_step=0,
            last_step=unit,
            steps_per_dispatch=unit,
            gather=data.host_gather(stage.gather),
        )
        batches = next(stream)
        placed = parallel.shard(batches)
        current = parallel.replicate(state)

        def dispatch() -> float:
            nonlocal current
            start = time.perf_counter()
            current, measurements = train_step(current, *data.step_arguments, placed)
            jax.block_until_ready((current, measurements))
            return time.perf_counter() - start

        seconds = [dispatch() for _ in range(1 + TIMED)][1:]
        trace = self._folder / "profile" / stage.name
        with jax.profiler.trace(str(trace)) if is_writer() else contextlib.nullcontext():
            for _ in range(TRACED):
                dispatch()
        one = parallel.shard(jax.tree.map(lambda x: x[:, :1], batches))
        flops, size = _count(stage, parallel, current, one)
        self._rows.append(_row(stage.name, float(np.median(seconds)) / unit, flops, size))
        self._write()

    def table(self) -> str:
        """The measured stages in Markdown."""
        matmul, copied = machine_rates()
        device = jax.local_devices()[0].device_kind
        known = f"peak {PEAK[device] / 1e12:.0f} TFLOP/s" if device in PEAK else "peak unknown"
        lines = [
            f"{device} ({known}); float32 matrix product {matmul / 1e9:.1f} GFLOP/s, copy "
            f"{copied / 1e9:.1f} GB/s; per step and device.",
            "",
            "| Stage | ms | GFLOP | GB | GFLOP/s | of matmul | GB/s | of copy | MFU |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in self._rows:
            mfu = "unknown" if row.mfu is None else f"{row.mfu:.2%}"
            lines.append(
                f"| {row.stage} | {row.step_ms:.2f} | {row.gflop:.4f} | {row.gbyte:.4f} "
                f"| {row.gflop_per_s:.2f} | {row.of_matmul:.1%} | {row.gbyte_per_s:.2f} "
                f"| {row.of_copy:.1%} | {mfu} |"
            )
        return "\n".join(lines) + "\n"

    def _write(self) -> None:
        if not is_writer():
            return
        matmul, copied = machine_rates()
        found = {
            "device": jax.local_devices()[0].device_kind,
            "matmul_gflop_per_s": matmul / 1e9,
            "copy_gbyte_per_s": copied / 1e9,
            "stages": [dataclasses.asdict(row) for row in self._rows],
        }
        write_whole(self._folder / "profile.json", json.dumps(found, indent=2) + "\n")
        write_whole(self._folder / "profile.md", self.table())


def _count(stage: Stage, parallel: Devices, state, batch) -> tuple[float, float]:
    """FLOPs and bytes of one step over the whole batch: no loop over passes or steps, whose body
    XLA would count once."""
    step: Any = parallel.map(make_train_step(stage, 0, stage.data.on_device))
    lowered = step.lower(state, *stage.data.step_arguments, batch)
    # Backends call libraries for products, which the count of the compiled program leaves out.
    return lowered.cost_analysis()["flops"], lowered.compile().cost_analysis()["bytes accessed"]


def _row(name: str, seconds: float, flops: float, size: float) -> Row:
    matmul, copied = machine_rates()
    peak = PEAK.get(jax.local_devices()[0].device_kind)
    return Row(
        stage=name,
        step_ms=seconds * 1e3,
        gflop=flops / 1e9,
        gbyte=size / 1e9,
        gflop_per_s=flops / seconds / 1e9,
        gbyte_per_s=size / seconds / 1e9,
        of_matmul=flops / seconds / matmul,
        of_copy=size / seconds / copied,
        mfu=None if peak is None else flops / seconds / peak,
    )
