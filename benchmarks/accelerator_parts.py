"""Measures the parts of benchmarks/accelerator.py, each in a process of its own."""

import json
import os
import subprocess
import tempfile
import threading
import time
from typing import Any

from benchmarks import built_steps, common, matmuls
from benchmarks.accelerator_cases import CASES, Case

ROW = "ROW "
"""Begins a line of a part's output that is a measured row in JSON."""


def measure(case: Case, dispatches: int) -> dict[str, Any]:
    """A row of the table, with the number of parameters."""
    import jax

    from nif_jax.training.profile import PEAK

    built = case.make(case.dtype)
    step, state, arguments = built_steps.start(case.items, built)
    steps = jax.tree.leaves(built.index)[0].shape[1]
    kind = jax.local_devices()[0].device_kind
    row = {
        "device": kind,
        "case": case.name,
        "dtype": case.dtype,
        "parameters": sum(x.size for x in jax.tree.leaves(state[0].params)),
    }
    if case.count:
        counted, *_ = built_steps.mapped_step(case.make("float32"))
        found = matmuls.products(counted, state[0], *arguments)
        row["tflop"] = sum(product.flops for product in found) / steps / 1e12
    state[0], _ = step(state[0], *arguments)
    jax.block_until_ready(state[0])  # compiled
    begin = time.perf_counter()
    for _ in range(dispatches):
        state[0], losses = step(state[0], *arguments)
    total, weight = jax.block_until_ready(losses)["loss"]
    seconds = (time.perf_counter() - begin) / dispatches / steps
    loss = float(total[0, -1] / weight[0, -1])
    if not abs(loss) < float("inf"):
        raise FloatingPointError(f"the loss is {loss}")
    row |= {"ms": 1e3 * seconds, "entries_per_s": case.entries / seconds, "loss": loss}
    if case.count:
        row["tflop_per_s"] = row["tflop"] / seconds
        peak = PEAK.get(kind)
        row["mfu"] = None if peak is None else 1e12 * row["tflop_per_s"] / peak
    return row


def run_part(name: str, seconds: float, quick: bool) -> None:
    """Measures the cases of a part that there is time for, in this process."""
    import jax

    print(f"{name}: {common.machine()}", flush=True)
    begin, longest = time.monotonic(), 0.0
    for case in CASES[name](quick):
        started = time.monotonic()
        if started - begin + longest > seconds:
            row = {"case": case.name, "dtype": case.dtype, "error": "no time left"}
            print(ROW + json.dumps(row), flush=True)
            continue
        print(f"{name}: {case.name}, {case.dtype}", flush=True)
        try:
            row = measure(case, 2 if quick else 5)
        except (jax.errors.JaxRuntimeError, FloatingPointError) as error:  # such as no memory
            row = {"case": case.name, "dtype": case.dtype, "error": str(error)[:200]}
        print(ROW + json.dumps(row), flush=True)
        jax.clear_caches()
        longest = max(longest, time.monotonic() - started)
        if name == "table" and "error" not in row:
            return


def run_process(command: list[str], seconds: float) -> tuple[list[dict[str, Any]], str]:
    """The rows that a process prints, and "" or what is wrong with it; it is killed in the end."""
    rows = []
    # Most of the memory from the start, where the default is three quarters.
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"} | os.environ
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(ROW):
                rows.append(json.loads(line.removeprefix(ROW)))
            else:
                print(line, end="", flush=True)
        status, late = process.wait(), timer.finished.is_set()
        timer.cancel()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [f"exit status {status}"])[-1]
    if not status:
        return rows, ""
    return rows, f"stopped after {seconds:.0f} s" if late else last


def table(parts: dict[str, Any]) -> str:
    """All rows in Markdown."""
    lines = [
        "| part | step | dtype | parameters | ms | rows or positions/s | TFLOP/s | MFU |",
        "|:--|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for name, part in parts.items():
        for row in part["rows"]:
            start = f"| {name} | {row['case']} | {row.get('dtype', '')} "
            if "error" in row:
                lines.append(f"{start}| {row['error']} | | | | |".replace("\n", " "))
                continue
            rate = f"{row['tflop_per_s']:.4g}" if "tflop_per_s" in row else ""
            mfu = "unknown" if row.get("mfu") is None else f"{row['mfu']:.1%}"
            lines.append(
                f"{start}| {row['parameters']:,} | {row['ms']:.2f} | {row['entries_per_s']:,.0f} "
                f"| {rate} | {mfu if rate else ''} |"
            )
        if part["error"]:
            lines.append(f"| {name} | {part['error']} | | | | | | |")
    return "\n".join(lines) + "\n"
