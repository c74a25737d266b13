"""Several runs: a sweep's manifest, a search's study."""
