"""Windows of S entries that advance by half, so that each entry has S / 2 entries of context.

The window that adds an entry depends on the number of earlier entries alone: what is computed
after an entry is the same whether or not further entries follow.
"""


def stride_of(context: int) -> int:
    """Entries that a window of S = `context` entries adds."""
    return max(1, context // 2)


def windows_of_past(context: int) -> int:
    """Windows that together add the last S = `context` entries of any moveline."""
    return -(-(context - 1) // stride_of(context)) + 1
