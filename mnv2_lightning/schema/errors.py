"""Errors that end a command with one clear line, and the exit status of each."""

import errno

# What a full, failing, read-only or forbidden disk says.
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """Something that the user can mend; its text is the whole message."""

    exit_status = 1


class ConfigError(UserError):
    """A key, value, path or combination that cannot work."""

    exit_status = 2


class Diverged(UserError):
    """The loss is no finite number any more."""

    exit_status = 3
    record_status = "diverged"  # in the run's result.json


class Pruned(UserError):
    """A trial of a search is worse than others at the same point."""

    record_status = "pruned"


class SearchError(UserError):
    """No trial of a search came to an accuracy."""


class StorageError(UserError):
    """What is on the disk cannot be written, or is damaged."""

    exit_status = 4


class Interrupted(UserError):
    """Ctrl-C."""

    exit_status = 130


class Terminated(UserError):
    """SIGTERM, as a scheduler sends it."""

    exit_status = 143


class DataError(UserError):
    """The images cannot be had or are not the right ones."""

    exit_status = 5


class RankError(UserError):
    """One of the processes of a run has failed, with this exit status."""

    def __init__(self, message: str, status: int, rank: int) -> None:
        super().__init__(message)
        self.exit_status, self.rank = status, rank


def is_of_storage(error: BaseException) -> bool:
    """Whether a disk is to blame, in our words or in the system's."""
    return isinstance(error, StorageError) or getattr(error, "errno", None) in STORAGE
