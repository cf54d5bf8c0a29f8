"""A chardev in memory: it keeps the last bytes of output, for ringbuf-read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.chardev.stream import Chardev
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.log import Log


class RingbufChardev(Chardev):
    """The memory grows with what is in it, up to `size` bytes: an absurd size costs nothing."""

    kind = "ringbuf"

    def __init__(self, label: str, size: int, log: Log | None = None) -> None:
        """GenericError: `size` is not a power of two."""
        if size < 0 or size & (size - 1):
            raise GenericError("size of ringbuf chardev must be power of two")
        super().__init__(label, log)
        self._size = size
        self._buffer = bytearray()

    def transmit(self, data: bytes) -> None:
        """Append; the oldest bytes make room."""
        if len(data) >= self._size:
            self._buffer[:] = data[len(data) - self._size :]
            return
        self._buffer += data
        if (excess := len(self._buffer) - self._size) > 0:
            del self._buffer[:excess]

    def take(self, size: int) -> bytes:
        """Take up to `size` of the oldest bytes out."""
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def take_text(self, size: int) -> str:
        """As `take`, decoded; a character that `size` cuts off stays in the buffer, unless nothing else were taken.

        QEMU returns the halves of such a character as two replacement characters.
        """
        taken = self._buffer[:size]
        cut = _incomplete(taken) if size < len(self._buffer) else 0
        if cut == len(taken):
            cut = 0
        taken = taken[: len(taken) - cut]
        del self._buffer[: len(taken)]
        return taken.decode("utf-8", "replace")


def _incomplete(data: bytes | bytearray) -> int:
    """How many bytes at the end begin a UTF-8 sequence that is not complete."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation: look for the lead
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if length > back else 0
    return 0
