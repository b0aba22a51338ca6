"""Memory of the devices."""

import jax

UNKNOWN = 2_000_000_000
"""Bytes for a data set on a device that reports no memory: CPUs, which share the host's."""

SHARE = 4
"""One part in four of a device's memory is for the data; parameters, moments and activations need
the rest."""


def bytes_for_data() -> int:
    """Bytes of each device that a data set may take, by the smallest device of this process."""
    reported = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [size for size in reported if size]
    return min(known) // SHARE if known else UNKNOWN
