"""System calls on files of the host, as block nodes need them: whole transfers, and what Python does not offer.

Everything here may wait, and is meant for the thread pool.  Errors are OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

from qemud.block.buffers import clear, cut, total

IOV_MAX = 1024

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

MAX_ALIGNMENT = 4096
_ALIGNMENTS = (1, 512, 1024, 2048, 4096)


@cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Give space to a file or take it, by the system call that Python has without modes only."""
    import ctypes

    while _libc().fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def address_of(view: memoryview) -> int:
    """Where a writable buffer is in memory; an empty one is anywhere, say 0."""
    if not view.nbytes:
        return 0
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def read_all(fd: int, buffers: Sequence[memoryview], offset: int) -> None:
    """Fill the buffers; with zeroes, what is beyond the end."""
    length = total(buffers)
    done = 0
    rest: Sequence[memoryview] = buffers
    while done < length:
        if done:
            rest = cut(buffers, done, length)
        count = os.preadv(fd, rest[:IOV_MAX], offset + done)
        if not count:
            for buffer in rest:
                clear(buffer)
            return
        done += count


def write_all(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> None:
    """Write the buffers."""
    length = total(buffers)
    done = 0
    rest: Sequence[memoryview] = buffers
    while done < length:
        if done:
            rest = cut(buffers, done, length)
        count = os.pwritev(fd, rest[:IOV_MAX], offset + done, flags)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def read_aligned(fd: int, buffers: Sequence[memoryview], offset: int) -> None:
    """As `read_all`, through memory that is aligned as O_DIRECT wants it."""
    length = total(buffers)
    with mmap.mmap(-1, length) as memory, memoryview(memory) as bounce:
        read_all(fd, [bounce], offset)
        position = 0
        for buffer in buffers:
            buffer[:] = bounce[position : position + len(buffer)]
            position += len(buffer)


def write_aligned(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> None:
    """As `write_all`, through memory that is aligned as O_DIRECT wants it."""
    length = total(buffers)
    with mmap.mmap(-1, length) as memory, memoryview(memory) as bounce:
        position = 0
        for buffer in buffers:
            bounce[position : position + len(buffer)] = buffer
            position += len(buffer)
        write_all(fd, [bounce], offset, flags)


def find_allocation(fd: int, offset: int, length: int) -> tuple[int, bool]:
    """How many bytes from `offset` on are of a kind, and whether there is data (else a hole, which reads as zeroes)."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: nothing but a hole up to the end. Anything else tells nothing: let it be data.
        return length, error.errno != errno.ENXIO
    if data > offset:
        return min(length, data - offset), False
    try:
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:
        return length, True
    return (min(length, hole - offset), True) if hole > offset else (length, True)


def probe_alignment(fd: int) -> tuple[int, int]:
    """What lengths and offsets of requests, and what addresses of buffers, must be multiples of with O_DIRECT.

    There is no way to ask but to try; where everything seems to work the largest is taken, to be safe.
    """
    with mmap.mmap(-1, 2 * MAX_ALIGNMENT) as memory, memoryview(memory) as buffer:
        request = next((each for each in _ALIGNMENTS if _readable(fd, buffer[:each])), MAX_ALIGNMENT)
        if request == 1:
            request = MAX_ALIGNMENT
        address = next(
            (each for each in _ALIGNMENTS if _readable(fd, buffer[each : each + MAX_ALIGNMENT])),
            MAX_ALIGNMENT,
        )
        return request, MAX_ALIGNMENT if address == 1 else address


def _readable(fd: int, buffer: memoryview) -> bool:
    try:
        os.preadv(fd, [buffer], 0)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def length_of(fd: int) -> int:
    """The size of a file or a disk, bytes."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return os.lseek(fd, 0, os.SEEK_END)


def resize(fd: int, size: int, preallocation: str) -> None:
    """Give a regular file another size.  OSError, whose `strerror` begins with what failed; the old size is restored then."""
    current = os.fstat(fd).st_size
    trouble = "Could not resize file"
    try:
        if preallocation == "falloc":
            trouble = "Could not preallocate new data"
            if size > current:
                os.posix_fallocate(fd, current, size - current)
            return
        os.ftruncate(fd, size)
        if preallocation == "full":
            trouble = "Could not write zeros for preallocation"
            chunk = memoryview(bytes(1 << 16))
            for start in range(current, size, len(chunk)):
                write_all(fd, [chunk[: min(len(chunk), size - start)]], start)
            trouble = "Could not flush file to disk"
            os.fsync(fd)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first trouble is the one to tell of
            os.ftruncate(fd, current)
        raise OSError(error.errno, f"{trouble}: {error.strerror}") from None


def discard_on_disk(fd: int, offset: int, length: int) -> None:
    """Tell a disk that a range is not needed any more."""
    fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, length))


def extent_size_hint(fd: int) -> int | None:
    """In what pieces the file system is to find space for a file, bytes; None when nobody has said so."""
    try:
        answer = fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    except OSError:
        return None
    size: int = _FSXATTR.unpack(answer)[1]
    return size or None


_BLKDISCARD = 0x1277
_FS_IOC_FSGETXATTR = 0x801C581F
_FSXATTR = struct.Struct("=5I8x")
