"""Errors that end a command with a message of one line, and their exit statuses."""

import errno

# Errors of a disk that is full, damaged, read-only or forbidden.
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """An error that the user can correct. Its text is the message."""

    exit_status = 1


class ConfigError(UserError):
    """A wrong key, value, path or combination."""

    exit_status = 2


def empty(key: str) -> ConfigError:
    """For a value of no characters, where no such text makes sense."""
    return ConfigError(f"{key} is empty; give it a value (is a variable of the shell not set?)")


class Diverged(UserError):
    """A loss or weight is NaN or infinite."""

    exit_status = 3
    record_status = "diverged"  # in result.json


class Pruned(UserError):
    """The pruner stopped a trial of a search."""

    record_status = "pruned"


class SearchError(UserError):
    """No trial of a search has finished."""


class StorageError(UserError):
    """A file cannot be written, or is damaged."""

    exit_status = 4


class Interrupted(UserError):
    """Ctrl-C."""

    exit_status = 130


class Terminated(UserError):
    """SIGTERM, which schedulers send."""

    exit_status = 143


class DataError(UserError):
    """The images cannot be fetched or are not the right ones."""

    exit_status = 5


class ExportError(UserError):
    """An exported file does not compute what the network does."""


class PictureError(UserError):
    """A picture cannot be read or classified. The text is the reason, without the file's name."""

    exit_status = 2


class RankError(UserError):
    """One of the processes of a run has failed, with this exit status."""

    def __init__(self, message: str, status: int, rank: int) -> None:
        super().__init__(message)
        self.exit_status, self.rank = status, rank


def one_line(error: BaseException) -> str:
    """The first two lines of the message, joined and cut; the error's name if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(error).__name__


def is_of_storage(error: BaseException) -> bool:
    """Whether the cause is the disk, as a StorageError or an OSError."""
    return isinstance(error, StorageError) or getattr(error, "errno", None) in STORAGE


def root_cause(error: BaseException) -> str:
    """The message of the first exception of a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
