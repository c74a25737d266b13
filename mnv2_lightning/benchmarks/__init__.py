"""What `benchmark` measures. Each side is a function that runs in its own process."""
