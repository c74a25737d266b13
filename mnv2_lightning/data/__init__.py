"""Finding, checking and serving the images."""
