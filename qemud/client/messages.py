"""Bytes from a server into messages, without I/O.

A message is a line; a server told to be `pretty` spreads it over many, of which the first is `{` and the last `}`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qemud.client.errors import ProtocolError

MAX_MESSAGE: Final = 256 << 20
"""Bytes of one message, beyond which a server is taken to be none."""


class Messages:
    """The messages of one connection."""

    def __init__(self) -> None:
        self._partial = bytearray()  # the line that is not complete
        self._lines: list[bytes] = []  # of a message spread over many
        self._size = 0

    @property
    def midway(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._partial or self._lines)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes; the messages that they complete.  ProtocolError: they are no JSON objects, or endless."""
        self._size += len(data)
        if b"\n" not in data:
            self._partial += data
            self._check_size()
            return []
        self._partial += data
        *lines, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        messages = []
        for line in lines:
            text = line.strip()
            if self._lines or text == b"{":
                self._lines.append(text)
                if line.rstrip() != b"}":
                    continue
                text = b"\n".join(self._lines)
                self._lines.clear()
            if text:
                messages.append(_parse(text))
        self._size = len(rest) + sum(map(len, self._lines))
        self._check_size()
        return messages

    def _check_size(self) -> None:
        if self._size > MAX_MESSAGE:
            raise ProtocolError(f"the server's message is longer than {MAX_MESSAGE} bytes")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ProtocolError(f"the server sent what is not JSON: {_excerpt(text)}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"the server sent what is no JSON object: {_excerpt(text)}")
    return value


def _excerpt(text: bytes) -> str:
    return repr(text[:80].decode("utf-8", "replace")) + ("…" if len(text) > 80 else "")
