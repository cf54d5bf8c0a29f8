"""A disk behind a port that the guest takes away while requests are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.pci import PcieRootPortOptions
from qemud.hw.pci.root_port import PcieRootPort
from qemud.hw.virtio import pci
from tests.hw.pci.rig import PciDriver, Rig
from tests.hw.pci.test_virtio import RNG, ask, open_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qom.device import Device

SLTCTL, SLTSTA = 0x6C, 0x6E
ON, BLINK, OFF = 0x100, 0x200, 0x700
CLASSES: dict[str, Any] = vars(pci)


class Slot(Rig):
    """A port with a device in it, whose leaving is noted."""

    def __init__(self, make: Callable[[], Device] = RNG) -> None:
        super().__init__()
        self.port = self.add("rp0", PcieRootPort(PcieRootPortOptions()))
        self.function = self.add("r0", make(), self.port.secondary)
        self.left: list[Device] = []
        self.refused: list[Device] = []
        self.function.on_leave = self._leave
        self.function.on_refusal = self.refused.append
        open_port(self, self.port)

    def _leave(self, device: Device) -> None:
        self.left.append(device)
        device.take_down()

    def control(self, value: int) -> None:
        self.write(self.config(self.port) + SLTCTL, value, 2)

    def status(self) -> int:
        return self.read(self.config(self.port) + SLTSTA, 2)


def test_a_port_whose_device_leaves_is_empty() -> None:
    rig = Slot()
    driver = PciDriver(rig, rig.function)
    driver.start(size=8)
    assert ask(driver)
    line = (rig.function.slot + rig.port.slot) % 4
    assert rig.lines[line] == 1
    assert rig.status() & 0x40
    assert not rig.port.request_unplug(rig.function)
    assert rig.status() & 1
    rig.control(BLINK)
    rig.control(OFF)
    assert rig.left == [rig.function]
    assert rig.lines[line] == 0  # whatever it had asked for
    assert rig.status() & 0x48 == 0x08
    assert rig.read(driver.base) == 0xFFFF_FFFF
    assert rig.read(driver.places[1]) == 0xFFFF_FFFF
    rig.control(ON)
    assert len(rig.left) == 1


def test_what_was_under_way_is_stale() -> None:
    rig = Slot()
    driver = PciDriver(rig, rig.function)
    driver.start(size=8)
    backend = rig.function.backend
    lease = backend.dma.lend([(0x8080_0000, 4096)], write=True)
    rig.control(OFF)
    assert rig.left == [rig.function]
    assert lease.stale
    assert backend.dma.count == 1
    lease.release()
    assert backend.dma.count == 0


@pytest.mark.parametrize("last", [ON, BLINK | 0x400, 0x300, 0x700])
def test_what_the_guest_wants_of_a_slot(last: int) -> None:
    """Off is power and indicator; the indicator alone says that the guest keeps the device, when it was asked."""
    rig = Slot()
    rig.function.unplug_deadline = 1
    rig.control(ON)
    rig.control(BLINK)
    rig.control(last)
    assert rig.left == ([rig.function] if last == OFF else [])
    assert rig.refused == ([rig.function] if last == ON else [])
    if last == BLINK | 0x400:
        # Without power, but not let go.
        assert rig.read(rig.config(rig.function)) == 0xFFFF_FFFF
        rig.control(BLINK)
        assert rig.read(rig.config(rig.function)) == 0x1044_1AF4
