"""Virtio devices behind PCI, by a driver that knows the standard only."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.common import OnOffAuto
from qemud._generated.types.pci import PciBridgeDevOptions, PcieRootPortOptions
from qemud._generated.types.virtio_pci import VirtioRngPciOptions
from qemud.hw.pci.pci_bridges import PciBridgeDev, PciePciBridge
from qemud.hw.pci.root_port import PcieRootPort
from qemud.hw.virtio import pci
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.state import load_tree, save_tree
from tests.hw.pci.rig import ECAM, HIGH, LOW, PIO, PciDriver, Rig
from tests.hw.virtio.driver import BASE, BUFFERS, EVENT_IDX, RINGS, VERSION_1, SplitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.hw.virtio.pci import VirtioPci

RNG: Callable[..., VirtioPci] = vars(pci)["VirtioRngPci"]
VECTORS = BASE + 0x10_0000
MSIX = 0x11


def make(options: VirtioRngPciOptions | None = None) -> tuple[Rig, VirtioPci, PciDriver]:
    rig = Rig()
    function = rig.add("r0", RNG(options))
    return rig, function, PciDriver(rig, function)


def ask(driver: PciDriver, size: int = 16) -> bytes:
    number = driver.add(0, [], [size])
    driver.kick(0)
    [(given, written)] = driver.used(0)
    assert given == number
    return driver.data(0, number, written)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("spread", [False, True], ids=["together", "page-per-vq"])
def test_requests_and_the_pin(packed: bool, spread: bool) -> None:
    rig, function, driver = make(VirtioRngPciOptions(packed=packed, page_per_vq=spread))
    driver.start(size=8, packed=packed)
    assert driver.multiplier == (4096 if spread else 4)
    data = {ask(driver) for _ in range(20)}
    assert len(data) == 20
    line = function.slot % 4
    assert rig.lines[line] == 1
    assert rig.read(rig.config(function) + 6, 2) & 8
    assert driver.interrupted()
    assert rig.lines[line] == 0
    assert not driver.interrupted()


def test_the_pin_can_be_disabled() -> None:
    rig, function, driver = make()
    driver.start(size=8)
    rig.write(driver.base + 4, 0x406, 2)
    ask(driver)
    assert rig.lines[function.slot % 4] == 0
    rig.write(driver.base + 4, 0x006, 2)
    assert rig.lines[function.slot % 4] == 1


def test_messages() -> None:
    rig, function, driver = make()
    rig.write(driver.base + 0x14, LOW + 0x1_0000)
    [at] = driver.capabilities[MSIX]
    table = LOW + 0x1_0000
    for vector in range(2):
        rig.write(table + 16 * vector, VECTORS + 4 * vector)
        rig.write(table + 16 * vector + 8, 0x1234 + vector)
    rig.write(driver.base + at + 2, 0x8000, 2)
    driver.start(~EVENT_IDX, size=8)
    common = driver.places[1]
    rig.write(common + 0x16, 0, 2)
    rig.write(common + 0x1A, 1, 2)
    assert rig.read(common + 0x1A, 2) == 1
    rig.write(common + 0x10, 77, 2)
    assert rig.read(common + 0x10, 2) == 0xFFFF
    # Masked: it waits.
    ask(driver)
    assert rig.read(VECTORS + 4) == 0
    assert rig.read(table + 2048) == 2
    rig.write(table + 16 + 12, 0)
    assert rig.read(VECTORS + 4) == 0x1235
    assert rig.read(table + 2048) == 0
    assert rig.lines[function.slot % 4] == 0
    # All masked, then not.
    rig.vm.memory.write_physical(VECTORS + 4, bytes(4))
    rig.write(driver.base + at + 2, 0xC000, 2)
    ask(driver)
    assert rig.read(VECTORS + 4) == 0
    rig.write(driver.base + at + 2, 0x8000, 2)
    assert rig.read(VECTORS + 4) == 0x1235
    # Addressed to its own registers, to others', to nothing: lost.
    for address in (driver.places[2], table, ECAM, PIO, 0, (1 << 64) - 4):
        rig.write(table + 16, address & 0xFFFF_FFFF)
        rig.write(table + 20, address >> 32)
        ask(driver)


def test_registers_through_the_configuration_space() -> None:
    rig, function, driver = make()
    config = function.config_at
    base = driver.base

    def window(offset: int, length: int) -> None:
        rig.write(base + config + 4, 4, 1)
        rig.write(base + config + 8, offset)
        rig.write(base + config + 12, length)

    window(0x14, 1)
    rig.write(base + config + 16, 1, 1)
    rig.write(base + config + 16, 3, 1)
    assert rig.read(base + config + 16, 1) == 3
    assert driver.status == 3
    for length in (0, 3, 8, 0xFFFF_FFFF):
        window(0, length)
        rig.write(base + config + 16, 0xFFFF_FFFF)
        rig.read(base + config + 16)
    window(0xFFFF_FFFF, 4)
    rig.write(base + config + 16, 0xFFFF_FFFF)
    rig.read(base + config + 16)
    assert driver.status == 3


def test_a_legacy_driver() -> None:
    rig, function, _ = make()
    base = rig.config(function)
    assert rig.read(base, 4) == 0x1005_1AF4
    rig.write(base + 0x10, 0x101)
    rig.write(base + 4, 1, 2)
    ports = PIO + 0x100
    rig.write(ports + 0x12, 0, 1)
    rig.write(ports + 0x12, 1, 1)
    rig.write(ports + 0x12, 3, 1)
    assert rig.read(base + 4, 2) == 5  # it may reach into memory, without having been told
    rig.write(ports + 4, rig.read(ports) & ~(1 << 29))
    rig.write(ports + 0x0E, 0, 2)
    size = rig.read(ports + 0x0C, 2)
    driver = PciDriver.__new__(PciDriver)
    driver.vm = rig.vm
    queue = SplitQueue(driver, size, RINGS)
    rig.vm.memory.write_physical(RINGS, bytes(queue.end - RINGS))
    rig.write(ports + 8, RINGS >> 12)
    assert rig.read(ports + 8) == RINGS >> 12
    rig.write(ports + 0x12, 7, 1)
    rig.vm.memory.write_physical(BUFFERS, bytes(64))
    queue.add([(BUFFERS, 64, 2)])
    rig.write(ports + 0x10, 0, 2)
    assert queue.used() == [(0, 64)]
    assert rig.vm.memory.read_physical(BUFFERS, 64) != bytes(64)
    line = function.slot % 4
    assert rig.lines[line] == 1
    assert rig.read(ports + 0x13, 1) == 1
    assert rig.lines[line] == 0
    assert rig.read(ports + 0x13, 1) == 0
    rig.write(ports + 8, 0)
    assert rig.read(ports + 0x12, 1) == 0


def test_without_bus_mastering_nothing_is_done() -> None:
    rig, _, driver = make()
    driver.start(size=8)
    rig.write(driver.base + 4, 2, 2)
    assert driver.status == 11
    driver.add(0, [], [16])
    driver.kick(0)
    assert driver.used(0) == []


def test_asleep_its_registers_do_not_answer() -> None:
    rig = Rig()
    port = rig.add("rp0", PcieRootPort(PcieRootPortOptions()))
    function = rig.add("r0", RNG(), port.secondary)
    open_port(rig, port)
    driver = PciDriver(rig, function)
    driver.start(size=8)
    assert ask(driver)
    assert rig.lines[(function.slot + port.slot) % 4] == 1
    rig.write(driver.base + function.pm_at + 4, 3, 2)
    assert rig.read(driver.places[1]) == 0xFFFF_FFFF
    rig.write(driver.base + function.pm_at + 4, 0, 2)
    assert driver.status == 15
    # And a reset of the function alone.
    control = driver.base + function.express_at + 8
    rig.write(control, rig.read(control, 2) | 0x8000, 2)
    assert rig.read(driver.base + 4, 2) == 0
    assert rig.lines[(function.slot + port.slot) % 4] == 0
    driver = PciDriver(rig, function)
    assert driver.status == 0


def open_port(rig: Rig, port: PcieRootPort) -> None:
    """One bus behind it, and all memory."""
    base = rig.config(port)
    rig.write(base + 0x18, 0x01_01_00)
    rig.write(base + 0x20, 0x7FF0_4000)
    rig.write(base + 0x24, 0xFFF1_0001)
    rig.write(base + 0x28, 4)
    rig.write(base + 0x2C, 7)
    rig.write(base + 4, 7, 2)


def test_a_port_lets_through_what_it_is_told() -> None:
    rig = Rig()
    port = rig.add("rp0", PcieRootPort(PcieRootPortOptions()))
    function = rig.add("r0", RNG(), port.secondary)
    open_port(rig, port)
    driver = PciDriver(rig, function)
    assert driver.status == 0
    base = rig.config(port)
    for register, value, size, closed in (
        (4, 5, 2, 7),  # its memory space is off
        (0x2C, 3, 4, 7),  # the window ends before it begins
        (0x28, 5, 4, 4),  # and begins behind it
    ):
        rig.write(base + register, value, size)
        assert rig.read(driver.places[1]) == 0xFFFF_FFFF, register
        rig.write(base + register, closed, size)
        assert rig.read(driver.places[1]) == 0
    # A reset of the bus behind it.
    driver.start(size=8)
    rig.write(base + 0x3E, 0x40, 2)
    rig.write(base + 0x3E, 0, 2)
    assert PciDriver(rig, function).status == 0
    # Another number for that bus.
    rig.write(base + 0x18, 0x07_07_00)
    assert rig.read(ECAM | 1 << 20) == 0xFFFF_FFFF
    assert rig.read(ECAM | 7 << 20) == 0x1044_1AF4
    # None of its own: the root bus is there already.
    rig.write(base + 0x18, 0)
    assert rig.read(ECAM | 7 << 20) == 0xFFFF_FFFF
    assert rig.read(ECAM) == 0x0008_1B36


def test_through_two_bridges() -> None:
    """Pins turn at each bridge; the devices behind have no PCI Express."""
    rig = Rig()
    outer = rig.add("b0", PciePciBridge(), addr="4")
    inner = rig.add("b1", PciBridgeDev(PciBridgeDevOptions(chassis_nr=3)), outer.secondary, addr="2")
    function = rig.add("r0", RNG(), inner.secondary, addr="7")
    for bridge, numbers in ((outer, 0x02_01_00), (inner, 0x02_02_01)):
        base = rig.config(bridge)
        rig.write(base + 0x18, numbers)
        rig.write(base + 0x20, 0x7FF0_4000)
        rig.write(base + 0x24, 0x0001_FFF1)  # closed
        rig.write(base + 4, 7, 2)
    assert rig.read(ECAM | 2 << 20 | 7 << 15) == 0x1005_1AF4
    assert rig.read(rig.config(function) + 0x100) == 0xFFFF_FFFF
    driver = PciDriver(rig, function, LOW)
    driver.start(size=8)
    assert ask(driver)
    assert rig.lines[(7 + 2 + 4) % 4] == 1
    assert driver.interrupted()
    assert rig.lines[(7 + 2 + 4) % 4] == 0


def test_what_lies_upon_each_other() -> None:
    rig = Rig()
    first, second = rig.add("r0", RNG()), rig.add("r1", RNG())
    one = PciDriver(rig, first)
    two = PciDriver(rig, second)  # at the same address
    one.set(0x70, 1)
    assert one.status == 1
    rig.write(one.base + 0x20, HIGH & 0xFFFF_FFFF | 0x10_0000)
    assert two.status == 0
    assert PciDriver(rig, first, HIGH + 0x10_0000).status == 1


def test_where_it_would_wrap_around_it_is_nowhere() -> None:
    rig = Rig()
    function = rig.add("r0", RNG())
    base = rig.config(function)
    rig.write(base + 4, 7, 2)
    for low, high in ((0xFFFF_FFFF, 0xFFFF_FFFF), (0xFFFF_C000, 0xFFFF_FFFF)):
        rig.write(base + 0x20, low)
        rig.write(base + 0x24, high)
        assert {bar.number: at for bar, at in function.mapped()}.get(4) is None
    rig.write(base + 0x20, 0)
    rig.write(base + 0x24, 0)
    assert {bar.number: at for bar, at in function.mapped()}[4] == 0
    # RAM, and the board's own devices, are not in reach.
    rig.write(base + 0x20, BASE)
    assert rig.read(BASE) == 0


def test_states_are_saved_and_loaded() -> None:
    rig, function, driver = make()
    driver.start(size=8)
    rig.write(driver.base + 0x14, LOW)
    rig.write(LOW, 0x1234)
    ask(driver)
    saved = save_tree(rig.root)
    line = function.slot % 4
    assert rig.lines[line] == 1
    rig.reset()
    assert rig.lines[line] == 0
    assert rig.read(driver.places[1] + 0x14, 1) == 0xFF
    load_tree(rig.root, saved)
    assert rig.lines[line] == 1
    assert driver.status == 15
    assert rig.read(LOW) == 0x1234
    assert driver.interrupted()
    assert ask(driver)
    path = function.path
    for name, wrong in (
        ("config", "00" * 256),
        ("config", "zz"),
        ("config", ""),
        ("msix-table", "00"),
        ("queue-vectors", [1]),
        ("queue-vectors", []),
    ):
        broken = {key: {**value} for key, value in saved.items()}
        broken[path]["state"] = {**saved[path]["state"], name: wrong}
        if name == "queue-vectors" and wrong:
            load_tree(rig.root, broken)
            continue
        with pytest.raises(GenericError):
            load_tree(rig.root, broken)


def test_only_legacy_and_only_modern() -> None:
    rig = Rig()
    old = rig.add("r0", RNG(VirtioRngPciOptions(disable_modern=True)))
    new = rig.add("r1", RNG(VirtioRngPciOptions(disable_legacy=OnOffAuto.ON)))
    assert 4 not in old.bars
    assert 0 not in new.bars
    assert not old.backend.host_features & VERSION_1
    assert not old.backend.offered(legacy=True) >> 32
    words = struct.unpack("<HH", old.config.data[:4])
    assert words == (0x1AF4, 0x1005)
    assert new.config.get16(2) == 0x1044
