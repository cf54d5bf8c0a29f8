"""The protocols `file` and `host_device`: a file or a disk of the host.

Requests go to the thread pool as vectored reads and writes straight from and into the buffers.  What the page cache can do without
waiting is done at once (`read_now`, `write_now`).  While anybody uses the file, locks on it keep other programs from using it in a
way that conflicts (`qemud.block.locking`).

With `auto-read-only` the file is open for reading only until somebody wants to write.  Then it is opened again, and takes the
place of the first under the same descriptor number (dup2), so that requests under way need not know.

Source of rules and texts: QEMU 10.0, block/file-posix.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.block_options import BlockdevDriver
from qemud._generated.types.common import OnOffAuto
from qemud.block import hostio, locking, permission
from qemud.block.buffers import total
from qemud.block.driver import unsupported
from qemud.block.node import BlockNode, Extent, Flags, NodeInfo
from qemud.block.pool import pool
from qemud.machine.descriptors import FdsetError, close_file, open_file
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.block.graph import Graph

_SECTOR = 512
_WRITERS = permission.WRITE | permission.WRITE_UNCHANGED | permission.RESIZE
_AT_ONCE_LIMIT = 1 << 20
"""The longest request that is tried at once, bytes: copying it takes a fraction of a millisecond."""
_PAGE = 4096
_SLOW_NS = 2_000_000
_HOLD_OFF_NS = 200_000_000


class FileNode(BlockNode, driver=BlockdevDriver.FILE):
    """The protocol `file`."""

    is_protocol = True
    protocols = ("file",)
    supports_fua = True
    _regular: ClassVar[bool] = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.name: str = self.options.filename
        self._fd = -1
        self._open_flags = 0
        self._locks: locking.FileLocks | None = None
        self._held = (0, permission.ALL)
        self._pending: tuple[int, int] | None = None
        self._buffer_alignment = 1
        self._can_read_now = self._can_write_now = False
        self._no_writes_before = 0
        self._nowait_writes = True
        self._punch = self._zero_range = True
        self._flush_failed = False
        self._discards = [0, 0, 0]  # done, failed, bytes

    makes_images = True

    @classmethod
    async def create(cls, graph: Graph, options: Any) -> None:
        """Make a file, or empty one, and give it its size."""
        del graph
        await pool.run(_create, options.filename, options.size, options.preallocation.value)

    # Opening and closing.

    async def do_open(self) -> None:
        """Open the file."""
        if self.options.locking is not OnOffAuto.OFF:
            self._locks = locking.FileLocks()
        self._open_flags = self._flags_for(self.flags, 0)
        self._fd = await pool.run(self._open_file, self._open_flags)
        try:
            await pool.run(self._look_at)
        except BaseException:
            self._close_now()
            raise

    async def do_close(self) -> None:
        """Close it; its locks end with it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._locks = None
            await pool.run(close_file, fd)

    async def do_activate(self) -> None:
        """Find out its size again, and forget what the page cache has of a file that another host may have changed."""

        def look() -> int:
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return hostio.length_of(self._fd)

        try:
            self.set_size(-(-await pool.run(look) // _SECTOR) * _SECTOR)
        except OSError as error:
            raise GenericError(f"Could not refresh total sector count: {error.strerror}") from None

    def _close_now(self) -> None:
        fd, self._fd = self._fd, -1
        close_file(fd)

    def _open_file(self, flags: int) -> int:
        """Open it by its name.  GenericError."""
        try:
            # A FIFO would be waited for, until somebody opens its other end, before it is refused.
            fd = open_file(self.name, flags | os.O_NONBLOCK)
        except FdsetError as error:
            raise GenericError(error.reason) from None
        except OSError as error:
            raise GenericError(f"Could not open '{self.name}': {error.strerror}") from None
        os.set_blocking(fd, True)
        return fd

    def _flags_for(self, flags: Flags, needs: int) -> int:
        """How the file is to be open, for users who need this."""
        writable = bool(needs & _WRITERS) if flags.auto_read_only else True
        access = os.O_RDWR if writable and not flags.read_only else os.O_RDONLY
        return access | os.O_DIRECT if flags.direct else access

    def _look_at(self) -> None:
        """Find out what has been opened.  GenericError."""
        mode = os.fstat(self._fd).st_mode
        if self._regular and not stat.S_ISREG(mode):
            raise GenericError(f"'file' driver requires '{self.name}' to be a regular file")
        if not self._regular and not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            raise GenericError(
                f"'{self.driver.value}' driver requires '{self.name}' to be either a character or block device"
            )
        self._set_up(self.flags)
        try:
            # Sizes are whole sectors; what is missing of the last one reads as zeroes, and is there once it was written.
            self.size = -(-hostio.length_of(self._fd) // _SECTOR) * _SECTOR
        except OSError as error:
            raise GenericError(f"Could not get image size: {error.strerror}") from None

    def _set_up(self, flags: Flags) -> None:
        self.request_alignment, self._buffer_alignment = (
            hostio.probe_alignment(self._fd) if flags.direct else (1, 1)
        )
        # Without the page cache, a request always waits for the disk.
        self._can_read_now = self._can_write_now = self._regular and not flags.direct

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Other flags; the file itself must stay the same."""
        for name in ("filename", "locking", "aio"):
            if getattr(options, name) != getattr(self.options, name):
                raise GenericError(f"Cannot change the option '{name}'")
        # What can be opened now will be opened again once it is known what users need then.
        wanted = self._flags_for(flags, permission.ALL if flags.auto_read_only else 0)
        if wanted != self._open_flags:
            self._reopened = await pool.run(self._open_file, wanted), wanted
        return lambda: self._commit_reopen(flags)

    _reopened: tuple[int, int] | None = None

    def _commit_reopen(self, flags: Flags) -> None:
        if self._reopened is not None:
            fd, opened = self._reopened
            self._reopened = None
            if opened == self._flags_for(flags, self.cumulative[0]):
                self._locks_to(fd)
                self._take_over(fd, opened)
            else:
                close_file(fd)
        self._set_up(flags)

    def _locks_to(self, fd: int) -> None:
        if self._locks is not None:
            with contextlib.suppress(GenericError):  # they are held already, and shared
                self._locks.copy_to(fd)

    async def abort_reopen(self) -> None:
        """Close what was opened for it."""
        if self._reopened is not None:
            close_file(self._reopened[0])
            self._reopened = None

    def _take_over(self, fd: int, flags: int) -> None:
        """Another open file takes the place of the one there is, under its number: who is using that goes on undisturbed."""
        os.dup2(fd, self._fd, inheritable=False)
        close_file(fd)
        self._open_flags = flags

    # Permissions.

    def prepare_permissions(self, needs: int, shares: int) -> None:
        """Take the locks, and open the file for writing if that is new."""
        if self._fd < 0 or self.inactive:
            return  # no locks, and nothing to write: another process has the file
        self._pending = self._held
        had, shared = self._held
        if self._locks is not None and (needs & ~had or shared & ~shares):
            self._locks.take(self._fd, had | needs, permission.ALL & ~(shared & shares))
            locking.check(self._fd, needs, shares, self.name)
        flags = self._flags_for(self.flags, needs)
        if flags != self._open_flags and flags & os.O_RDWR:
            if self._reopened is not None and self._reopened[1] == flags:
                fd, self._reopened = self._reopened[0], None
            else:
                fd = self._open_file(flags)
            try:
                if self._locks is not None:
                    self._locks.copy_to(fd)
            except GenericError:
                close_file(fd)
                raise
            self._take_over(fd, flags)

    def commit_permissions(self, needs: int, shares: int) -> None:
        """Give back locks, and the writable descriptor."""
        self._pending = None
        if self.inactive:
            needs, shares = 0, permission.ALL
        self._held = needs, shares
        if self._fd < 0:
            return
        if self._locks is not None:
            self._locks.keep_only(self._fd, needs, permission.ALL & ~shares)
        flags = self._flags_for(self.flags, needs)
        if flags != self._open_flags:
            try:
                fd = self._open_file(flags)
            except GenericError:
                return  # removed or renamed meanwhile: it stays open as it is
            if self._locks is not None:
                try:
                    self._locks.copy_to(fd)
                except GenericError:
                    close_file(fd)
                    return
            self._take_over(fd, flags)

    def abort_permissions(self) -> None:
        """Give back what was taken."""
        if self._pending is not None:
            held, self._pending = self._pending, None
            self.commit_permissions(*held)

    # Requests.

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """preadv(2)."""
        read = hostio.read_aligned if self._needs_bounce(buffers) else hostio.read_all
        await pool.run(read, self._fd, buffers, offset)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """pwritev2(2)."""
        write = hostio.write_aligned if self._needs_bounce(buffers) else hostio.write_all
        await pool.run(
            write, self._fd, buffers, offset, os.RWF_DSYNC if fua and not self.flags.no_flush else 0
        )

    def _needs_bounce(self, buffers: Sequence[memoryview]) -> bool:
        alignment = self._buffer_alignment
        return alignment > 1 and any(
            buffer.readonly or len(buffer) % self.request_alignment or hostio.address_of(buffer) % alignment
            for buffer in buffers
        )

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """fallocate(2): a hole, or a range that is known to be zero."""
        await pool.run(self._write_zeroes, offset, length, unmap)

    def _write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        if not self._regular:
            raise unsupported()
        # A hole does not make the file longer.
        inside = offset + length <= os.fstat(self._fd).st_size
        if unmap and inside and self._fallocate("_punch", _PUNCH, offset, length):
            return
        if self._fallocate("_zero_range", hostio.FALLOC_FL_ZERO_RANGE, offset, length):
            return
        if inside and self._fallocate("_punch", _PUNCH, offset, length):
            hostio.fallocate(self._fd, 0, offset, length)
            return
        raise unsupported()

    def _fallocate(self, capability: str, mode: int, offset: int, length: int) -> bool:
        """Try a way that the file system may not have; whether it worked."""
        if not getattr(self, capability):
            return False
        try:
            hostio.fallocate(self._fd, mode, offset, length)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            setattr(self, capability, False)
            return False
        return True

    async def do_discard(self, offset: int, length: int) -> None:
        """fallocate(2): a hole; BLKDISCARD for a disk."""
        try:
            await pool.run(self._discard, offset, length)
        except OSError:
            self._discards[1] += 1
            raise
        self._discards[0] += 1
        self._discards[2] += length

    def _discard(self, offset: int, length: int) -> None:
        if not self._fallocate("_punch", _PUNCH, offset, length):
            raise unsupported()

    async def do_flush_to_disk(self) -> None:
        """fdatasync(2).  Once it has failed nobody knows what is stable, and it goes on failing."""
        if self._flush_failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            await pool.run(os.fdatasync, self._fd)
        except OSError as error:
            # A full disk can be repaired; with O_DIRECT there was nothing in the page cache to lose.
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} and not self.flags.direct:
                self._flush_failed = True
            raise

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """Where the file has holes."""
        if not self._regular:
            return Extent(length, data=True, zero=False, allocated=True, map_offset=offset, file=self)
        length, data = await pool.run(hostio.find_allocation, self._fd, offset, length)
        # Data may end within a sector, at the end of the file.
        length = -(-length // _SECTOR) * _SECTOR if data else length
        return Extent(length, data=data, zero=not data, allocated=True, map_offset=offset, file=self)

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """ftruncate(2), and getting the space if that is wanted; a file's new bytes are always zeroes."""
        del zeroes
        if self._regular:
            current = await pool.run(hostio.length_of, self._fd)
            if current > size and preallocation != "off":
                raise GenericError("Cannot use preallocation for shrinking files")
            if preallocation not in {"off", "falloc", "full"}:
                raise GenericError(f"Unsupported preallocation mode: {preallocation}")
            try:
                await pool.run(hostio.resize, self._fd, size, preallocation)
            except OSError as error:
                raise GenericError(str(error.strerror)) from None
            self.set_size(-(-size // _SECTOR) * _SECTOR)
            return
        if preallocation != "off":
            raise GenericError(f"Preallocation mode '{preallocation}' unsupported for this non-regular file")
        if size != self.size and exact:
            raise GenericError("Cannot resize device files")
        if size > self.size:
            raise GenericError("Cannot grow device files")

    async def get_info(self) -> NodeInfo:
        """There is nothing special about a file."""
        return NodeInfo()

    async def image_specific(self) -> Any:
        """In what pieces the file system is to find space, if somebody has said so."""
        from qemud._generated.types.block_info import ImageInfoSpecificFile, ImageInfoSpecificFile_

        hint = await pool.run(hostio.extent_size_hint, self._fd)
        return ImageInfoSpecificFile_(data=ImageInfoSpecificFile(extent_size_hint=hint))

    def stats_specific(self) -> Any:
        """How discards went."""
        from qemud._generated.types import block_stats as types

        kind = types.BlockStatsSpecificFile_ if self._regular else types.BlockStatsSpecificHostDevice
        ok, failed, length = self._discards
        return kind(discard_nb_ok=ok, discard_nb_failed=failed, discard_bytes_ok=length)

    async def allocated_size(self) -> int:
        """What the file takes of its file system."""
        status = await pool.run(os.fstat, self._fd)
        return status.st_blocks * 512

    # At once: the machine thread calls; the descriptor's number is the same as long as the node is open.

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """What is in the page cache."""
        length = total(buffers)
        if not self._can_read_now or length > _AT_ONCE_LIMIT or len(buffers) > hostio.IOV_MAX:
            return False
        try:
            return os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT) == length
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NOT_THERE:
                self._can_read_now = False
            return False

    def write_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """Into the page cache.

        File systems that cannot promise not to wait (ext4) take whole pages all the same in the time of copying them, unless
        too much is waiting for the disk already: when one write has taken long, the next ones are not tried for a while.
        """
        length = total(buffers)
        if (
            not self._can_write_now
            or length > _AT_ONCE_LIMIT
            or len(buffers) > hostio.IOV_MAX
            or not self.writable_now(offset, length)
        ):
            return False
        try:
            if self._nowait_writes:
                try:
                    done = os.pwritev(self._fd, buffers, offset, os.RWF_NOWAIT)
                except OSError as error:
                    if error.errno not in _NOT_THERE:
                        raise
                    self._nowait_writes = False
                    return False
            else:
                if (offset | length) % _PAGE:
                    return False
                started = time.monotonic_ns()
                if started < self._no_writes_before:
                    return False
                done = os.pwritev(self._fd, buffers, offset)
                ended = time.monotonic_ns()
                if ended - started > _SLOW_NS:
                    self._no_writes_before = ended + _HOLD_OFF_NS
        except OSError:
            return False  # the way through the loop meets the same error, and knows what to do with it
        if done != length:
            return False
        self.wrote_now(offset + length)
        return True

    # Names.

    def exact_filename(self) -> str | None:
        """The name that was given."""
        return self.name

    def open_options(self) -> dict[str, Any]:
        """As in the base."""
        return {"driver": self.driver.value, "filename": self.name}


_PUNCH = hostio.FALLOC_FL_PUNCH_HOLE | hostio.FALLOC_FL_KEEP_SIZE
_NOT_THERE = frozenset(
    (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.ENODEV)
)


def _create(name: str, size: int, preallocation: str) -> None:
    """As `FileNode.create`; in the pool."""
    try:
        fd = open_file(name, os.O_RDWR | os.O_CREAT, 0o644)
    except FdsetError as error:
        raise GenericError(error.reason) from None
    except OSError as error:
        raise GenericError(f"Could not create '{name}': {error.strerror}") from None
    try:
        # Others may read it meanwhile, and nothing else.
        needs, shares = permission.WRITE | permission.RESIZE, permission.ALL & ~permission.RESIZE
        locks = locking.FileLocks()
        locks.take(fd, needs, permission.ALL & ~shares)
        locking.check(fd, needs, shares, name)
        if preallocation == "metadata":
            raise GenericError(f"Unsupported preallocation mode: {preallocation}")
        os.ftruncate(fd, 0)
        hostio.resize(fd, size, preallocation)
    except OSError as error:
        raise GenericError(str(error.strerror)) from None
    finally:
        close_file(fd)


class HostDeviceNode(FileNode, driver=BlockdevDriver.HOST_DEVICE):
    """The protocol `host_device`: a disk, or a character device that behaves like one."""

    protocols = ("host_device",)
    _regular = False
    makes_images = False

    def _discard(self, offset: int, length: int) -> None:
        try:
            hostio.discard_on_disk(self._fd, offset, length)
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise unsupported() from None
            raise
