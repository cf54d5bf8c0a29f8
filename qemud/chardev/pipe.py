"""A chardev over named pipes: PATH.in for input and PATH.out for output, or PATH for both.

The pipes are opened for reading and writing, as QEMU does: opening waits for nobody, writers may come and go without an end of
input, and output waits in the pipe for a reader.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qemud.chardev.file import FileChardev, open_path
from qemud.machine.descriptors import close_file
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.char_backends import ChardevHostdev
    from qemud.chardev.log import Log


class PipeChardev(FileChardev):
    """Two FIFOs, or one."""

    kind = "pipe"

    def __init__(self, label: str, options: ChardevHostdev, log: Log | None = None) -> None:
        super().__init__(label, None, log)
        self._path = options.device

    async def open(self) -> None:
        """GenericError: neither the two pipes nor the one can be opened."""
        try:
            fd_in = open_path(f"{self._path}.in", os.O_RDWR)
            try:
                fd_out = open_path(f"{self._path}.out", os.O_RDWR)
            except GenericError:
                close_file(fd_in)
                raise
        except GenericError:
            fd_in = fd_out = open_path(self._path, os.O_RDWR)
        self.serve(fd_in, fd_out)
        self.set_open(True)
