"""The steps that benchmarks/accelerator.py measures."""

import dataclasses
from collections.abc import Callable, Iterator

from benchmarks import built_steps

BYTES_OF_A_ROW = 32 * 3 * 4
"""A row of width 32 and its two moments."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A step to measure.

    Attributes:
      name: what the table calls it.
      make: dtype -> what the step is made of.
      items: N.
      entries: of a step, rows of a batch or positions.
      dtype: config.compute_dtype.
      count: whether its FLOPs are counted.
    """

    name: str
    make: Callable[[str], built_steps.Built]
    items: int
    entries: int
    dtype: str
    count: bool = True


def ranker_cases(quick: bool) -> Iterator[Case]:
    """By width, batch and precision."""
    items, steps = (200, 2) if quick else (100_000, 16)
    for width, batch in [(8, 32)] if quick else [(32, 1024), (32, 16384), (256, 16384)]:
        text = f"ranker.dim={width},ranker.tower={8 * width}+{4 * width}+{2 * width}"

        def make(dtype, batch=batch, text=text):
            return built_steps.ranker(items, 0, batch, 0, text, dtype, steps)

        for dtype in ("float32", "bfloat16"):
            yield Case(f"D = {width}, {batch} rows", make, items, batch, dtype)


def generator_cases(quick: bool) -> Iterator[Case]:
    """By width, rows and precision."""
    items, length = (200, 16) if quick else (10_000, 128)
    for width, rows in [(8, 2)] if quick else [(64, 32), (256, 32), (256, 256)]:
        text = f"generator.dim={width},generator.heads=4,flow_loss.diversity_items=64"

        def make(dtype, rows=rows, text=text):
            return built_steps.generator(items, 0, "exact", rows, length, text, dtype)

        for dtype in ("float32", "bfloat16"):
            yield Case(f"D = {width}, {rows} x {length}", make, items, rows * length, dtype)


def mfu_cases(quick: bool) -> Iterator[Case]:
    """The best guess first: without roll-outs, then the default loss, then twice the batch."""
    items, length, width, layers = (100, 16, 16, 2) if quick else (20_000, 256, 1024, 9)
    sizes = f"generator.dim={width},generator.heads={width // 128 or 2},generator.layers={layers}"
    for rows, starts in [(2, 0)] if quick else [(256, 0), (256, 2), (512, 0)]:
        text = f"{sizes},generator.dropout=0.0,flow_loss.velocity_starts={starts}"

        def make(dtype, rows=rows, text=text):
            return built_steps.generator(items, 0, "exact", rows, length, text, dtype, steps=2)

        name = f"D = {width}, {layers} blocks, {rows} x {length}"
        name += ", roll-outs" if starts else ""
        yield Case(name, make, items, rows * length, "bfloat16")


def table_cases(quick: bool) -> Iterator[Case]:
    """From nine tenths of the device's memory downwards."""
    import jax

    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 16 * 2**30)
    rows = [0.9 * memory / BYTES_OF_A_ROW * share for share in (1, 0.85, 0.7, 0.5, 0.3)]
    for number in [4_000] if quick else rows:
        items, batch = int(number) // 2, 32 if quick else 1024

        def make(dtype, items=items, batch=batch):
            return built_steps.ranker(items, 1, batch, 0, dtype=dtype)

        yield Case(f"{2 * items:,} rows x 32", make, items, batch, "float32", count=False)


CASES = {
    "ranker": ranker_cases,
    "generator": generator_cases,
    "table": table_cases,
    "mfu": mfu_cases,
}
