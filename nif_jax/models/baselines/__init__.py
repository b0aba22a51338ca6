"""Rankers of the literature as rows beside ours: same data, histories, loop and evaluation."""
