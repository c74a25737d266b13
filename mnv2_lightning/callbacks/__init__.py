"""Callbacks of our own, one story each; Lightning's come straight from `conf/callbacks/`."""
