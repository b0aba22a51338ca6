"""The papers' losses on plain arrays: sums and weights, never means, so that devices can add up."""
