"""Numbered writes anywhere on a disk, by ``diskload journal`` in the guest, and what the disk has to hold then."""

from __future__ import annotations

from tests.guests.disk import place

SIZE = 64 << 20
BLOCK = 4096
EVERY = 20
"""Writes between flushes."""
COMMAND = f"diskload journal /dev/vda {BLOCK} 1000000 {EVERY}"
"""What is typed in the guest.  It prints ``FLUSHED n`` after each flush."""


def holds(disk: bytes, flushed: int) -> None:
    """Each block has what was written there last before the flush, or something newer that belongs there, and all of that."""
    blocks = SIZE // BLOCK
    last = {place(number, blocks): number for number in range(1, flushed + 1)}
    for block in range(blocks):
        data = disk[block * BLOCK : (block + 1) * BLOCK]
        number = int.from_bytes(data[:8], "little")
        assert data == number.to_bytes(8, "little") * (BLOCK // 8), f"block {block} is of several writes"
        assert number >= last.get(block, 0), (
            f"block {block} has write {number}, and {last[block]} was flushed"
        )
        assert number == 0 or place(number, blocks) == block, f"block {block} has a write for elsewhere"
