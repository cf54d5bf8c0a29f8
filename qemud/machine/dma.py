"""Devices that reach into the guest's memory: reads and writes at once, and pages lent to the outside.

    dma = Dma(space, mailboxes)                          one for each machine: `vm.dma`
    owner = dma.owner("/machine/peripheral/disk0")       one for each device
    header = owner.read(0x8000_1000, 16)                 bytes; MemoryFault outside of RAM
    lease = owner.lend([(0x8040_0000, 4096)], write=True)
    os.preadv(fd, lease.views, offset)                   in another thread, straight into the guest's pages
    lease.release()                                      back in the machine thread

**Leases.**  What is lent is RAM of the guest, in place: nothing is copied.  A lease that was lent to be written ends with the
translated code there being dropped.  Leases are counted, so that `await owner.returned()` (one device) and `await
dma.returned()` (all of them) tell the loop when nobody outside touches the guest's memory any more: `stop`, a reset and
DEVICE_DELETED answer only then, and RAM may not go away before.

**Epochs.**  A reset and an unplug raise the owner's epoch (`retire`).  The completion of a request sees by `lease.stale` that its device
has gone on without it: it releases the lease and touches nothing else.

**Parked leases.**  A request that waits for the user to make room (`werror=stop`) writes nothing meanwhile; with `lease.park()` it is not
waited for, with `lease.unpark()` it is again.

All of it belongs to the machine thread, except the two `returned`.
"""

from __future__ import annotations

import asyncio
from operator import add, eq
from typing import TYPE_CHECKING

from qemud.machine.memory import MemoryFault, SectionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.machine.mailbox import Mailboxes
    from qemud.machine.memory import AddressSpace, Section

Segment = tuple[int, int]
"""Physical address and length in bytes."""


class Lease:
    """Guest pages that the outside may use until `release`; see the module.

    `views` are the bytes in place, in the order of the segments, where neighbours in memory have become one.
    """

    __slots__ = ("_open", "_owner", "_parked", "_segments", "epoch", "views", "write")

    def __init__(
        self, owner: LeaseOwner, segments: list[Segment], views: list[memoryview], *, write: bool
    ) -> None:
        self._owner = owner
        self._segments = segments
        self._open = True
        self._parked = False
        self.views = views
        self.write = write
        self.epoch = owner.epoch

    @property
    def stale(self) -> bool:
        """Whether the device was reset or unplugged since."""
        return self.epoch != self._owner.epoch

    def release(self) -> None:
        """End the lease; nobody may use the views afterwards.  RuntimeError when it has ended already."""
        if not self._open:
            raise RuntimeError("a lease was released twice")
        self._open = False
        self.views = []
        if self.write:
            self._owner.dma.all_written(self._segments)
        if not self._parked:
            self._owner.give_back()

    def park(self) -> None:
        """The request waits, and touches nothing: do not wait for it."""
        if not self._parked:
            self._parked = True
            self._owner.give_back()

    def unpark(self) -> None:
        """The request goes on."""
        if self._parked:
            self._parked = False
            self._owner.take()


class LeaseOwner:
    """A device as the guest's memory knows it; see the module.  `count` is the number of leases out, parked ones aside."""

    __slots__ = ("_waiters", "count", "dma", "epoch", "name", "read", "view", "write")

    def __init__(self, dma: Dma, name: str) -> None:
        self.dma = dma
        self.name = name
        self.epoch = 0
        self.count = 0
        self._waiters: list[Callable[[], None]] = []
        self.read = dma.read
        self.write = dma.write
        self.view = dma.view

    def __repr__(self) -> str:
        return f"<leases of {self.name}: {self.count}, epoch {self.epoch}>"

    def lend(self, segments: Sequence[Segment], *, write: bool) -> Lease:
        """Lend RAM; with `write` the outside may change it.  MemoryFault, and nothing is lent, where there is no RAM.

        A segment may go over the border of two regions of RAM.  One of no bytes is a MemoryFault, too.
        """
        merged, views = self.dma.views(segments)
        lease = Lease(self, merged, views, write=write)
        self.take()
        return lease

    def retire(self) -> None:
        """The device begins anew, or ends: completions of requests begun so far are stale."""
        self.epoch += 1

    def when_returned(self, done: Callable[[], None]) -> None:
        """Call `done` as soon as no lease is out: at once, or from the last one's `release`."""
        if self.count:
            self._waiters.append(done)
        else:
            done()

    async def returned(self) -> None:
        """From the loop: wait until no lease of the device is out."""
        await self.dma.wait(self.when_returned)

    def close(self) -> None:
        """The device is gone; its leases, if any are out, are still counted by `Dma`."""
        self.retire()
        self.dma.forget(self)

    def take(self) -> None:
        """Count a lease."""
        self.count += 1
        self.dma.count += 1

    def give_back(self) -> None:
        """Count a lease no longer, and tell who waits."""
        self.count -= 1
        self.dma.count -= 1
        if not self.count and self._waiters:
            waiters, self._waiters = self._waiters, []
            for done in waiters:
                done()
        self.dma.given_back()


