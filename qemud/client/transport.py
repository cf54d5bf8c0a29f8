"""A socket on the event loop: bytes and descriptors out, bytes in, the end.

asyncio's own streams cannot send descriptors; this can, and needs no more of the loop than readers and writers.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIECE: Final = 1 << 18


class Transport:
    """One connection.  `receive(data)` is called with what comes, `ended(error)` once, with None at an orderly end."""

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[bytes], None],
        ended: Callable[[OSError | None], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._receive = receive
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._output: deque[tuple[memoryview, list[int]]] = deque()
        self._writing = False
        self.closed = False
        self._loop.add_reader(sock, self._readable)

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send; never waits.  `fds` go with the first byte; they are duplicated, and the caller may close them."""
        if self.closed:
            return
        self._output.append((memoryview(data), [os.dup(fd) for fd in fds]))
        if not self._writing:
            self._writable()

    def close(self) -> None:
        """Close at once; what was not sent yet is dropped."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        for _, fds in self._output:
            _close_all(fds)
        self._output.clear()
        self._socket.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._receive(data)
        else:
            self._end(None)

    def _writable(self) -> None:
        while self._output:
            data, fds = self._output[0]
            try:
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                # What the server said before it hung up may still be there: let the reader find the end.
                if not isinstance(error, BrokenPipeError | ConnectionResetError):
                    self._end(error)
                self._drop_output()
                return
            _close_all(fds)
            if sent == len(data):
                self._output.popleft()
            else:
                self._output[0] = (data[sent:], [])
        if bool(self._output) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._socket, self._writable)
            else:
                self._loop.remove_writer(self._socket)

    def _drop_output(self) -> None:
        for _, fds in self._output:
            _close_all(fds)
        self._output.clear()
        if self._writing and not self.closed:
            self._loop.remove_writer(self._socket)
        self._writing = False

    def _end(self, error: OSError | None) -> None:
        self.close()
        self._ended(error)


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
