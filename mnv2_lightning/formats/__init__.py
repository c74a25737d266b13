"""The files that a trained network is exported to."""
