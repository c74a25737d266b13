"""The files of a run: config, record, checkpoints, logs."""
