"""The table of ab.json: arms of an online A/B test on simulated traffic."""

from collections.abc import Mapping, Sequence
from typing import Any

from nif_jax.reports import tables

AB_FILE = "ab.json"


def table(records: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Arms side by side; lifts in per cent."""
    lines = [
        {
            "arm": arm["model"],
            "CTR": f"{arm['ctr']:.4f}",
            "lift, %": f"{100 * arm['lift']:+.2f}",
            "95 % interval": f"{100 * arm['low']:+.2f} to {100 * arm['high']:+.2f}",
            "true CTR": f"{arm['true_ctr']:.4f}",
            "true lift, %": f"{100 * arm['true_lift']:+.2f}",
            "of oracle's": tables.spread([arm["oracle_share"]], ".3f"),
        }
        for arm in records
    ]
    return tables.Table.of(lines, labels=1)
