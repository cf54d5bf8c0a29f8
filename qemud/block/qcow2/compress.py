"""Compressed clusters: zlib's deflate, or zstd.

zstd is in no standard library before Python 3.14; `zstandard` is imported when an image needs it.

Source: docs/interop/qcow2.txt of QEMU 10.0, "Compressed Clusters Descriptor".
"""

from __future__ import annotations

import errno
import os
import zlib
from typing import TYPE_CHECKING

from qemud.block.pool import pool
from qemud.block.qcow2 import layout

if TYPE_CHECKING:
    from qemud.block.node import BlockNode
    from qemud.block.qcow2.header import Header

_WINDOW = -12
"""Deflate without a header, with the window that the specification asks for."""


async def read_packed(file: BlockNode, header: Header, entry: int) -> bytes:
    """The bytes of a compressed cluster, by its table entry.  OSError."""
    from qemud.block.qcow2.write import packed_range

    start, end = packed_range(entry, header.cluster_bits)
    data = bytearray(end - start)
    await file.readv(start, [memoryview(data)])
    return await pool.run(_unpack, header.compression, data, header.cluster_size)


def _unpack(method: int, data: bytearray, size: int) -> bytes:
    found = _unzip(data, size) if method == layout.ZLIB else _unzstd(data, size)
    if len(found) < size:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return found


def _unzip(data: bytearray, size: int) -> bytes:
    try:
        return zlib.decompressobj(_WINDOW).decompress(data, size)
    except zlib.error:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None


def _unzstd(data: bytearray, size: int) -> bytes:
    import zstandard

    found = b""
    try:
        # There may be several frames, and there is rubbish behind the last one, in its last sector.
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(
            bytes(data), read_across_frames=True
        ) as reader:
            while len(found) < size:
                part = reader.read(size - len(found))
                if not part:
                    break
                found += part
    except (zstandard.ZstdError, MemoryError):
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
    return found


async def pack(header: Header, data: bytes) -> bytes | None:
    """A cluster compressed; None when that does not make it smaller."""
    found = await pool.run(_pack, header.compression, data)
    return found if len(found) < len(data) else None


def _pack(method: int, data: bytes) -> bytes:
    if method == layout.ZLIB:
        deflate = zlib.compressobj(level=zlib.Z_DEFAULT_COMPRESSION, wbits=_WINDOW)
        return deflate.compress(data) + deflate.flush()
    import zstandard

    return zstandard.ZstdCompressor().compress(data)
