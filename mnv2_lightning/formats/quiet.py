"""Messages of libraries that say nothing to who exports a network."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def libraries(*loggers: str) -> Iterator[None]:
    """Without warnings, such as of what the libraries use of torch and torch deprecates, and
    without messages of the `loggers` that are no errors.
    """
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def standard_error() -> Iterator[None]:
    """Without what C++ prints on standard error; exceptions are not affected."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
