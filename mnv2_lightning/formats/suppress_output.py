"""Hides messages of libraries that do not concern the user of `export`."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def of_libraries() -> Iterator[None]:
    """Without warnings, log messages but for errors, and what Python prints on standard error.

    onnxscript logs each step; torchao and executorch use what torch deprecates; torch prints the
    whole graph of a network that cannot be exported.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
