"""The keys, types, ranges and targets that a config may have. Imports no torch."""
