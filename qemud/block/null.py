"""The drivers `null-co` and `null-aio`: disks without memory, for tests and for measuring what is above them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block.buffers import clear
from qemud.block.node import BlockNode, Extent
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.block.node import Flags


class NullCoNode(BlockNode, driver=BlockdevDriver.NULL_CO):
    """The driver `null-co`."""

    is_protocol = True
    protocols = ("null-co",)
    supports_fua = True

    async def do_open(self) -> None:
        """Nothing to open."""
        if self.options.size < 0:
            raise GenericError("latency-ns is invalid" if self.options.latency_ns < 0 else "size is invalid")
        self.size = self.options.size

    @classmethod
    def parse_filename(cls, name: str, *, from_options: bool = False) -> dict[str, Any]:
        """There is nothing in the name but the protocol."""
        if from_options or name != f"{cls.driver.value}://":
            raise GenericError(f"The only allowed filename for this driver is '{cls.driver.value}://'")
        return {}

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """The flags may change, nothing else needs doing."""
        del options, flags
        return None

    async def _delay(self) -> None:
        if self.options.latency_ns:
            await asyncio.sleep(self.options.latency_ns / 1e9)

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Zeroes, if that is wanted."""
        del offset
        await self._delay()
        if self.options.read_zeroes:
            for buffer in buffers:
                clear(buffer)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Dropped."""
        del offset, buffers, fua
        await self._delay()

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Dropped."""
        del offset, length, unmap
        await self._delay()

    async def do_discard(self, offset: int, length: int) -> None:
        """Dropped."""
        del offset, length
        await self._delay()

    async def do_flush_to_disk(self) -> None:
        """There is nothing to keep."""
        await self._delay()

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """Everything is there, at its place."""
        return Extent(
            length,
            data=not self.options.read_zeroes,
            zero=self.options.read_zeroes,
            allocated=True,
            map_offset=offset,
            file=self,
        )

    async def allocated_size(self) -> int:
        """None of the host's storage is used."""
        return 0

    def exact_filename(self) -> str | None:
        """`null-co://`, unless options decide what is read."""
        if self.options.read_zeroes or self.options.size != _DEFAULT_SIZE:
            return None
        return f"{self.driver.value}://"

    def open_options(self) -> dict[str, Any]:
        """As in the base, with what decides what is read."""
        options: dict[str, Any] = {"driver": self.driver.value}
        if self.options.read_zeroes:
            options["read-zeroes"] = True
        if self.options.size != _DEFAULT_SIZE:
            options["size"] = self.options.size
        return options


_DEFAULT_SIZE = 1 << 30


class NullAioNode(NullCoNode, driver=BlockdevDriver.NULL_AIO):
    """The driver `null-aio`: answers come in a later turn of the loop."""

    protocols = ("null-aio",)

    async def _delay(self) -> None:
        await asyncio.sleep(self.options.latency_ns / 1e9)
