"""A chardev over files: output to one, optionally input from another.

The names may as well be those of FIFOs or devices.  What the loop can watch is served without blocking; regular files are served
by a pool thread.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from qemud.chardev.descriptor import DescriptorChardev, Output, is_file, is_pollable
from qemud.chardev.pool import PooledReader, PooledWriter
from qemud.machine.descriptors import FdsetError, close_file, names_fdset, open_file
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.char_backends import ChardevFile
    from qemud.chardev.log import Log


def open_path(path: str, flags: int, trouble: str = "Could not open") -> int:
    """Open a file with QEMU's error text, which begins with `trouble`; closed by `close_file`.

    A FIFO is opened for both directions: so it waits for nobody, and that the other side comes and goes is not an end of input.
    """
    try:
        if not names_fdset(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
    except (OSError, ValueError):
        pass  # it does not exist, or may not be seen; open tells
    try:
        return open_file(path, flags | os.O_NOCTTY | os.O_NONBLOCK)
    except FdsetError as error:
        raise GenericError(f"{trouble} '{path}': {error.strerror}: {error.reason}") from None
    except OSError as error:
        raise GenericError(f"{trouble} '{path}': {os.strerror(error.errno or 0)}") from None


class FileChardev(DescriptorChardev):
    """Two descriptors, each served after its nature; also the base of standard input and output, and of pipes."""

    kind = "file"
    hangup_events = None  # input and output have nothing to do with each other
    _reader: PooledReader | None = None
    _writer: PooledWriter | None = None

    def __init__(self, label: str, options: ChardevFile | None = None, log: Log | None = None) -> None:
        super().__init__(label, log)
        self._options = options
        self._fds: list[int] = []

    async def open(self) -> None:
        """GenericError: one of the files cannot be opened."""
        options = self._options
        assert options is not None
        fd_out = open_path(
            options.out, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if options.append else os.O_TRUNC)
        )
        fd_in = -1
        if options.in_ is not None:
            try:
                fd_in = open_path(options.in_, os.O_RDONLY)
            except GenericError:
                close_file(fd_out)
                raise
        self.serve(fd_in, fd_out)
        self.set_open(True)

    def serve(self, fd_in: int, fd_out: int) -> None:
        """Take over two descriptors, which may be the same; -1 is none."""
        self._fds = sorted({fd for fd in (fd_in, fd_out) if fd >= 0})
        output = None
        if fd_out >= 0:
            if is_file(fd_out):
                copy = os.dup(fd_out)
                try:
                    self._writer = PooledWriter(copy, drained=self.output_drained)
                except BaseException:
                    close_file(copy)
                    raise
            else:
                output = Output(fd_out, failed=self.output_failed, drained=self.output_drained)
        if fd_in >= 0 and not is_pollable(fd_in):
            self._reader = PooledReader(fd_in, lambda: self.allowance, self._piece)
            fd_in = -1
        self.connect(fd_in, output)
        self.resume_input()

    def transmit(self, data: bytes) -> None:
        """As in the base."""
        if self._writer is not None:
            self._writer.write(data)
        else:
            super().transmit(data)

    @property
    def pending(self) -> int:
        """As in the base."""
        return self._writer.pending if self._writer is not None else super().pending

    def resume_input(self) -> None:
        """As in the base."""
        if self._reader is not None:
            self._reader.resume()
        else:
            super().resume_input()

    def input_ended(self) -> None:
        """No more input; output goes on, as in QEMU."""
        self.drop_input()
        if self.is_open:
            self.set_open(False)

    def output_failed(self, error: OSError) -> None:
        """Output is lost, input goes on: the two have nothing to do with each other here."""

    def close(self) -> None:
        """As in the base."""
        if self._reader is not None:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.disconnect()
        for fd in self._fds:
            close_file(fd)
        self._fds = []
        super().close()

    def _piece(self, data: bytes) -> None:
        """The pool read something, or the end."""
        if data:
            self.received(data)
        else:
            self.end_when_sent()
