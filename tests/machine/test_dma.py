"""The guest's memory for devices: reads, writes, and leases that are counted."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.machine.dma import Dma
from qemud.machine.memory import AddressSpace, MemoryFault, RamBlock, Section
from qemud.machine.thread import MachineThread

PAGE = 4096
LOW, HIGH, ROM = 0x10000, 0x14000, 0x40000
"""Two regions of RAM that meet, four pages each, and one page of ROM elsewhere."""


class Written:
    """What engines hear of."""

    def __init__(self) -> None:
        self.segments: list[tuple[int, int]] = []

    def section_added(self, section: Section) -> None:
        del section

    def section_removed(self, section: Section) -> None:
        del section

    def ram_written(self, segments: list[tuple[int, int]]) -> None:
        self.segments += segments


def make() -> tuple[AddressSpace, Dma, Written]:
    space, written = AddressSpace(), Written()
    space.add_ram("low", LOW, RamBlock("low", 4 * PAGE))
    space.add_ram("high", HIGH, RamBlock("high", 4 * PAGE))
    space.add_ram("rom", ROM, RamBlock("rom", PAGE), readonly=True)
    space.add_listener(written)
    return space, Dma(space), written


def test_reading_and_writing_over_the_border_of_two_regions() -> None:
    space, dma, written = make()
    dma.write(HIGH - 2, b"abcd")
    assert dma.read(HIGH - 3, 6) == b"\0abcd\0"
    assert space.read_physical(HIGH - 2, 4) == b"abcd"
    assert written.segments == [(HIGH - 2, 4)]
    assert dma.read(LOW, 0) == b""
    dma.write(ROM, b"")


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 1), (LOW - 1, 2), (HIGH + 4 * PAGE - 1, 2), (ROM, 1), ((1 << 64) - 1, 2), (-1, 1), (LOW, 1 << 40)],
)
def test_what_is_no_ram(address: int, size: int) -> None:
    _, dma, written = make()
    with pytest.raises(MemoryFault):
        dma.read(address, size)
    if size < PAGE:
        with pytest.raises(MemoryFault):
            dma.write(address, b"x" * size)
    owner = dma.owner("device")
    for write in (False, True):
        with pytest.raises(MemoryFault):
            owner.lend([(LOW, 16), (address, size)], write=write)
    assert (dma.count, owner.count, written.segments) == (0, 0, [])


def test_a_lease_is_memory_in_place() -> None:
    space, dma, written = make()
    owner = dma.owner("device")
    lease = owner.lend([(LOW, 4), (LOW + PAGE, 4)], write=True)
    assert (owner.count, dma.count) == (1, 1)
    for view in lease.views:
        view[:] = b"data"
    assert space.read_physical(LOW + PAGE, 4) == b"data"
    assert written.segments == []
    lease.release()
    assert written.segments == [(LOW, 4), (LOW + PAGE, 4)]
    assert (owner.count, dma.count) == (0, 0)
    with pytest.raises(RuntimeError, match="released twice"):
        lease.release()
    owner.lend([(LOW, 4)], write=False).release()
    assert len(written.segments) == 2, "who only reads changes nothing"


SEGMENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(LOW, HIGH + 4 * PAGE - 1), st.integers(1, 2 * PAGE)),
        st.tuples(st.integers(0, 8).map(lambda n: LOW + n * PAGE // 2), st.just(PAGE // 2)),
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(SEGMENTS)
def test_views_are_the_segments_in_their_order(segments: list[tuple[int, int]]) -> None:
    space, dma, _ = make()
    for n in range(8 * PAGE // 256):
        space.write_physical(LOW + 256 * n, bytes([n]) * 256)
    expected = []
    inside = all(address + size <= HIGH + 4 * PAGE for address, size in segments)
    if inside:
        expected = [space.read_physical(address, size) for address, size in segments]
    try:
        lease = dma.owner("device").lend(segments, write=False)
    except MemoryFault:
        assert not inside
        return
    assert inside
    assert b"".join(lease.views) == b"".join(expected)
    assert len(lease.views) <= 2 * len(segments)
    lease.release()


def test_an_empty_piece_is_refused() -> None:
    _, dma, _ = make()
    owner = dma.owner("device")
    for segments in ([(LOW, 0)], [(LOW, 4), (LOW + 4, 0)], [(LOW, 4), (HIGH + PAGE, 0)], [(LOW, -4)]):
        with pytest.raises(MemoryFault):
            owner.lend(segments, write=False)
    nothing = owner.lend([], write=True)
    assert nothing.views == []
    nothing.release()
    assert dma.count == 0


def test_epochs() -> None:
    _, dma, _ = make()
    first, second = dma.owner("first"), dma.owner("second")
    lease, other = first.lend([(LOW, 1)], write=True), second.lend([(LOW, 1)], write=True)
    first.retire()
    assert (lease.stale, other.stale) == (True, False)
    dma.retire()
    assert other.stale
    assert not first.lend([(LOW, 1)], write=True).stale


def test_who_waits_is_told_when_the_last_one_is_back() -> None:
    _, dma, _ = make()
    owner, other = dma.owner("device"), dma.owner("other")
    told: list[str] = []
    owner.when_returned(lambda: told.append("nothing out"))
    leases = [owner.lend([(LOW, 1)], write=True) for _ in range(2)]
    last = other.lend([(LOW, 1)], write=True)
    owner.when_returned(lambda: told.append("device"))
    dma.when_returned(lambda: told.append("all"))
    leases[0].release()
    assert told == ["nothing out"]
    leases[1].park()
    assert told == ["nothing out", "device"], "a parked one is not waited for"
    leases[1].unpark()
    last.release()
    assert told[2:] == []
    leases[1].release()
    assert told[2:] == ["all"]
    parked = owner.lend([(LOW, 1)], write=True)
    parked.park()
    parked.park()
    parked.release()
    assert (owner.count, dma.count) == (0, 0)


def test_a_device_that_is_gone_is_still_waited_for() -> None:
    _, dma, _ = make()
    owner = dma.owner("device")
    lease = owner.lend([(LOW, 1)], write=True)
    owner.close()
    assert dma.owners == []
    assert (dma.count, lease.stale) == (1, True)
    lease.release()
    assert dma.count == 0


def test_memory_that_goes_away_is_forgotten() -> None:
    space, dma, _ = make()
    told: list[int] = []
    dma.on_ram_removed.append(lambda: told.append(1))
    assert dma.read(LOW, 1) == b"\0"
    block = space.section("low").block
    assert block is not None
    space.remove("rom")
    assert told == []
    space.remove("low")
    assert told == [1]
    with pytest.raises(MemoryFault):
        dma.read(LOW, 1)
    block.close()  # BufferError if anybody kept a view of it


def test_waiting_in_the_loop() -> None:
    async def main() -> None:
        thread = MachineThread()
        thread.start()
        space = AddressSpace()
        space.add_ram("ram", LOW, RamBlock("ram", PAGE))
        dma = Dma(space, thread.mailboxes)
        call = thread.mailboxes.call
        owner = dma.owner("device")
        try:
            await owner.returned()
            lease = await call(lambda: owner.lend([(LOW, 1)], write=True))
            waiting = [asyncio.ensure_future(owner.returned()), asyncio.ensure_future(dma.returned())]
            await call(lambda: None)
            assert not any(task.done() for task in waiting)
            await call(lease.release)
            async with asyncio.timeout(60):
                await asyncio.gather(*waiting)
        finally:
            await thread.end()

    asyncio.run(main())
