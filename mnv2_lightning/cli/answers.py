"""What a command answers without Hydra: `--help`, `--version`, completion in bash."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import version

from mnv2_lightning.cli import completion, conf_files, help_text
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean

SIGPIPE = 128 + 13  # exit status of a process that writes to a closed pipe
PACKAGES = ("mnv2_lightning", "torch", "lightning", "hydra-core")


def answer(command: str, parsed: argparse.Namespace) -> int | None:
    """Print the answer and return the exit status; None if there is no answer. ConfigError."""
    if parsed.help:
        name = parsed.config_name or command
        config = conf_files.load(name, parsed.overrides, parsed.config_dir)
        for key in config.unknown_keys(parsed.overrides):
            known = [name for name, _ in config.root.dotted()]
            raise ConfigError(f"{key}: unknown key{did_you_mean(key, known)}")
        return show(help_text.text(command, config))
    if parsed.version:
        return show(versions())
    if parsed.shell_completion and parsed.overrides == ["install=bash"]:
        return show(completion.SCRIPT)
    if parsed.shell_completion and parsed.overrides == ["query=bash"]:
        return show("\n".join(completion.replies(command)))
    return None


def versions() -> str:
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return ", ".join([*packages, f"Python {platform.python_version()}"])


def show(text: str) -> int:
    """Print; return the exit status. The reader of a pipe, such as head, may have ended."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would print the error again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE
    return 0
