"""Virtqueues and virtio-mmio slots, by a driver that knows the standard only."""

from __future__ import annotations

from random import Random  # noqa: TC003 - hypothesis reads annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.hw.virtio.mmio import Reg
from qemud.qapi.runtime.errors import GenericError
from tests.hw.virtio.devices import Echo, plug
from tests.hw.virtio.driver import (
    BASE,
    BUFFERS,
    EVENT_IDX,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    RAM,
    VERSION_1,
    WRITE,
    Driver,
)

MODERN = VirtioMmioOptions(force_legacy=False)
RINGS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


def make(*, packed: bool = False, wanted: int = ~0, size: int = 16) -> tuple[Echo, Driver]:
    device = Echo()
    device.options.packed = packed
    _, _, driver, _ = plug(device, MODERN)
    driver.start(wanted, size=size, packed=packed, count=2)
    return device, driver


@RINGS
@pytest.mark.parametrize("wanted", [~0, ~EVENT_IDX], ids=["event-idx", "flags"])
@pytest.mark.parametrize("indirect", [False, True], ids=["chain", "indirect"])
def test_requests_come_back_with_what_the_device_wrote(packed: bool, wanted: int, indirect: bool) -> None:
    _, driver = make(packed=packed, wanted=wanted)
    for turn in range(100):  # many times around the ring
        numbers = {}
        if wanted == ~0:
            driver.queues[turn % 2].want_interrupt_after(1)
        for n in range(turn % 4 + 1):
            text = f"request {turn}.{n}".encode()
            numbers[driver.add(turn % 2, [text[:3], text[3:]], [5, 20], indirect=indirect)] = text
        assert driver.kick(turn % 2)
        for number, written in driver.used(turn % 2):
            text = numbers.pop(number)
            assert driver.data(turn % 2, number, written) == text
        assert not numbers
        assert driver.interrupted()


@RINGS
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=60), st.randoms())
def test_requests_may_come_back_in_any_order(
    packed: bool, steps: list[tuple[int, int, bool]], random: Random
) -> None:
    device, driver = make(packed=packed, size=13 if packed else 16)
    device.keep = True
    expected: dict[int, bytes] = {}
    for add, finish, indirect in steps:
        for _ in range(add):
            queue = driver.queues[0]
            if (queue.room if packed else len(queue.free)) >= 3:
                text = random.randbytes(8)
                expected[driver.add(0, [text[:2], text[2:]], [8], indirect=indirect)] = text
        driver.kick(0)
        for _ in range(min(finish, len(device.kept))):
            device.answer(0, device.kept.pop(random.randrange(len(device.kept))))
        device.queues[0].notify()
        for number, written in driver.used(0):
            assert driver.data(0, number, written) == expected.pop(number)
    for element in device.kept:
        device.answer(0, element)
    for number, written in driver.used(0):
        assert driver.data(0, number, written) == expected.pop(number)
    assert not expected
    assert device.queues[0].in_use == 0


@RINGS
def test_interrupts_come_when_the_driver_wants_them(packed: bool) -> None:
    device, driver = make(packed=packed)
    device.keep = True
    for _ in range(4):
        driver.add(0, [b"x"], [1], indirect=True)
    driver.kick(0)
    driver.queues[0].want_interrupt_after(3)
    came = []
    for element in device.kept:
        device.answer(0, element)
        device.queues[0].notify()
        came.append(driver.interrupted())
    # The first one after a start is always told, since nobody knows what was told before.
    assert came == [True, False, True, False]


@RINGS
def test_without_the_event_index_a_flag_stops_interrupts(packed: bool) -> None:
    _, driver = make(packed=packed, wanted=~EVENT_IDX)
    driver.queues[0].no_interrupts(off=True)
    driver.add(0, [b"x"], [1])
    driver.kick(0)
    assert len(driver.used(0)) == 1
    assert not driver.interrupted()
    driver.queues[0].no_interrupts(off=False)
    driver.add(0, [b"x"], [1])
    driver.kick(0)
    assert driver.interrupted()


@RINGS
def test_kicks_are_wanted_only_after_the_queue_was_found_empty(packed: bool) -> None:
    device, driver = make(packed=packed)
    driver.add(0, [b"x"], [1])
    assert driver.kick(0)
    driver.add(0, [b"x"], [1])
    driver.add(0, [b"x"], [1])
    assert driver.kick(0)
    assert device.taken == 3


