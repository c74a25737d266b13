"""What `benchmark` measures: each side is a function that runs in a process of its own."""
