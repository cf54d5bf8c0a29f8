"""The copy of a chardev's output in a file: `logfile=` and `logappend=` of every kind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qemud.chardev.file import open_path
from qemud.chardev.pool import PooledWriter
from qemud.machine.descriptors import close_file

if TYPE_CHECKING:
    from collections.abc import Callable


class Log:
    """A log is best effort: a full disk, or a pipe that nobody reads, does not stop the guest.  A slow disk slows it."""

    def __init__(self, path: str, *, append: bool) -> None:
        """GenericError: the file cannot be made."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        self.on_drained: Callable[[], object] = lambda: None
        fd = open_path(path, flags, "Could not create")
        try:
            self._writer = PooledWriter(fd, drained=self._drained)
        except BaseException:
            close_file(fd)
            raise

    def _drained(self) -> None:
        """Few bytes are pending."""
        self.on_drained()

    def write(self, data: bytes) -> None:
        """Append to the log."""
        self._writer.write(data)

    @property
    def pending(self) -> int:
        """How many bytes are not in the file yet."""
        return self._writer.pending

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()