def test_the_slot_says_what_it_holds() -> None:
    device, driver = make()
    assert [driver.get(register) for register in (0, 4, 8, 12)] == [0x74726976, 2, 63, 0x554D4551]
    assert driver.offered() & VERSION_1
    assert driver.offered() & INDIRECT_DESC
    assert not driver.offered() & (1 << 24 | 1 << 27), "what only legacy drivers know"
    driver.set(Reg.QUEUE_SEL, 2)
    assert driver.get(Reg.QUEUE_NUM_MAX) == 0
    driver.set(Reg.QUEUE_SEL, 0)
    assert driver.get(Reg.QUEUE_NUM_MAX) == 1024
    assert driver.get(Reg.QUEUE_READY) == 1
    slot = driver.slot
    assert slot.read(Reg.CONFIG + 1, 1) == 2
    assert slot.read(Reg.CONFIG, 8) == 0x0807060504030201
    slot.write(Reg.CONFIG + 2, 0xBEEF, 2)
    assert device.content == b"\x01\x02\xef\xbe\x05\x06\x07\x08"
    assert slot.read(Reg.CONFIG + 6, 4) == 0xFFFFFFFF, "beyond the end"
    slot.write(Reg.CONFIG + 6, 0, 4)
    assert device.content[6:] == b"\x07\x08"


def test_a_change_of_the_configuration_is_told() -> None:
    device, driver = make()
    before = driver.get(Reg.CONFIG_GENERATION)
    device.config_changed()
    assert driver.get(Reg.INTERRUPT_STATUS) == 3
    assert driver.lines is not None
    assert driver.lines[0] == 1
    assert driver.get(Reg.CONFIG_GENERATION) == before + 1
    driver.set(Reg.INTERRUPT_ACK, 3)
    assert driver.lines[0] == 0
    driver.set(Reg.STATUS, 0)
    device.config_changed()
    assert driver.get(Reg.INTERRUPT_STATUS) == 0, "nobody is there to hear of it"


def test_features_that_are_not_offered_are_refused() -> None:
    device = Echo()
    _, _, driver, _ = plug(device, MODERN)
    driver.set(Reg.STATUS, 3)
    driver.set(Reg.DRIVER_FEATURES_SEL, 1)
    driver.set(Reg.DRIVER_FEATURES, 0x8000_0001)
    driver.set(Reg.STATUS, 11)
    assert driver.status == 3
    driver.set(Reg.DRIVER_FEATURES, 1)
    driver.set(Reg.STATUS, 11)
    assert driver.status == 11
    assert device.log[-1] == f"features {VERSION_1:#x}"


def test_a_platform_feature_must_be_taken() -> None:
    device = Echo()
    device.options.iommu_platform = True
    _, _, driver, _ = plug(device, MODERN)
    driver.set(Reg.STATUS, 3)
    driver.set(Reg.DRIVER_FEATURES_SEL, 1)
    driver.set(Reg.DRIVER_FEATURES, 1)
    driver.set(Reg.STATUS, 11)
    assert driver.status == 3


def test_the_legacy_interface() -> None:
    device = Echo()
    _, slot, driver, _ = plug(device, VirtioMmioOptions(force_legacy=True))
    assert driver.get(Reg.VERSION) == 1
    assert driver.offered() >> 32 == 0
    driver.start_legacy()
    assert driver.get(Reg.QUEUE_PFN) == BASE >> 12
    for register in (Reg.QUEUE_READY, Reg.CONFIG_GENERATION, Reg.QUEUE_DESC_LOW):
        assert driver.get(register) == 0
    for turn in range(50):
        number = driver.add(0, [b"%d" % turn, b"!"], [30], indirect=turn % 2 == 0)
        driver.kick(0)
        assert driver.used(0) == [(number, len(b"%d!" % turn))]
        assert driver.data(0, number).startswith(b"%d!" % turn)
    driver.set(Reg.QUEUE_PFN, 0)
    assert driver.status == 0
    assert device.log[-1] == "reset"
    assert slot.read(Reg.QUEUE_PFN, 4) == 0


