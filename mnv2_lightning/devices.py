"""Show what this machine can train on: `python -m mnv2_lightning.devices`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def devices(cfg: DictConfig) -> dict[str, Any]:
    """Processor, GPUs with memory and precisions, MPS, versions, and what `auto` takes."""
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import tables
    from mnv2_lightning.runs.environment import environment
    from mnv2_lightning.system.accelerators import auto_accelerator

    from_python.checked(COMMAND, cfg)
    found = {"auto": auto_accelerator(), **environment()}
    log.info("%s", tables.devices(found))
    return found


COMMAND = Command("devices", devices)
main = COMMAND.main

if __name__ == "__main__":
    main()
