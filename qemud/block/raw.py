"""The format `raw`: the data of another node as it is, or a part of it.

Without `offset` and `size` it hands everything on.  With them, what is below ends where the part does, and the part cannot
grow beyond its size.

Source: QEMU 10.0, block/raw-format.c, for rules and texts.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block import permission
from qemud.block.buffers import cut, total
from qemud.block.drivers import probe
from qemud.block.node import BlockNode, Edge, Extent, NodeInfo, Role
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.block.node import Flags

_SECTOR = 512
_WINDOW = Role.DATA | Role.PRIMARY
PROBE_SIZE = 512
"""How much of an image decides what format it has, bytes."""


class RawNode(BlockNode, driver=BlockdevDriver.RAW):
    """See the module."""

    file_role = Role.FILTERED | Role.PRIMARY
    _offset = 0
    _limited = False
    _below: BlockNode

    async def do_open(self) -> None:
        """Open the file and find the part."""
        options = self.options
        _check_options(options)
        # As a filter, all of the file can be shared; as a window into it, it is a format's data.
        window = bool(options.offset) or options.size is not None
        role = _WINDOW if window else self.file_role
        await self.graph.open_child(self, "file", options.file, role)
        self._adopt_alignment()
        self._offset, self.size = _part(self.file.size, options)
        self._limited = options.size is not None
        self.supports_fua = self.file.supports_fua

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Another part of the same file."""
        del flags
        _check_options(options)
        offset, size = _part(self.file.size, options)

        def commit() -> None:
            self._offset, self._limited = offset, options.size is not None
            self.set_size(size)

        return commit

    @property
    def _is_window(self) -> bool:
        return bool(self.edges["file"].role & Role.DATA)

    def _adopt_alignment(self) -> None:
        below = self.file
        self.request_alignment = below.request_alignment
        self.zero_alignment = below.zero_alignment
        self.discard_alignment = below.discard_alignment

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """As in the base, but nothing is written, and no size is changed, unless a user of this node does so."""
        wanted, shares = super().child_permissions(edge, needs, shares)
        changes = permission.WRITE | permission.RESIZE
        return wanted & ~changes | needs & changes, shares

    def child_resized(self, edge: Edge) -> None:
        """The file has another size: so has this node, unless its own is fixed."""
        del edge
        if not self._limited:
            self.set_size(max(0, self.file.size - self._offset))

    # Requests.

    def _place(self, offset: int, length: int, *, write: bool = False) -> int:
        """Where an offset is in the file.  OSError: a fixed part has no such place."""
        if self._limited and (offset > self.size or length > self.size - offset):
            # Reads were cut to the size already; a write would go beyond the part.
            number = errno.ENOSPC if write else errno.EINVAL
            raise OSError(number, os.strerror(number))
        return offset + self._offset

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on."""
        await self.file.readv(offset + self._offset, buffers)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Hand it on."""
        place = self._place(offset, total(buffers), write=True)
        if self.probed and offset < PROBE_SIZE:
            await self._check_header(offset, buffers)
        await self.file.writev(place, buffers, fua=fua)

    async def _check_header(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Raise OSError when the image, whose format was guessed, would be taken for another after a write."""
        header = bytearray(PROBE_SIZE)
        await self.file.readv(self._offset, [memoryview(header)])
        new = b"".join(cut(buffers, 0, PROBE_SIZE - offset))
        header[offset : offset + len(new)] = new
        if probe(bytes(header)) != "raw":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Hand it on; the file finds out itself how."""
        await self.file.write_zeroes(self._place(offset, length, write=True), length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Hand it on."""
        await self.file.discard(self._place(offset, length, write=True), length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """What the file says, with everything decided by this layer."""
        extent = await self.file.block_status(offset + self._offset, length)
        return extent._replace(allocated=True)

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Resize the file."""
        if self._limited:
            raise GenericError("Cannot resize fixed-size raw disks")
        await self.file.truncate(size + self._offset, preallocation=preallocation, exact=exact, zeroes=zeroes)
        self.set_size(max(0, self.file.size - self._offset))

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """If the file can."""
        if offset + total(buffers) > self.size:
            return False
        return self.file.read_now(offset + self._offset, buffers)

    def write_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """If the file can."""
        length = total(buffers)
        if self.probed and offset < PROBE_SIZE:
            return False
        if self.writable_now(offset, length) and self.file.write_now(offset + self._offset, buffers):
            self.wrote_now(offset + length)
            return True
        return False

    async def get_info(self) -> NodeInfo | None:
        """Of the file."""
        return await self.file.get_info()

    # Names.

    def exact_filename(self) -> str | None:
        """The file's, when this is all of it."""
        return None if self._is_window else self.file.exact_filename()

    def open_options(self) -> dict[str, Any]:
        """As in the base, with the part."""
        options: dict[str, Any] = {"driver": "raw"}
        if self.options.offset is not None:
            options["offset"] = self._offset
        if self.options.size is not None:
            options["size"] = self.size
        return {**options, "file": self.file.open_options()}


def _check_options(options: Any) -> None:
    for name in ("offset", "size"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise GenericError(f"Parameter '{name}' expects a non-negative number below 2^64")


def _part(real_size: int, options: Any) -> tuple[int, int]:
    """Offset and size of the part of a file of that size."""
    offset = options.offset or 0
    if offset > real_size:
        raise GenericError(
            f"Offset ({offset}) cannot be greater than size of the containing file ({real_size})"
        )
    if options.size is not None and real_size - offset < options.size:
        raise GenericError(
            f"The sum of offset ({offset}) and size ({options.size}) has to be smaller or equal to the "
            f" actual size of the containing file ({real_size})"
        )
    size = options.size if options.size is not None else real_size - offset
    if options.size is not None and size % _SECTOR:
        raise GenericError(f"Specified size is not multiple of {_SECTOR}")
    return offset, size
