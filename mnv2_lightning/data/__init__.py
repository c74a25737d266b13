"""Getting, checking and serving the images."""
