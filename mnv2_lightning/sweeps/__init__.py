"""The manifest of a sweep, and the study of a search."""
