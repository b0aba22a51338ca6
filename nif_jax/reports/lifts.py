"""The table of ab.json: arms of an online A/B test on simulated traffic."""

from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.reports import tables

AB_FILE = "ab.json"


def table(records: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Arms side by side; lifts in per cent."""
    header = ["arm", "CTR", "lift, %", "95 % interval", "true CTR", "true lift, %", "of oracle's"]
    rows = []
    for found in records:
        share = found["oracle_share"]
        rows.append([
            found["model"],
            f"{found['ctr']:.4f}",
            f"{100 * found['lift']:+.2f}",
            f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}",
            f"{found['true_ctr']:.4f}",
            f"{100 * found['true_lift']:+.2f}",
            tables.NOT_AVAILABLE if share is None else f"{share:.3f}",
        ])  # fmt: skip
    return tables.Table(header, rows, labels=1)
