"""Lists of buffers, as vectored reads and writes take them: views of memory, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO_CHUNK = 1 << 20
ZEROES = bytes(ZERO_CHUNK)


def all_zero(buffers: Sequence[memoryview]) -> bool:
    """Whether all bytes are zero."""
    for buffer in buffers:
        for start in range(0, len(buffer), ZERO_CHUNK):
            part = buffer[start : start + ZERO_CHUNK]
            # Most data shows it at the first byte or in the middle; the rest is one comparison of memory.
            if part[0] or part[len(part) // 2] or bytes(part) != ZEROES[: len(part)]:
                return False
    return True


def cut(buffers: Sequence[memoryview], start: int, end: int) -> list[memoryview]:
    """The bytes from `start` to `end` of a list of buffers, in place."""
    found: list[memoryview] = []
    position = 0
    for buffer in buffers:
        size = len(buffer)
        if position + size > start:
            part = buffer[max(0, start - position) : end - position]
            if len(part):
                found.append(part)
        position += size
        if position >= end:
            break
    return found


def total(buffers: Sequence[memoryview]) -> int:
    """How many bytes a list of buffers has."""
    if len(buffers) == 1:
        return len(buffers[0])
    return sum(map(len, buffers))


def clear(buffer: memoryview) -> None:
    """Make all bytes zero."""
    for start in range(0, len(buffer), ZERO_CHUNK):
        part = buffer[start : start + ZERO_CHUNK]
        part[:] = ZEROES[: len(part)]
