"""The board: its map and its tree beside QEMU's, what it boots, and what it refuses."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.hw_riscv import VirtMachineOptions
from qemud._generated.types.machine import MachineProperties
from qemud.hw.boards import BOARDS, default_board, find_board, make_machine
from qemud.hw.boot.fdt import Node, cells, cells64, flatten, string, unflatten
from qemud.hw.boot.image import LoadError
from qemud.hw.riscv.virt import VirtMachine
from qemud.machine.memory import SectionKind
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from qemud.qom.tree import Tree
from tests.hw.support import FakeVcpu, Vm
from tests.hw.test_image import elf, image, put

if TYPE_CHECKING:
    from pathlib import Path

RAM = 0x8000_0000
MIB = 1 << 20


def make(*, ram_size: int = 64 * MIB, **options: Any) -> tuple[VirtMachine, Vm, FakeVcpu]:
    board = find_board("virt")
    assert board is not None
    machine = make_machine(board, VirtMachineOptions(**options))
    assert isinstance(machine, VirtMachine)
    machine.ram_size = ram_size
    vm = Vm()
    Tree().set_machine(machine)
    machine.bring_up(vm)
    reset_tree(machine)
    return machine, vm, vm.vcpus[0]


def tree_of(machine: VirtMachine) -> Node:
    assert machine.device_tree is not None
    return unflatten(machine.device_tree)


def get(root: Node, path: str) -> Node:
    node = root.find(path)
    assert node is not None, path
    return node


def test_regions_lie_where_qemu_has_them():
    _, vm, _ = make()
    found = {(section.base, section.size, section.kind) for section in vm.memory}
    mmio = SectionKind.MMIO
    assert found == {
        (0x1000, 0xF000, SectionKind.ROM),
        (0x100000, 0x1000, mmio),
        (0x101000, 0x24, mmio),
        (0x2000000, 0x4000, mmio),
        (0x2004000, 0x8000, mmio),
        (0xC000000, 0x600000, mmio),
        (0x10000000, 8, mmio),
        *((0x10001000 + 0x1000 * n, 0x200, mmio) for n in range(8)),
        (0x3000000, 0x10000, mmio),
        (0x20000000, 32 * MIB, mmio),
        (0x22000000, 32 * MIB, mmio),
        (0x10100000, 8, mmio),
        (0x10100008, 2, mmio),
        (0x10100010, 8, mmio),
        (0x30000000, 256 * MIB, mmio),
        (0x40000000, 1024 * MIB, mmio),
        (0x4_0000_0000, 16 * 1024 * MIB, mmio),
        (RAM, 64 * MIB, SectionKind.RAM),
    }


def test_interrupts_reach_the_hart_through_the_plic():
    machine, vm, vcpu = make()
    for source in (*range(1, 9), 10, 11):
        vm.memory.write_physical(0xC000000 + 4 * source, struct.pack("<I", 1))
    vm.memory.write_physical(0xC002080, struct.pack("<I", 0xFFF))
    machine.uart.write(1, 2, 1)
    assert vcpu.mip == 1 << 9
    claimed = struct.unpack("<I", vm.memory.read_physical(0xC201004, 4))[0]
    assert (claimed, vcpu.mip) == (10, 0)
    machine.virtio[7].irqs[0].raise_()
    assert struct.unpack("<I", vm.memory.read_physical(0xC201004, 4))[0] == 8
    vm.memory.write_physical(0x2000000, struct.pack("<I", 1))
    vm.memory.write_physical(0x2004000, struct.pack("<Q", 0))
    assert vcpu.mip == 1 << 3 | 1 << 7


@pytest.mark.needs("dtc")
def test_dtc_reads_the_tree_without_a_warning():
    for aclint in (False, True):
        machine, _, _ = make(aclint=aclint)
        done = subprocess.run(
            ["dtc", "-I", "dtb", "-O", "dts", "-o", "/dev/null"],
            input=machine.device_tree,
            capture_output=True,
            check=True,
        )
        assert done.stderr == b""


# What QEMU has and this board has not yet, and what differs on purpose.
_NOT_BUILT = ("/platform-bus@", "/pmu")
_OF_THE_PROCESSOR = (
    "riscv,isa",
    "riscv,isa-extensions",
    "riscv,cbom-block-size",
    "riscv,cboz-block-size",
    "riscv,cbop-block-size",
)


@pytest.mark.differential
@pytest.mark.parametrize("aclint", [False, True])
def test_the_tree_is_qemus_for_all_that_exists(tmp_path: Path, aclint: bool):
    blob = tmp_path / "qemu.dtb"
    options = f"virt,aclint={'on' if aclint else 'off'},dumpdtb={blob}"
    subprocess.run(
        ["qemu-system-riscv64", "-M", options, "-m", "64", "-display", "none"],
        check=True,
        capture_output=True,
    )
    theirs = dict(unflatten(blob.read_bytes()).walk())
    if aclint:
        # QEMU names the node by its second range, which dtc warns of.
        theirs["/soc/mtimer@200bff8"] = theirs.pop("/soc/mtimer@2004000")
    machine, _, _ = make(aclint=aclint)
    ours = dict(tree_of(machine).walk())
    assert set(ours) == {path for path in theirs if not path.startswith(_NOT_BUILT)}
    for path, node in ours.items():
        mine, other = dict(node.properties), dict(theirs[path].properties)
        for name in _OF_THE_PROCESSOR:
            mine.pop(name, None)
            other.pop(name, None)
        if path == "/cpus/cpu@0/interrupt-controller" or "swi@" in path:
            assert mine.pop("#address-cells") == cells(0)
        if path == "/chosen":
            assert len(mine.pop("rng-seed")) == len(other.pop("rng-seed"))
        assert mine == other, path
    # Linux numbers disks and ports as it finds them.
    slots = [[path for path in tree if "virtio_mmio" in path] for tree in (ours, theirs)]
    assert slots[0] == slots[1]


def test_the_kernel_is_started_in_s_mode_with_hart_and_tree(tmp_path: Path):
    kernel = put(tmp_path / "Image", image(image_size=3 * MIB))
    initrd = put(tmp_path / "initrd", b"ramdisk")
    machine, vm, vcpu = make(kernel=kernel, initrd=initrd, append="console=ttyS0 quiet")
    assert (vcpu.pc, vcpu.mode, vcpu.x[10]) == (RAM + 2 * MIB, 1, 0)
    assert vcpu.x[11] == RAM + 62 * MIB
    assert vm.memory.read_physical(RAM + 2 * MIB, 2) == b"MZ"
    start = RAM + 34 * MIB
    assert vm.memory.read_physical(start, 7) == b"ramdisk"
    chosen = get(tree_of(machine), "/chosen")
    assert chosen["linux,initrd-start"] == cells64(start)
    assert chosen["linux,initrd-end"] == cells64(start + 7)
    assert chosen["bootargs"] == string("console=ttyS0 quiet")
    assert chosen["stdout-path"] == string("/soc/serial@10000000")
    blob = machine.device_tree
    assert blob is not None
    assert vm.memory.read_physical(vcpu.x[11], len(blob)) == blob
    assert vcpu.csrs[0x302] == 0xB1FF
    assert vcpu.csrs[0x303] == 0x222


def test_the_ramdisk_never_lies_upon_a_large_kernel(tmp_path: Path):
    kernel = put(tmp_path / "Image", image(image_size=40 * MIB))
    machine, _, _ = make(kernel=kernel, initrd=put(tmp_path / "initrd", b"ramdisk"))
    assert get(tree_of(machine), "/chosen")["linux,initrd-start"] == cells64(RAM + 42 * MIB)


def test_a_reset_begins_anew_with_other_seeds(tmp_path: Path):
    machine, vm, vcpu = make(kernel=put(tmp_path / "Image", image()))
    first = get(tree_of(machine), "/chosen")["rng-seed"]
    vm.memory.write_physical(RAM + 2 * MIB, bytes(64))
    vcpu.pc = 0
    reset_tree(machine)
    assert vcpu.pc == RAM + 2 * MIB
    assert vm.memory.read_physical(RAM + 2 * MIB, 2) == b"MZ"
    second = get(tree_of(machine), "/chosen")["rng-seed"]
    assert len(first) == 32
    assert first != second


def test_without_a_kernel_the_hart_waits_at_the_reset_vector():
    _, vm, vcpu = make()
    assert (vcpu.pc, vcpu.mode) == (0x1000, 3)
    # QEMU's code, which leads to a loop behind it: there is nothing in memory to go to.
    assert vm.memory.read_physical(0x1000, 8) == struct.pack("<2I", 0x297, 0x2828613)
    (parked,) = struct.unpack("<Q", vm.memory.read_physical(0x1018, 8))
    assert vm.memory.read_physical(parked, 8) == struct.pack("<2I", 0x10500073, 0xFFDFF06F)


def test_firmware_begins_in_m_mode_with_the_kernel_behind_it(tmp_path: Path):
    firmware = put(tmp_path / "fw.bin", bytes(3 * MIB))
    kernel = put(tmp_path / "u-boot.bin", b"u-boot")
    machine, vm, vcpu = make(firmware=firmware, kernel=kernel)
    assert (vcpu.pc, vcpu.mode, vcpu.on_ecall) == (0x1000, 3, None)
    code = vm.memory.read_physical(0x1000, 88)
    start, fdt, magic, version, entry, mode, options, hart = struct.unpack_from("<8Q", code, 24)
    assert (start, magic, version, mode, options, hart) == (RAM, 0x4942534F, 2, 1, 0, 0)
    assert entry == RAM + 4 * MIB
    assert vm.memory.read_physical(entry, 6) == b"u-boot"
    assert vm.memory.read_physical(fdt, 4) == b"\xd0\x0d\xfe\xed"
    assert "sbi" not in machine.children


def test_an_elf_firmware_is_entered_where_it_says(tmp_path: Path):
    firmware = put(tmp_path / "fw.elf", elf((RAM, RAM, b"code", 0x1000), entry=RAM + 0x10))
    _, vm, _ = make(firmware=firmware)
    assert struct.unpack("<Q", vm.memory.read_physical(0x1018, 8))[0] == RAM + 0x10
    assert struct.unpack("<Q", vm.memory.read_physical(0x1038, 8))[0] == 0


def test_no_firmware_at_all_begins_where_ram_does(tmp_path: Path):
    _, vm, vcpu = make(firmware="none", kernel=put(tmp_path / "program", b"\x13\0\0\0"))
    assert (vcpu.pc, vcpu.mode) == (0x1000, 3)
    assert struct.unpack("<Q", vm.memory.read_physical(0x1018, 8))[0] == RAM
    assert vm.memory.read_physical(RAM, 4) == b"\x13\0\0\0"


def test_the_reset_vector_is_what_the_disassembler_calls_it(tmp_path: Path):
    _, vm, _ = make(firmware="none")
    code = tmp_path / "code.bin"
    code.write_bytes(vm.memory.read_physical(0x1000, 24))
    # fields: auipc t0; addi a2,t0,40; csrr a0,mhartid; ld a1,32(t0); ld t0,24(t0); jr t0
    words = struct.unpack("<6I", code.read_bytes())
    assert words[1] >> 20 == 40
    assert words[2] >> 20 == 0xF14
    assert (words[3] >> 20, words[4] >> 20) == (32, 24)


def test_a_users_device_tree_is_taken_with_the_boots_own_properties(tmp_path: Path):
    root = Node("")
    root["model"] = string("mine")
    root.child("chosen")["rng-seed"] = bytes(16)
    machine, _, _ = make(
        dtb=put(tmp_path / "my.dtb", flatten(root)), kernel=put(tmp_path / "Image", image()), append="a b"
    )
    tree = tree_of(machine)
    assert tree["model"] == string("mine")
    assert get(tree, "/chosen")["bootargs"] == string("a b")
    assert get(tree, "/chosen")["rng-seed"] != bytes(16)
    assert tree.find("/soc") is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"initrd": "/x"}, "-initrd only allowed with -kernel option"),
        ({"append": "x"}, "-append only allowed with -kernel option"),
        ({"kernel": "/nonexistent"}, "could not load kernel '/nonexistent'"),
        ({"firmware": "/nonexistent"}, 'Unable to find the RISC-V BIOS "/nonexistent"'),
        ({"dtb": "/nonexistent"}, "Unable to get size of device tree file '/nonexistent'"),
        ({"dtb": "/dev/null"}, "Device tree file '/dev/null' is no device tree: "),
    ],
)
def test_what_cannot_be_booted_is_refused_in_a_sentence(options: dict[str, Any], text: str):
    with pytest.raises(GenericError) as error:
        make(**options)
    assert str(error.value).startswith(text)


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path):
    kernel = put(tmp_path / "Image", image(image_size=3 * MIB))
    with pytest.raises(GenericError, match="No enough memory to place DTB after kernel/initrd"):
        make(ram_size=5 * MIB, kernel=kernel)
    initrd = put(tmp_path / "initrd", bytes(3 * MIB))
    with pytest.raises(LoadError, match="could not load ramdisk"):
        make(ram_size=8 * MIB, kernel=kernel, initrd=initrd)
    far = put(tmp_path / "far", elf((0, 0x4000_0000, b"x", 1)))
    with pytest.raises(GenericError, match="but there is no memory at 0x40000000"):
        make(kernel=far)


def test_names_that_clients_of_qemu_know():
    machine, _, _ = make()
    tree = Tree()
    machine.unparent()
    tree.set_machine(machine)
    for path, target in machine.legacy_paths().items():
        tree.add_alias(path, target)
    names = {
        "/machine/soc0/harts[0]": "rv64-riscv-cpu",
        "/machine/unattached/device[2]": "riscv.sifive.plic",
        "/machine/unattached/device[11]/virtio-mmio-bus.7": "virtio-mmio-bus",
        "/machine/unattached/device[14]": "serial-mm",
        "/machine/unattached/device[15]": "goldfish_rtc",
    }
    for path, type_name in names.items():
        assert tree.get(path).type_name == type_name
    hart = tree.get("/machine/soc0/harts[0]")
    assert all(hart.is_a(name) for name in ("device", "cpu", "riscv-cpu"))


def test_a_machine_can_be_taken_down():
    machine, vm, vcpu = make()
    machine.take_down()
    assert {section.kind for section in vm.memory} == {SectionKind.RAM, SectionKind.ROM}
    assert vcpu.on_ecall is None


def test_boards_are_known_by_name_and_alias():
    assert [board.name for board in BOARDS][:3] == ["none", "virt-10.0", "virt-9.2"]
    assert [board.name for board in BOARDS if board.is_default] == ["virt-10.0"]
    newest, family = find_board("virt-10.0"), find_board("virt")
    assert newest is default_board()
    assert newest is not None
    assert family == newest._replace(qom_type="virt-machine")
    assert find_board("nope") is None


def test_the_board_none_has_memory_at_0_where_asked_for():
    board = find_board("none")
    assert board is not None
    for size, regions in ((0, []), (MIB, [(0, MIB)])):
        machine: Any = make_machine(board, MachineProperties())
        machine.ram_size = size
        Tree().set_machine(machine)
        vm = Vm()
        machine.bring_up(vm)
        assert [(section.base, section.size) for section in vm.memory] == regions
    machine = make_machine(board, MachineProperties(kernel="/x"))
    Tree().set_machine(machine)
    with pytest.raises(GenericError, match="The -kernel parameter is not supported"):
        machine.bring_up(Vm())
