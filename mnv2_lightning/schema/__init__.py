"""Which keys, types, ranges and targets a config may have. Imports no torch."""
