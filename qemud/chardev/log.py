"""The copy of a chardev's output in a file: `logfile=` and `logappend=` of every kind."""

from __future__ import annotations

import errno
import os

from qemud.chardev.pool import PooledWriter
from qemud.qapi.runtime.errors import GenericError


class Log:
    """A log is best effort: a full disk does not stop the guest, as in QEMU."""

    def __init__(self, path: str, *, append: bool) -> None:
        """GenericError: the file cannot be made."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
        try:
            fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise GenericError(f"Could not create '{path}': {os.strerror(error.errno or 0)}") from None
        except ValueError:  # a NUL
            raise GenericError(f"Could not create '{path}': {os.strerror(errno.EINVAL)}") from None
        self._writer = PooledWriter(fd)

    def write(self, data: bytes) -> None:
        """Append to the log."""
        self._writer.write(data)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
