"""A connected socket, or a descriptor, that carries frames: what reads and writes it in the event loop.

    wire = StreamWire(sock, received=client.send, ready=client.ready, gone=self._gone)
    wire.write(frames)          # False: full; `ready` will be called
    wire.stop_reading(), wire.go_on_reading()
    wire.close()

`received` answers False when its receiver has no room, and reading stops until `go_on_reading`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from qemud.net.framing import LENGTH, Decoder, FramingError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qemud.net.client import Frames

MOST_PENDING = 512 << 10
"""Bytes that may wait for the other side before `write` says that it is full."""
_READ = 256 << 10
_VECTOR = 512  # buffers that go into one call
_TRANSIENT = frozenset((errno.EAGAIN, errno.EINTR))


class Wire:
    """What all kinds have in common: when to read, and when to write."""

    def __init__(self, fd: int, received: Callable[[Frames], bool], ready: Callable[[], object]) -> None:
        self._fd = fd
        self._received = received
        self._tell_ready = ready
        self._loop = asyncio.get_running_loop()
        self._is_full = False
        self._is_reading = self._is_writing = self._is_closed = False
        self.go_on_reading()

    def go_on_reading(self) -> None:
        """Read, when there is something."""
        if not self._is_reading and not self._is_closed:
            self._is_reading = True
            self._loop.add_reader(self._fd, self._readable)

    def stop_reading(self) -> None:
        """Leave what comes where it is."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def close(self) -> None:
        """Watch the descriptor no longer; who has it closes it."""
        self.stop_reading()
        self._stop_writing()
        self._is_closed = True

    def _write_later(self) -> None:
        if not self._is_writing and not self._is_closed:
            self._is_writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._fd)

    def _deliver(self, frames: Frames) -> None:
        if not self._received(frames):
            self.stop_reading()

    def _readable(self) -> None:
        raise NotImplementedError

    def _writable(self) -> None:
        raise NotImplementedError

    def _emptied(self) -> None:
        """Nothing waits any more."""
        self._stop_writing()
        if self._is_full:
            self._is_full = False
            self._tell_ready()


class StreamWire(Wire):
    """A connected stream socket; `gone` is called once when it ends, for whatever reason."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Frames], bool],
        ready: Callable[[], object],
        gone: Callable[[], object],
    ) -> None:
        self._sock = sock
        self._gone = gone
        self._decoder = Decoder()
        self._pending: list[bytes] = []
        self._size = 0
        super().__init__(sock.fileno(), received, ready)

    def write(self, frames: Frames) -> bool:
        """Send frames; False when the other side does not keep up."""
        pending = self._pending
        for _, frame in frames:
            pending.append(LENGTH.pack(len(frame)))
            pending.append(frame)
            self._size += LENGTH.size + len(frame)
        if not self._is_writing:
            self._writable()
        self._is_full = self._size > MOST_PENDING
        return not self._is_full

    def _writable(self) -> None:
        pending = self._pending
        try:
            while pending:
                sent = self._sock.sendmsg(pending[:_VECTOR])
                self._size -= sent
                done = 0
                while done < len(pending) and sent >= len(pending[done]):
                    sent -= len(pending[done])
                    done += 1
                del pending[:done]
                if sent:
                    pending[0] = pending[0][sent:]
        except (BlockingIOError, InterruptedError):
            self._write_later()
        except OSError:
            self._end()
        else:
            self._emptied()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        try:
            frames = self._decoder.feed(data)
        except FramingError:
            self._end()
            return
        if frames:
            self._deliver(frames)

    def _end(self) -> None:
        if not self._is_closed:
            self.close()
            self._gone()


class MessageWire(Wire):
    """A descriptor that takes and gives a frame at a time: a datagram socket, a tap interface.

    `read()` returns a frame or raises OSError, `send(frame)` as well.
    """

    def __init__(
        self,
        fd: int,
        received: Callable[[Frames], bool],
        ready: Callable[[], object],
        read: Callable[[], tuple[bytes, bytes]],
        send: Callable[[tuple[bytes, bytes]], object],
    ) -> None:
        self._read = read
        self._send = send
        self._pending: Frames = []
        super().__init__(fd, received, ready)

    _BATCH = 64

    def write(self, frames: Frames) -> bool:
        """Send frames; False when they have to wait."""
        self._pending += frames
        if not self._is_writing:
            self._writable()
        self._is_full = bool(self._pending)
        return not self._is_full

    def drop(self) -> None:
        """Forget what waits to be sent."""
        self._pending.clear()
        self._emptied()

    def _writable(self) -> None:
        pending, send = self._pending, self._send
        for count, frame in enumerate(pending):
            try:
                send(frame)
            except OSError as error:
                if error.errno in _TRANSIENT:
                    del pending[:count]
                    self._write_later()
                    return
                # Nobody is there, or it is too large: lost, as on any network.
        pending.clear()
        self._emptied()

    def _readable(self) -> None:
        frames: Frames = []
        try:
            for _ in range(self._BATCH):
                frame = self._read()
                if frame[1]:
                    frames.append(frame)
        except OSError as error:
            if error.errno not in _TRANSIENT and not frames:
                self._failed(error)
        if frames:
            self._deliver(frames)

    def _failed(self, error: OSError) -> None:
        """An error that was waiting to be read, such as that nobody was there for what was sent; or the end."""
        if error.errno in {errno.EBADF, errno.EBADFD, errno.ENODEV, errno.EIO}:
            self.close()


def close_quietly(fd: int) -> None:
    """Close a descriptor, whatever comes of it."""
    try:
        os.close(fd)
    except OSError:
        return
