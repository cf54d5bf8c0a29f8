"""The NBD protocol's numbers and layouts, as both sides use them.

Everything is big-endian.  Names are those of the protocol's document, without their prefix NBD.

Source: the NBD protocol, doc/proto.md, sections "Simple message types", "Handshake phase" and "Transmission phase".
"""

from __future__ import annotations

import enum
import errno
from struct import Struct

INIT_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

DEFAULT_PORT = "10809"

OPTION = Struct(">8sII")
"""Magic, option, length of its data."""
OPTION_REPLY = Struct(">QIII")
"""Magic, option, type, length."""
REQUEST = Struct(">IHHQQI")
"""Magic, flags, type, cookie, offset, length."""
SIMPLE_REPLY = Struct(">IIQ")
"""Magic, error, cookie."""
CHUNK = Struct(">IHHQI")
"""Magic, flags, type, cookie, length."""
EXPORT_INFO = Struct(">HQH")
"""Type of information, size, transmission flags."""
BLOCK_SIZES = Struct(">HIII")
"""Type of information, least, preferred and greatest size of requests."""
EXTENT = Struct(">II")
"""Length, flags."""
HOLE = Struct(">QI")
"""Offset, length."""

MAX_STRING = 4096
"""The longest name or description, bytes of UTF-8."""
MAX_OPTION = 1 << 16
"""The longest data of an option that a server reads; room for names and queries."""
MAX_BUFFER = 32 << 20
"""The most data of one request."""
MAX_REQUESTS = 16
"""How many requests of one client are served at a time."""

# Handshake flags, of the server and of the client.
FLAG_FIXED_NEWSTYLE = 1
FLAG_NO_ZEROES = 2


class TransmissionFlag(enum.IntFlag):
    """What the server says of an export."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Opt(enum.IntEnum):
    """What a client haggles about."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Rep(enum.IntEnum):
    """What the server answers; errors have the highest bit."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x8000_0001
    ERR_POLICY = 0x8000_0002
    ERR_INVALID = 0x8000_0003
    ERR_PLATFORM = 0x8000_0004
    ERR_TLS_REQD = 0x8000_0005
    ERR_UNKNOWN = 0x8000_0006
    ERR_SHUTDOWN = 0x8000_0007
    ERR_BLOCK_SIZE_REQD = 0x8000_0008
    ERR_TOO_BIG = 0x8000_0009


class Info(enum.IntEnum):
    """Kinds of information in the answer to INFO and GO."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Cmd(enum.IntEnum):
    """Requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CmdFlag(enum.IntFlag):
    """Flags of requests."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


CHUNK_DONE = 1


class Chunk(enum.IntEnum):
    """Parts of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


STATE_HOLE = 1
STATE_ZERO = 2
STATE_DIRTY = 1

_ERRNO = {
    errno.EPERM: 1,
    errno.EROFS: 1,
    errno.EIO: 5,
    errno.ENOMEM: 12,
    errno.EINVAL: 22,
    errno.ENOSPC: 28,
    errno.EFBIG: 28,
    errno.EDQUOT: 28,
    errno.EOVERFLOW: 75,
    errno.ENOTSUP: 95,
    errno.ESHUTDOWN: 108,
}
_FROM_WIRE = {
    1: errno.EPERM,
    5: errno.EIO,
    12: errno.ENOMEM,
    22: errno.EINVAL,
    28: errno.ENOSPC,
    75: errno.EOVERFLOW,
    95: errno.ENOTSUP,
    108: errno.ESHUTDOWN,
}


def to_wire_error(number: int) -> int:
    """The protocol's number of an error of the system; what it has none for is invalid."""
    return _ERRNO.get(number, 22)


def from_wire_error(number: int) -> int:
    """The system's number of an error on the wire."""
    return _FROM_WIRE.get(number, errno.EINVAL)
