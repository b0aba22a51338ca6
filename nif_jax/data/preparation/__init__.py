"""From a source to the prepared store: cache, format on disk, content vectors, identity."""
