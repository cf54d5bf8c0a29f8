"""Frames in a stream of bytes: each has its length before it, as four bytes, the most significant first.

    decoder = Decoder()
    frames = decoder.feed(data)         # FramingError when a length cannot be
    data = encode(frame)

With `with_headers`, the length of a virtio-net header and that header stand between: `length of the frame | length of the header |
header | frame`.  This is what stream and socket backends and filters speak.

Source: QEMU 10.0, net/net.c (net_fill_rstate).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.net.client import MAX_FRAME

if TYPE_CHECKING:
    from qemud.net.client import Frame, Frames

LENGTH = Struct("!I")
_HEADERS = Struct("!II")
_LARGEST_HEADER = 32
_KNOWN_HEADER = 10


class FramingError(Exception):
    """A length that no frame has: nothing that follows makes sense."""


class Decoder:
    """Cuts what it is fed; keeps what is not complete yet."""

    def __init__(self, *, with_headers: bool = False) -> None:
        self._with_headers = with_headers
        self._rest = b""

    def feed(self, data: bytes) -> Frames:
        """The frames that are complete now.  FramingError."""
        if self._rest:
            data = self._rest + data
        frames: Frames = []
        at, end = 0, len(data)
        prefix = _HEADERS.size if self._with_headers else LENGTH.size
        unpack = LENGTH.unpack_from
        while at + prefix <= end:
            (length,) = unpack(data, at)
            header = unpack(data, at + LENGTH.size)[0] if self._with_headers else 0
            if length > MAX_FRAME or header > _LARGEST_HEADER:
                raise FramingError(f"a frame of {length} bytes")
            first = at + prefix + header
            if first + length > end:
                break
            # A header of only zeroes says nothing.
            shown = data[at + prefix : first] if header >= _KNOWN_HEADER else b""
            frames.append((shown[:_KNOWN_HEADER] if any(shown) else b"", data[first : first + length]))
            at = first + length
        self._rest = data[at:]
        return frames


def encode(frame: bytes) -> bytes:
    """A frame with its length before it."""
    return LENGTH.pack(len(frame)) + frame


def encode_with_header(frame: Frame) -> bytes:
    """The same with a header between."""
    header, content = frame
    return _HEADERS.pack(len(content), _KNOWN_HEADER) + (header or bytes(_KNOWN_HEADER)) + content
