"""What firmware is told: the registers, copies into memory, and the options of the command line, beside QEMU's."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.nvram import FwCfgMemOptions
from qemud.hw.nvram.fw_cfg import FwCfgMem, Item
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from qemud.qom.object import Root
from qemud.qom.state import load_tree, save_tree
from tests.hw.support import Vm
from tests.hw.virtio.driver import BASE, RAM, add_ram
from tests.programs import QEMU, QEMUD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

AT = 0x1010_0000
CTL, DMA = AT + 8, AT + 16
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16


class Guest:
    """Firmware that reads items."""

    def __init__(self, options: FwCfgMemOptions | None = None) -> None:
        self.vm = Vm()
        add_ram(self.vm)
        self.root = Root()
        self.device = self.root.add_child("fw_cfg", FwCfgMem(options))
        self.device.add(Item.UUID, bytes(range(16)))
        self.device.add_file("opt/b", b"second")
        self.device.add_file("opt/a", b"first")
        self.device.bring_up(self.vm)
        for index, at in enumerate((AT, CTL, DMA)[: len(self.device.mmio)]):
            self.device.map(index, at)
        reset_tree(self.root)

    def store(self, address: int, value: int, size: int) -> None:
        section = self.vm.memory.find(address)
        assert section is not None
        section.cpu_write(address - section.base, value, size)

    def load(self, size: int) -> bytes:
        section = self.vm.memory.find(AT)
        assert section is not None
        return section.cpu_read(0, size).to_bytes(size, "little")

    def select(self, key: int) -> None:
        self.store(CTL, int.from_bytes(key.to_bytes(2, "big"), "little"), 2)

    def item(self, key: int, size: int) -> bytes:
        self.select(key)
        return b"".join(self.load(1) for _ in range(size))

    def dma(self, control: int, length: int, target: int, at: int = BASE) -> int:
        if BASE <= at <= BASE + RAM - 16:
            self.vm.memory.write_physical(at, struct.pack(">IIQ", control, length, target))
        address = at.to_bytes(8, "big")
        self.store(DMA, int.from_bytes(address[:4], "little"), 4)
        self.store(DMA + 4, int.from_bytes(address[4:], "little"), 4)
        return (
            int.from_bytes(self.vm.memory.read_physical(at, 4), "big")
            if BASE <= at <= BASE + RAM - 16
            else -1
        )


def test_items_are_read_byte_by_byte_and_in_words() -> None:
    guest = Guest()
    assert guest.load(4) == b"QEMU"  # which is selected from the first
    assert guest.item(Item.ID, 4) == b"\3\0\0\0"
    assert guest.item(Item.UUID, 20) == bytes(range(16)) + bytes(4)
    guest.select(Item.UUID)
    assert guest.load(8) == bytes(range(8))
    assert guest.load(2) == b"\x08\x09"
    assert guest.load(8) == bytes(range(10, 16)) + bytes(2)
    assert guest.item(0x7777, 3) == bytes(3)
    assert guest.item(0xFFFF, 3) == bytes(3)


def test_the_directory_is_in_the_order_of_names() -> None:
    guest = Guest()
    content = guest.item(Item.FILE_DIR, 4 + 2 * 64)
    assert content[:4] == b"\0\0\0\2"
    entries = [struct.unpack(">IHH56s", content[4 + 64 * n : 68 + 64 * n]) for n in range(2)]
    assert [(size, key, name.rstrip(b"\0")) for size, key, _, name in entries] == [
        (5, 0x20, b"opt/a"),
        (6, 0x21, b"opt/b"),
    ]
    assert guest.item(0x20, 5) == b"first"
    assert guest.item(0x21, 6) == b"second"


def test_copies_into_memory() -> None:
    guest = Guest()
    memory = guest.vm.memory
    target = BASE + 0x1000
    assert memory.read_physical(DMA, 8) == b"QEMU CFG"
    memory.write_physical(target, b"\xee" * 16)
    assert guest.dma(0x20 << 16 | SELECT | READ, 8, target) == 0
    assert memory.read_physical(target, 9) == b"first\0\0\0\xee"
    assert guest.dma(0x21 << 16 | SELECT | SKIP, 2, 0) == 0
    assert guest.dma(READ, 2, target) == 0
    assert memory.read_physical(target, 2) == b"co"
    assert guest.load(2) == b"nd"
    assert guest.dma(WRITE, 1, target) == ERROR
    assert guest.dma(SKIP, 0xFFFF_FFFF, 0) == 0
    assert guest.load(1) == b"\0"
    # All at once.
    memory.write_physical(BASE, struct.pack(">IIQ", 0x21 << 16 | SELECT | READ, 6, target))
    guest.store(DMA, int.from_bytes(BASE.to_bytes(8, "big"), "little"), 8)
    assert memory.read_physical(target, 6) == b"second"


@pytest.mark.parametrize("target", [0, AT, BASE + RAM - 4, BASE + RAM, (1 << 64) - 4])
def test_copies_to_where_there_is_no_memory(target: int) -> None:
    guest = Guest()
    assert guest.dma(0x21 << 16 | SELECT | READ, 6, target) == ERROR
    for at in (0, AT, DMA, BASE + RAM - 8, (1 << 64) - 8):
        guest.dma(READ, 6, BASE, at=at)


def test_without_copies_and_states() -> None:
    guest = Guest(FwCfgMemOptions(dma_enabled=False))
    assert guest.item(Item.ID, 4) == b"\1\0\0\0"
    assert len(guest.device.mmio) == 2
    guest.select(0x21)
    guest.load(2)
    saved = save_tree(guest.root)
    reset_tree(guest.root)
    assert guest.load(4) == b"QEMU"
    load_tree(guest.root, saved)
    assert guest.load(4) == b"cond"
    device = FwCfgMem(FwCfgMemOptions(x_file_slots=1))
    device.add_file("a", b"")
    for name in ("a", "b"):
        with pytest.raises(GenericError):
            device.add_file(name, b"")


@pytest.mark.differential
@pytest.mark.parametrize(
    "text",
    [
        "name=opt/x",
        "file=/dev/null",
        "name=opt/x,string=a,file=/dev/null",
        f"name=opt/{'x' * 52},string=a",
        "opt/x,string=",
        "opt/x,file=/nonexistent/file",
        "opt/x,string=a,nope=1",
    ],
)
def test_what_is_refused_on_the_command_line(text: str) -> None:
    said = []
    for command in (QEMUD, QEMU):
        options = ("-machine", "virt", "-display", "none", "-nodefaults", "-S", "-fw_cfg", text)
        run = subprocess.run([command, *options], capture_output=True, text=True, check=False, timeout=60)
        said.append((run.returncode, run.stderr.replace(command, "qemu").splitlines()[:1]))
    assert said[0] == said[1]


def test_items_of_the_command_line(daemon: Starter, tmp_path: Path) -> None:
    file = tmp_path / "content"
    file.write_bytes(b"from a file")
    program = daemon(
        *("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S"),
        *("-fw_cfg", f"name=opt/f,file={file}", "-fw_cfg", "opt/s,string=text"),
    )
    found = program.qmp.command("qom-list", path="/machine/fw_cfg")
    assert {"name": "dma_enabled", "type": "bool"} in found
