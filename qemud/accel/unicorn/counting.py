"""Counts the instructions of an engine: `-icount`.

    count_instructions(lib, uc, core, shift)    # once, before the engine has run

From then on the engine calls the core at the beginning of each block of guest code, and when it leaves one in the middle.  How many instructions a
block has is the translator's own number.  What the core makes of it is in `_fast.c`; `Counter` is the same for its twin.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from qemud.accel.unicorn import layout, library, linkage
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.accel.unicorn.library import Library
    from qemud.accel.unicorn.native import Core

HOOK_SIZE = 128
"""Bytes of the engine's `struct hook` that are looked through for its callback and user datum."""

# In TranslationBlock: the address, the number of instructions, where the code is, its size.
BLOCK_PC, BLOCK_COUNT, BLOCK_CODE, BLOCK_CODE_SIZE = 0, 0x16, 0x20, 0x28

NEVER = (1 << 63) - 1


def count_instructions(lib: Library, uc: int, core: Core, shift: int) -> None:
    """Have `core` count what the engine `uc` runs. Raises GenericError where it cannot be done truly."""
    if not layout.is_countable(lib):
        raise GenericError(
            "unicorn 2.1.4 as its wheel for x86-64 Linux has it is needed to count instructions"
        )
    hooks = core.hooks()
    handle = ctypes.c_size_t()
    # The datum is replaced for each block that is translated; what it is now only serves to find its place.
    lib.check(
        lib.quick.uc_hook_add(uc, ctypes.byref(handle), library.HOOK_BLOCK, hooks["block"], uc, 1, 0),
        "count instructions",
    )
    place = ctypes.string_at(handle.value, HOOK_SIZE).find(struct.pack("<2Q", hooks["block"], uc))
    if place < 0:
        raise GenericError("unicorn 2.1.4 on x86-64 Linux is needed, found one whose hooks are otherwise")
    linkage.replace(lib, hooks, counting=True)
    core.count(shift, handle.value + place + 8)


class Counter:
    """What `_fast.c` does under "Counted instructions"."""

    __slots__ = ("_ahead", "_block", "_called", "_pc", "_total", "_user", "limit", "shift")

    def __init__(self, pc: ctypes.c_uint64) -> None:
        self._pc = pc
        self._total = 0
        self._ahead = 0
        self._block = 0
        self._called = -1
        self._user = ctypes.c_uint64()
        self.shift = -1
        """What a number of instructions is shifted by to be nanoseconds, or negative while none are counted."""
        self.limit = NEVER

    @property
    def on(self) -> bool:
        """Whether instructions are counted."""
        return self.shift >= 0

    @property
    def total(self) -> int:
        """How many there were."""
        return self._total - self._ahead

    @total.setter
    def total(self, count: int) -> None:
        self._total = count

    def begin(self, shift: int, user: int) -> None:
        """Count from now on."""
        self._user = ctypes.c_uint64.from_address(user)
        self.shift = shift

    def translated(self, block: int) -> None:
        """A block is going to be translated there."""
        if self.on:
            self._user.value = block

    def due(self) -> bool:
        """Whether the limit is reached; said once, and no more until the next one is set and another instruction has run."""
        if self._total < self.limit or self._total == self._called:
            return False
        self._called = self._total
        self.limit = NEVER
        return True

    def enter(self, block: int) -> int:
        """The block begins, unless fewer than its instructions are left before the limit: how many are left then."""
        count = ctypes.c_uint16.from_address(block + BLOCK_COUNT).value
        left = max(
            self.limit - self._total, 1
        )  # at the limit it was told of it, and another instruction may run
        if count > left:
            return left
        self._total += count
        self._block = block
        return 0

    def between(self) -> None:
        """No block is being run."""
        self._block = 0

    def leave(self) -> None:
        """The block is left in the middle, before the instruction at pc."""
        if self._block:
            self._total -= self._rest()
        self._block = 0

    def enter_device(self) -> None:
        """A device's callback is going to be called by the instruction at pc."""
        if self._block:
            self._ahead = self._rest() - 1

    def leave_device(self) -> None:
        """It has been."""
        self._ahead = 0

    def _rest(self) -> int:
        """How many instructions of the block there are from pc on."""
        block = self._block
        count = ctypes.c_uint16.from_address(block + BLOCK_COUNT).value
        address = ctypes.c_uint64.from_address(block + BLOCK_PC).value
        place = ctypes.c_uint64.from_address(block + BLOCK_CODE).value
        place += ctypes.c_uint64.from_address(block + BLOCK_CODE_SIZE).value
        for left in range(count, 0, -1):
            distance, place = _leb128(place)
            address += distance
            _, place = _leb128(place)
            if address == self._pc.value:
                return left
        return 0


class CountingCore:
    """What a core that has a `Counter` offers of it."""

    def __init__(self, pc: ctypes.c_uint64) -> None:
        self.counter = Counter(pc)

    def count(self, shift: int, user: int) -> None:
        """Count instructions."""
        self.counter.begin(shift, user)

    def counted(self) -> int:
        """How many there were."""
        return self.counter.total

    def set_counted(self, count: int) -> None:
        """As if there had been that many."""
        self.counter.total = count

    def set_limit(self, count: int) -> None:
        """Kick before that instruction."""
        self.counter.limit = count if count >= 0 else NEVER


def _leb128(place: int) -> tuple[int, int]:
    """The signed number at an address, and the address behind it."""
    value = shift = 0
    while True:
        byte = ctypes.c_uint8.from_address(place).value
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value - (1 << shift if byte & 0x40 else 0), place
