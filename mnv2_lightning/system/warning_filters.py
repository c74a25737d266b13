"""Warnings and log messages of libraries that are ignored, each with the reason."""

import logging
import warnings

IGNORED = (
    # The loader hands out slices of an array in memory; workers would only slow it down.
    ".*does not have many workers.*",
    # A run may validate on nothing: data.val_size=0.
    ".*Total length of `list` across ranks is zero.*",
    ".*have no `val_dataloader`.*",  # in a data module of the user's own
    # A run resumes in its own folder on purpose.
    ".*Checkpoint directory .* exists and is not empty.*",
    # The last steps of an epoch are logged at its end, however few they are.
    ".*is smaller than the logging interval.*",
    # The run's first lines say so.
    ".*AMP with fp16 is not supported on CPU.*",
    # A command starts the processes of a run itself where srun does not.
    ".*The `srun` command is available.*",
    # DDP of 1x1 convolutions, whose weights' two layouts are one and the same.
    ".*Grad strides do not match bucket view strides.*",
    # Lightning 2.6 uses a name that torch 2.14 deprecates; nothing to be done from here.
    ".*isinstance.treespec, LeafSpec.*",
)


def install() -> None:
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    # The run's first lines name the device.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # by option only
    # On a full disk the run ends with one line on the file that could not be written.
    logging.raiseExceptions = False
