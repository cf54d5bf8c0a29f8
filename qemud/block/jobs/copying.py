"""Copying much: buffers that are used again, and requests side by side.

    with Buffers(16, 1 << 20) as buffers:
        view = buffers.take()
        ...
        buffers.give(view)

A job copies pieces of `CHUNK` bytes, `IN_FLIGHT` at a time: large pieces keep the price of Python small, many keep disks busy.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

CHUNK = 1 << 20
IN_FLIGHT = 16


class Buffers:
    """Pieces of memory that the kernel reads into and writes from; as long as the block lasts."""

    def __init__(self, count: int, size: int) -> None:
        whole = memoryview(mmap.mmap(-1, count * size))
        self._free = [whole[start : start + size] for start in range(0, count * size, size)]

    @property
    def available(self) -> bool:
        """Whether there is one to take."""
        return bool(self._free)

    def take(self) -> memoryview:
        """One of them."""
        return self._free.pop()

    def give(self, view: memoryview) -> None:
        """Give back what `take` gave."""
        self._free.append(view)

    def close(self) -> None:
        """Let go of the memory: it is unmapped with the last view of it."""
        self._free.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bounce(buffers: Sequence[memoryview]) -> memoryview:
    """A copy of what is in some buffers, which their owner may change meanwhile."""
    if len(buffers) == 1:
        return memoryview(bytes(buffers[0]))
    return memoryview(b"".join(buffers))