class Dma:
    """The guest's RAM for devices; see the module.  `count` is the number of leases out, of all devices."""

    def __init__(self, space: AddressSpace, mailboxes: Mailboxes | None = None) -> None:
        self._space = space
        self._mailboxes = mailboxes
        self.count = 0
        self.owners: list[LeaseOwner] = []
        self.on_ram_removed: list[Callable[[], None]] = []
        """Called when RAM goes away, of those who keep views of their own."""
        self._waiters: list[Callable[[], None]] = []
        # The region of the last access: nearly always that of the next one.
        self._base = 0
        self._end = 0
        self._view = memoryview(b"")
        self.written = space.written
        self.all_written = space.all_written
        space.add_listener(self)

    def owner(self, name: str) -> LeaseOwner:
        """A new owner of leases; `name` is for people."""
        owner = LeaseOwner(self, name)
        self.owners.append(owner)
        return owner

    def forget(self, owner: LeaseOwner) -> None:
        """The owner is gone."""
        self.owners.remove(owner)

    # The machine thread's accesses.

    def view(self, address: int, size: int) -> memoryview:
        """`size` bytes of RAM in place, at least one; MemoryFault unless they lie in one region.

        Who writes into it calls `written` afterwards.
        """
        if address < self._base or address + size > self._end:
            self._find(address, size)
        if size <= 0:
            raise MemoryFault(address, write=False)
        start = address - self._base
        return self._view[start : start + size]

    def views(self, segments: Sequence[Segment]) -> tuple[list[Segment], list[memoryview]]:
        """The same of many stretches, and what these are: neighbours are one, and regions' borders are cuts."""
        if len(segments) == 1:
            address, size = segments[0]
            if size > 0 and self._base <= address and address + size <= self._end:
                start = address - self._base
                return [segments[0]], [self._view[start : start + size]]
        elif segments:
            # A large request has hundreds of pages, mostly from here and there: one step in Python for each of them.
            addresses, sizes = zip(*segments, strict=True)
            ends = tuple(map(add, addresses, sizes))
            base = self._base
            if (
                min(sizes) > 0
                and base <= min(addresses)
                and max(ends) <= self._end
                and not any(map(eq, addresses[1:], ends))
            ):
                whole = self._view
                return list(segments), [
                    whole[begin - base : end - base] for begin, end in zip(addresses, ends, strict=True)
                ]
        merged = _merge(segments)
        try:
            return merged, [self.view(address, size) for address, size in merged]
        except MemoryFault:
            if any(size <= 0 for _, size in merged):
                raise
            merged = [piece for segment in merged for piece in self.pieces(*segment)]
            return merged, [self.view(address, size) for address, size in merged]

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; MemoryFault unless all of it is RAM."""
        if self._base <= address and address + size <= self._end:
            start = address - self._base
            return self._view[start : start + size].tobytes()
        return b"".join(self.view(start, length) for start, length in self.pieces(address, size))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data`; MemoryFault, and nothing is written, unless all of it is RAM."""
        size = len(data)
        if not size:
            return
        if self._base <= address and address + size <= self._end:
            start = address - self._base
            self._view[start : start + size] = data
        else:
            done = 0
            for start, length in self.pieces(address, size):
                self.view(start, length)[:] = data[done : done + length]
                done += length
        self.written(address, size)

    def pieces(self, address: int, size: int) -> list[Segment]:
        """Cut a stretch of RAM where regions meet; MemoryFault unless all of it is RAM."""
        found: list[Segment] = []
        end = address + size
        while address < end:
            section = self._section(address)
            length = min(end, section.end) - address
            found.append((address, length))
            address += length
        return found

    def _section(self, address: int) -> Section:
        section = self._space.find(address) if address >= 0 else None
        if section is None or section.kind is not SectionKind.RAM:
            raise MemoryFault(address, write=False)
        return section

    def _find(self, address: int, size: int) -> None:
        """Make the region of `address` the one of the last access."""
        section = self._section(address)
        if address + size > section.end:
            raise MemoryFault(section.end, write=False)
        assert section.block is not None
        self._base, self._end = section.base, section.end
        self._view = section.block.view[section.block_offset : section.block_offset + section.size]

    # A listener of the address space.

    def section_added(self, section: Section) -> None:
        """Nothing was known of it."""

    def section_removed(self, section: Section) -> None:
        """Forget what is kept of the region."""
        if section.kind is SectionKind.RAM:
            self._base = self._end = 0
            self._view = memoryview(b"")
            for forget in tuple(self.on_ram_removed):
                forget()

    def ram_written(self, segments: list[Segment]) -> None:
        """Nothing is kept of the content."""

    # Waiting.

    def retire(self) -> None:
        """The machine begins anew: no completion of a request begun so far touches anything."""
        for owner in self.owners:
            owner.retire()

    def when_returned(self, done: Callable[[], None]) -> None:
        """Call `done` as soon as no lease of any device is out."""
        if self.count:
            self._waiters.append(done)
        else:
            done()

    def given_back(self) -> None:
        """A lease has ended."""
        if not self.count and self._waiters:
            waiters, self._waiters = self._waiters, []
            for done in waiters:
                done()

    async def returned(self) -> None:
        """From the loop: wait until no lease of any device is out."""
        await self.wait(self.when_returned)

    async def wait(self, ask: Callable[[Callable[[], None]], None]) -> None:
        """From the loop: until `ask`, which is called in the machine thread, calls what it is given."""
        mailboxes = self._mailboxes
        assert mailboxes is not None
        future = asyncio.get_running_loop().create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        await mailboxes.call(ask, lambda: mailboxes.send(resolve))
        await future


def _merge(segments: Sequence[Segment]) -> list[Segment]:
    """Make one of segments that follow each other in memory."""
    merged: list[Segment] = []
    begin = end = -1
    for address, length in segments:
        if address == end and length > 0:
            end += length
            continue
        if end >= 0:
            merged.append((begin, end - begin))
        begin, end = address, address + length
    if end >= 0:
        merged.append((begin, end - begin))
    return merged