def test_a_modern_slot_has_no_legacy_registers() -> None:
    _, driver = make()
    driver.set(Reg.QUEUE_PFN, 0)
    assert driver.status == 15
    driver.set(Reg.GUEST_PAGE_SIZE, 4096)
    assert driver.get(Reg.QUEUE_PFN) == 0


def test_a_queue_is_reset_alone() -> None:
    device, driver = make()
    device.keep = True
    driver.add(0, [b"x"], [1])
    driver.kick(0)
    driver.set(Reg.QUEUE_SEL, 0)
    driver.set(Reg.QUEUE_RESET, 1)
    assert driver.get(Reg.QUEUE_RESET) == 0
    assert driver.get(Reg.QUEUE_READY) == 0
    device.answer(0, device.kept[0])
    assert driver.used(0) == [], "the request was dropped with the queue"
    device.keep = False
    number = driver.add(1, [b"yes"], [3])
    driver.kick(1)
    assert driver.used(1) == [(number, 3)]


def test_a_reset_drops_requests_and_waits_for_leases() -> None:
    device, driver = make()
    device.keep = True
    driver.add(0, [b"x"], [4096])
    driver.kick(0)
    element = device.kept[0]
    lease = device.dma.lend(element.writable, write=True)
    driver.set(Reg.STATUS, 0)
    assert driver.vm.executor.holds == 1, "the processor waits"
    assert lease.stale
    lease.release()
    assert driver.vm.executor.holds == 0
    driver.start()
    device.answer(0, element)
    assert driver.used(0) == []


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([(BUFFERS, 0, 0)], "zero sized"),
        ([(BUFFERS, 1, WRITE), (BUFFERS, 1, 0)], "Incorrect order"),
        ([(BUFFERS, 24, INDIRECT)], "Invalid size for indirect"),
        ([(BUFFERS, 0, INDIRECT)], "Invalid size for indirect"),
        ([(BASE + RAM, 16, INDIRECT)], "Cannot map indirect"),
        ([(BASE + RAM - 16, 32, INDIRECT)], "Cannot map indirect"),
        ([(0, 4, 0), (BUFFERS, 4, WRITE)], "no memory at 0x0"),
        ([(BASE + RAM - 1, 2, 0), (BUFFERS, 4, WRITE)], "no memory at"),
        ([(BUFFERS, 4, 0), ((1 << 64) - 2, 4, WRITE)], "no memory at"),
        ([(BUFFERS, 0xFFFFFFFF, 0), (BUFFERS, 4, WRITE)], "no memory at"),
    ],
)
@RINGS
def test_what_a_driver_must_not_do_needs_a_reset(
    packed: bool, pieces: list[tuple[int, int, int]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    monkeypatch.setattr("qemud.hw.virtio.device.guest_error", lambda _room, text, **_: reasons.append(text))
    device, driver = make(packed=packed)
    driver.queues[0].add(pieces)
    driver.kick(0)
    assert driver.status == 15 | 64
    assert driver.get(Reg.INTERRUPT_STATUS) == 3
    assert why in reasons[0]
    taken = device.taken
    driver.set(Reg.INTERRUPT_ACK, 3)
    driver.add(1, [b"x"], [1])
    driver.set(Reg.QUEUE_NOTIFY, 1)
    assert device.taken == taken, "a broken device does nothing"
    assert not driver.interrupted()
    driver.start(packed=packed, count=2)
    assert driver.status == 15
    number = driver.add(0, [b"x"], [1])
    driver.kick(0)
    assert driver.used(0) == [(number, 1)]


def test_loops_and_indexes_of_a_split_ring() -> None:
    def broken(spoil: object) -> bool:
        device, driver = make(size=8)
        assert callable(spoil)
        spoil(driver)
        driver.set(Reg.QUEUE_NOTIFY, 0)
        return device.state.broken

    def loop(driver: Driver) -> None:
        queue = driver.queues[0]
        queue.describe(0, BUFFERS, 1, NEXT, 1)
        queue.describe(1, BUFFERS, 1, NEXT, 0)
        queue.publish(0)

    def beyond(driver: Driver) -> None:
        queue = driver.queues[0]
        queue.describe(0, BUFFERS, 1, NEXT, 8)
        queue.publish(0)

    def head(driver: Driver) -> None:
        driver.queues[0].publish(8)

    def leap(driver: Driver) -> None:
        driver.queues[0].avail_index = 8
        driver.queues[0].publish(0)

    def nested(driver: Driver) -> None:
        queue = driver.queues[0]
        queue._put(BUFFERS, "QIHH", BUFFERS + 64, 16, INDIRECT, 0)
        queue._put(BUFFERS + 64, "QIHH", BUFFERS + 128, 16, 0, 0)
        queue.describe(0, BUFFERS, 16, INDIRECT, 0)
        queue.publish(0)

    def table_loop(driver: Driver) -> None:
        queue = driver.queues[0]
        queue._put(BUFFERS, "QIHH", BUFFERS, 16, NEXT, 0)
        queue.describe(0, BUFFERS, 16, INDIRECT, 0)
        queue.publish(0)

    for spoil in (loop, beyond, head, leap, nested, table_loop):
        assert broken(spoil), spoil


def test_rings_outside_of_memory_need_a_reset() -> None:
    device = Echo()
    _, _, driver, _ = plug(device, MODERN)
    driver.set(Reg.STATUS, 3)
    driver.set(Reg.DRIVER_FEATURES_SEL, 1)
    driver.set(Reg.DRIVER_FEATURES, 1)
    driver.set(Reg.STATUS, 15)
    driver.set(Reg.QUEUE_NUM, 16)
    driver.set(Reg.QUEUE_DESC_HIGH, 0xFFFFFFFF)
    driver.set(Reg.QUEUE_READY, 1)
    assert driver.status & 64
    driver.set(Reg.QUEUE_NOTIFY, 0)
    assert device.taken == 0


@RINGS
def test_a_device_is_saved_and_loaded_by_value(packed: bool) -> None:
    device, driver = make(packed=packed)
    for _ in range(21):
        driver.add(0, [b"abc"], [3])
        driver.kick(0)
        driver.used(0)
    device.keep = True
    first = driver.add(0, [b"one"], [3])
    second = driver.add(0, [b"two"], [3])
    driver.kick(0)
    held = [element.save() for element in device.kept]
    saved, slot_saved = device.save(), driver.slot.save()
    content = driver.vm.memory.read_physical(BASE, RAM)

    other = Echo()
    other.options.packed = packed
    vm, slot, new, lines = plug(other, MODERN)
    vm.memory.write_physical(BASE, content)
    other.load(saved)
    slot.load(slot_saved)
    new.queues, new._written, new.features = driver.queues, driver._written, driver.features
    for queue in new.queues:
        queue.memory = vm.memory
    assert lines[0] == driver.lines[0]  # type: ignore[index]
    assert new.status == 15
    for state in reversed(held):
        element = other.queues[0].load_element(state)
        assert element is not None
        other.answer(0, element)
    assert [number for number, _ in new.used(0)] == [second, first]
    for _ in range(40):
        number = new.add(0, [b"abc"], [3])
        new.kick(0)
        assert new.used(0) == [(number, 3)]


def test_a_state_that_cannot_be_is_refused() -> None:
    device, _ = make()
    saved = device.save()
    for change in (
        {"queues": saved["queues"][:1]},
        {"features": 1 << 63},
        {"queues": [saved["queues"][0], saved["queues"][1] | {"size": 2000}]},
        {"queues": [saved["queues"][0], saved["queues"][1] | {"in-use": 100}]},
    ):
        with pytest.raises(GenericError):
            device.load(saved | change)
    assert device.state.status == 15


def test_a_packed_queue_is_saved_within_itself() -> None:
    device, _ = make(packed=True)
    saved = device.save()
    for member in ("last-avail", "used-index"):
        with pytest.raises(GenericError, match="a packed queue of 16 buffers is at 16"):
            device.load(saved | {"queues": [saved["queues"][0], saved["queues"][1] | {member: 16}]})


def test_a_ring_whose_memory_goes_away_needs_a_reset() -> None:
    device, driver = make()
    driver.vm.memory.remove("ram")
    assert device.state.broken
    driver.set(Reg.QUEUE_NOTIFY, 0)
    assert device.taken == 0


def test_unplugging_empties_the_slot() -> None:
    device, driver = make()
    device.take_down()
    assert driver.get(Reg.DEVICE_ID) == 0
    assert driver.get(Reg.MAGIC_VALUE) == 0x74726976
    driver.set(Reg.QUEUE_NOTIFY, 0)
    assert driver.vm.dma.owners == []
