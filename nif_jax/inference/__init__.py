"""Scores, flows and recommendations of a finished run, for requests; see docs/serving.md."""
