"""What wraps values on the wire: requests checked, replies, errors, events and the greeting written.

All output is ASCII, one message a line, lines ended by CR LF.  What stands between the members' values is laid out as
QEMU does it; the values themselves come as ready JSON bytes, so that a large result is not copied member by member.

Source: QEMU 10.0, docs/interop/qmp-spec.rst; qapi/qmp-dispatch.c and monitor/qmp.c (behaviour, order of members).
"""

from __future__ import annotations

import codecs
from typing import Any, Final

import msgspec

from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import encode as _encode

LINE_END: Final = b"\r\n"


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write characters outside ASCII as QEMU does: `\u00E9`, and surrogate pairs beyond the basic plane."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "replace")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(f"\\u{code:04X}" for code in codes), error.end


codecs.register_error("qmp-escape", _escape)


def ascii_json(data: bytes) -> bytes:
    """The same JSON text, in ASCII."""
    if data.isascii():
        return data
    return data.decode("utf-8").encode("ascii", "qmp-escape")


def encode(value: Any) -> bytes:
    """A JSON value (built-in types) as ASCII JSON text, nested as deep as it may be.

    Infinities, which QEMU writes as no JSON, become null; lone surrogates become U+FFFD.
    """
    try:
        data = _encode(value)
    except RecursionError:
        data = _encode_deep(value)
    return data if data.isascii() else ascii_json(data)


def _encode_deep(value: Any) -> bytes:
    """`encode` without recursion, for what a client nests as deep as it may.  Pending bytes are text, not values."""
    written: list[bytes] = []
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, bytes):
            written.append(item)
        elif isinstance(item, dict):
            pending.append(b"}")
            for number, (key, member) in reversed(list(enumerate(item.items()))):
                pending += [member, (b", " if number else b"") + _encode(key) + b": "]
            written.append(b"{")
        elif isinstance(item, list):
            pending.append(b"]")
            for number, element in reversed(list(enumerate(item))):
                pending += [element, b", " if number else b""]
            written.append(b"[")
        else:
            written.append(_encode(item))
    return b"".join(written)


def pretty(line: bytes) -> bytes:
    """A message in many lines, indented by four, for `-qmp-pretty` and `-mon pretty=on`."""
    return msgspec.json.format(line, indent=4).replace(b"\n", LINE_END) + LINE_END


class Request:
    """A command to run: its name, its arguments (unchecked), and what a reply to it must carry."""

    __slots__ = ("arguments", "epoch", "id_text", "name", "oob")

    def __init__(self, name: str, arguments: dict[str, Any], id_text: bytes, oob: bool, epoch: int) -> None:
        self.name = name
        self.arguments = arguments
        self.id_text = id_text
        """The client's `id` as JSON text; empty when there was none."""
        self.oob = oob
        """Whether it is to run out of band."""
        self.epoch = epoch
        """The connection it came by; a reply to an earlier one is discarded."""


def check_request(message: dict[str, Any], oob_enabled: bool) -> tuple[str, bool]:
    """Check the members of a request, in QEMU's words: (the command's name, whether it is to run out of band)."""
    found = ""
    for key, value in message.items():
        if key == "execute" or (key == "exec-oob" and oob_enabled):
            if not isinstance(value, str):
                raise GenericError(f"QMP input member '{key}' must be a string")
            if found:
                raise GenericError(f"QMP input member '{key}' clashes with '{found}'")
            found = key
        elif key == "arguments":
            if not isinstance(value, dict):
                raise GenericError("QMP input member 'arguments' must be an object")
        elif key != "id":
            raise GenericError(f"QMP input member '{key}' is unexpected")
    if not found:
        raise GenericError("QMP input lacks member 'execute'")
    return message[found], found == "exec-oob"


def id_text(message: dict[str, Any]) -> bytes:
    """The request's `id` as JSON text, or empty bytes when it has none."""
    return encode(message["id"]) if "id" in message else b""


def success(result: bytes, id_text: bytes) -> bytes:
    """The reply to a command that went well; `result` is ASCII JSON text."""
    if id_text:
        return b"".join((b'{"return": ', result, b', "id": ', id_text, b"}\r\n"))
    return b"".join((b'{"return": ', result, b"}\r\n"))


def failure(error_class: str, desc: str, id_text: bytes) -> bytes:
    """The reply to a command that failed, or to input that is no command."""
    error = b'"error": {"class": %b, "desc": %b}' % (encode(error_class), encode(desc))
    if id_text:
        return b'{"id": %b, %b}\r\n' % (id_text, error)
    return b"{%b}\r\n" % error


def greeting(version: bytes, capabilities: list[str]) -> bytes:
    """The first line of a connection; `version` is what query-version returns, as JSON text."""
    return b'{"QMP": {"version": %b, "capabilities": %b}}\r\n' % (version, encode(capabilities))


def numbered(line: bytes, number: int) -> bytes:
    """An event's line with its number in it, for clients that have enabled `event-replay`."""
    return b'%b, "sequence": %d}\r\n' % (line[:-3], number)


def event(name: str, data: dict[str, Any] | None, seconds: int, microseconds: int) -> bytes:
    """An event; the time is the host's, since 1970."""
    head = b'{"timestamp": {"seconds": %d, "microseconds": %d}, "event": %b' % (
        seconds,
        microseconds,
        encode(name),
    )
    if data is None:
        return head + b"}\r\n"
    return b'%b, "data": %b}\r\n' % (head, encode(data))
