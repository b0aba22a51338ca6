"""The service: scores, recommendations and states of users over HTTP; see docs/serving.md.

python -m nif_jax.serve --artefact=<folder>

An event loop reads and checks requests (`inputs.py`) and collects those that wait into batches
(`batcher.py`). One thread works on one batch at a time (`work.py`). States are in memory
(`states.py`) or in Redis (`redis_states.py`).
"""
