"""What Lightning says that is wrong or said already, each with the reason to hush it."""

import logging
import threading
import warnings
from typing import Any

QUIET = (
    # The loader hands out slices of an array in memory; workers would only slow it down.
    ".*does not have many workers.*",
    # A run may validate on nothing: data.val_size=0.
    ".*Total length of `list` across ranks is zero.*",
    # A run resumes in its own folder on purpose.
    ".*Checkpoint directory .* exists and is not empty.*",
    # The last steps of an epoch are logged at its end, however few they are.
    ".*is smaller than the logging interval.*",
    # The run's first lines say so.
    ".*AMP with fp16 is not supported on CPU.*",
    # The weights of a 1x1 convolution can be laid out in two ways that are the same; by DDP.
    ".*Grad strides do not match bucket view strides.*",
    # Lightning 2.6 uses a name that torch 2.14 deprecates; nothing to be done from here.
    ".*isinstance.treespec, LeafSpec.*",
)


def quiet() -> None:
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    # The run says in its own words what it computes on.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # by option only
    # A log that a full disk does not take: the run ends by what matters more.
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed


def _thread_failed(failed: Any) -> None:
    # TensorBoard's raises the same in the main thread again.
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failed)
