"""One run: workdir, settings, stages in order, evaluation."""
