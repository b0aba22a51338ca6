"""nif_jax: generative click-through-rate prediction in JAX and Flax."""

__version__ = "0.1.0"
