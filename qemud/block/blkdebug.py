"""The filter `blkdebug`: a disk that fails when it is told to, for tests of what is above it.

A rule says which requests fail: their kind, the sector that they touch, with which error, after how long, once or always.  The first
rule that fits is the one.  Besides, limits of the disk can be pretended.

QEMU's rules can also wait for events inside of its formats, and count states; those of qemud have no such events, and its rules
are always in force (`event=none`).

Source of rules and texts: QEMU 10.0, block/blkdebug.c.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_filters import BlkdebugIOType
from qemud._generated.types.block_options import BlockdevDriver
from qemud.block.buffers import total
from qemud.block.filters import FilterNode
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud._generated.types.block_filters import BlkdebugInjectErrorOptions
    from qemud.block.node import BlockNode, Extent, Flags

_SECTOR = 512
_MAX = (1 << 31) - 1
_NOT_STATUS = frozenset(BlkdebugIOType) - {BlkdebugIOType.BLOCK_STATUS}


class BlkdebugNode(FilterNode, driver=BlockdevDriver.BLKDEBUG):
    """See the module."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._rules: list[BlkdebugInjectErrorOptions] = list(self.options.inject_error or ())

    @property
    def file(self) -> BlockNode:
        """The node below, whose name as a child is QEMU's."""
        return self.children["image"]

    async def do_open(self) -> None:
        """Open the node below, and pretend the limits."""
        options = self.options
        await self.graph.open_child(self, "image", options.image, self.file_role)
        below = self.file
        self.size = below.size
        self.supports_fua = below.supports_fua
        align = options.align
        if align and (not 0 < align < _MAX or align & (align - 1)):
            raise GenericError(f"Cannot meet constraints with align {align}")
        self.request_alignment = align = max(align, below.request_alignment)
        most = options.max_transfer
        if most and (not 0 < most < _MAX or most % align):
            raise GenericError(f"Cannot meet constraints with max-transfer {most}")
        self.max_transfer = most

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Other rules; the limits stay."""
        del flags
        for name in ("align", "max_transfer"):
            if getattr(options, name) != getattr(self.options, name):
                raise GenericError(f"Cannot change the option '{name.replace('_', '-')}'")

        def commit() -> None:
            self._rules = list(options.inject_error or ())

        return commit

    async def _check(self, kind: BlkdebugIOType, offset: int, length: int) -> None:
        """Fail as the first rule that fits says.  OSError."""
        for rule in self._rules:
            sector, wanted = rule.sector, rule.iotype
            if wanted is not kind if wanted is not None else kind not in _NOT_STATUS:
                continue
            if sector >= 0 and not offset <= sector * _SECTOR < offset + length:
                continue
            if rule.once:
                self._rules.remove(rule)
            if rule.delay_ns > 0:
                await asyncio.sleep(rule.delay_ns / 1e9)
            elif not rule.immediately:
                await asyncio.sleep(0)
            if rule.errno:
                raise OSError(rule.errno, os.strerror(rule.errno))
            return

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on, or fail."""
        await self._check(BlkdebugIOType.READ, offset, total(buffers))
        await super().do_readv(offset, buffers)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Hand it on, or fail."""
        await self._check(BlkdebugIOType.WRITE, offset, total(buffers))
        await super().do_writev(offset, buffers, fua=fua)

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on, or fail."""
        await self._check(BlkdebugIOType.WRITE, offset, total(buffers))
        await super().do_write_compressed(offset, buffers)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Hand it on, or fail."""
        await self._check(BlkdebugIOType.WRITE_ZEROES, offset, length)
        await super().do_write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Hand it on, or fail."""
        await self._check(BlkdebugIOType.DISCARD, offset, length)
        await super().do_discard(offset, length)

    async def do_flush_to_disk(self) -> None:
        """Fail, or let the node below be flushed."""
        await self._check(BlkdebugIOType.FLUSH, 0, 0)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """What is below, or fail."""
        await self._check(BlkdebugIOType.BLOCK_STATUS, offset, length)
        return await super().do_block_status(offset, length)
