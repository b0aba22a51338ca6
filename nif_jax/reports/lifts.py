"""The table of ab.json: arms of an online A/B test on simulated traffic."""

from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.reports import tables

AB_FILE = "ab.json"


def table(records: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Arms side by side; lifts in per cent."""
    header = ["arm", "CTR", "lift, %", "95 % interval", "true CTR", "true lift, %", "of oracle's"]
    rows = []
    for arm in records:
        keys = ("lift", "low", "high", "true_lift")
        lift, low, high, true_lift = (f"{100 * arm[key]:+.2f}" for key in keys)
        rows.append(
            [
                arm["model"],
                f"{arm['ctr']:.4f}",
                lift,
                f"{low} to {high}",
                f"{arm['true_ctr']:.4f}",
                true_lift,
                tables.spread([arm["oracle_share"]], ".3f"),
            ]
        )
    return tables.Table(header, rows, labels=1)
