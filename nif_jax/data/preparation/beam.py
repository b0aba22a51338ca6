"""Prepares a log with Apache Beam; runs with the same config then find it prepared.

python -m nif_jax.data.preparation.beam --config=configs/nif.py:files,source.path=log.parquet \
    --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2

Other flags than --config are Beam's: its runner and the options of that.
"""

import functools
import logging as std_logging
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from nif_jax.data.preparation.cache import configured, load_movelines
from nif_jax.data.schema import ConfigError, DataError

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prepares the log of --config; argv has the flags of Beam.

    Errors that a user can correct become one line.
    """
    if FLAGS.config is None:
        sys.exit("error: --config is missing, e.g. --config=configs/nif.py:files,source.path=...")
    logging.set_verbosity(logging.INFO)
    std_logging.getLogger("apache_beam").setLevel(std_logging.WARNING)
    try:
        from apache_beam.options.pipeline_options import PipelineOptions

        from nif_jax.data.preparation import beam_pipeline
    except ImportError as error:
        sys.exit(f'error: {error.name} is not installed: pip install "nif_jax[beam]"')
    engine = functools.partial(beam_pipeline.prepare, options=PipelineOptions(argv[1:]))
    try:
        load_movelines(**configured(FLAGS.config), engine=engine)
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Configuration, as for nif_jax.main.")
    app.run(main, flags_parser=lambda argv: FLAGS(argv, known_only=True))
