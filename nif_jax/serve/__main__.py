"""python -m nif_jax.serve --artefact=<folder>; see docs/serving.md."""

import sys

try:
    from nif_jax.serve import server
except ImportError as error:
    if error.name is None or error.name.partition(".")[0] == "nif_jax":
        raise
    sys.exit(f'error: the service needs {error.name}: pip install "nif_jax[serve]"')

server.main()
