"""Tables and figures from arrays and records; no torch."""
