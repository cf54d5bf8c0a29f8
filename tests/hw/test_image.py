"""Kernels, firmware and ramdisks as files: what goes where, and what is refused."""

from __future__ import annotations

import gzip
import os
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.hw.boot.elf import ElfError, parse_elf
from qemud.hw.boot.image import BootPlan, LoadError, Part, load_firmware, load_initrd, load_kernel
from qemud.machine.memory import AddressSpace, RamBlock
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from pathlib import Path

RAM = 0x8000_0000
MIB = 1 << 20


def image(*, text_offset: int = 0x20_0000, image_size: int = 0, body: bytes = b"code") -> bytes:
    """A kernel with the header that RISC-V kernels have."""
    head = struct.pack(
        "<4s4xQQQII8x8s4s4x", b"MZ", text_offset, image_size, 0, 2, 0, b"RISCV\0\0\0", b"RSC\x05"
    )
    assert len(head) == 64
    return head + body


def elf(
    *segments: tuple[int, int, bytes, int],
    entry: int = 0x8000_0000,
    machine: int = 243,
    ident: bytes = b"\x02\x01",
) -> bytes:
    """A program with segments (virtual address, physical address, data, size in memory)."""
    count = len(segments)
    head = struct.pack(
        "<4s2s10xHHIQQQIHHHHHH", b"\x7fELF", ident, 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    offset = 64 + 56 * count
    table = body = b""
    for virtual, physical, data, size in segments:
        table += struct.pack("<IIQQQQQQ", 1, 5, offset + len(body), virtual, physical, len(data), size, 4096)
        body += data
    return head + table + body


def put(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def memory(size: int = 4 * MIB) -> AddressSpace:
    space = AddressSpace()
    space.add_ram("ram", RAM, RamBlock("ram", size))
    return space


def load(path: str, *, base: int | None = RAM, limit: int = 64 * MIB):
    return load_kernel(path, default_address=RAM + MIB, image_base=base, limit=limit)


def test_an_image_goes_where_its_header_says(tmp_path: Path):
    path = put(tmp_path / "Image", image(text_offset=0x3000, image_size=0x9000))
    kernel = load(path)
    assert (kernel.entry, kernel.low, kernel.high) == (RAM + 0x3000, RAM + 0x3000, RAM + 0xC000)
    assert load(path, base=None).low == RAM + MIB
    plan = BootPlan()
    plan.add(kernel.parts)
    space = memory()
    plan.check(space)
    plan.write(space)
    assert space.read_physical(RAM + 0x3000 + 64, 4) == b"code"


def test_a_compressed_image_is_decompressed(tmp_path: Path):
    path = put(tmp_path / "Image.gz", gzip.compress(image(text_offset=0x4000)))
    kernel = load(path)
    assert kernel.low == RAM + 0x4000
    assert bytes(kernel.parts[0].data) == image(text_offset=0x4000)


def test_anything_else_goes_to_the_default_address(tmp_path: Path):
    kernel = load(put(tmp_path / "raw", b"\x13\0\0\0"))
    assert (kernel.low, kernel.high) == (RAM + MIB, RAM + MIB + 4)


def test_an_elf_goes_where_it_says_with_its_zeros_and_its_entry_by_physical_address(tmp_path: Path):
    path = put(
        tmp_path / "vmlinux",
        elf((0xFFFF_0000, RAM, b"text", 4), (0xFFFF_1000, RAM + 0x1000, b"data", 0x800), entry=0xFFFF_0002),
    )
    kernel = load(path)
    assert (kernel.entry, kernel.low, kernel.high) == (RAM + 2, RAM, RAM + 0x1800)
    space = memory()
    space.write_physical(RAM + 0x1000, b"\xff" * 0x800)
    plan = BootPlan()
    plan.add(kernel.parts)
    plan.write(space)
    assert space.read_physical(RAM, 4) == b"text"
    assert space.read_physical(RAM + 0x1000, 0x800) == b"data" + bytes(0x7FC)


def test_a_pipe_is_read_at_once(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(image(body=bytes(200_000))))
    writer.start()
    kernel = load(str(path))
    writer.join()
    assert kernel.parts[0].size == 64 + 200_000


def test_files_are_read_again_at_every_reset(tmp_path: Path):
    path = put(tmp_path / "raw", b"first")
    kernel = load(path)
    plan = BootPlan()
    plan.add(kernel.parts)
    space = memory()
    plan.write(space)
    space.write_physical(RAM + MIB, b"guest")
    plan.write(space)
    assert space.read_physical(RAM + MIB, 5) == b"first"
    (tmp_path / "raw").write_bytes(b"x")
    with pytest.raises(GenericError, match="has become shorter: 1 bytes, expected 5"):
        plan.write(space)
    plan.close()
    plan.close()


def test_parts_that_overlap_or_lie_outside_memory_are_refused_with_names(tmp_path: Path):
    plan = BootPlan()
    plan.add([Part("firmware", RAM, bytes(16))])
    with pytest.raises(GenericError) as error:
        plan.add([Part("kernel", RAM + 15, bytes(16))])
    assert str(error.value) == (
        "'kernel' (0x8000000f-0x8000001e) overlaps 'firmware' (0x80000000-0x8000000f) in guest memory"
    )
    plan.add([Part("far", RAM + 4 * MIB - 8, bytes(16))])
    with pytest.raises(GenericError) as error:
        plan.check(memory())
    assert str(error.value) == "'far' needs 0x10 bytes at 0x803ffff8, but there is no memory at 0x80400000"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "0 bytes, expected 1 to"),
        (bytes(300), "300 bytes, expected 1 to 256"),
        (gzip.compress(bytes(300), mtime=0), "more than 256 bytes when decompressed"),
        (gzip.compress(b"x", mtime=0)[:-3], "not a whole gzip file"),
        (b"\x1f\x8bnonsense", "not a whole gzip file"),
        (elf((0, RAM, b"x", 1), machine=62), "an ELF file for machine 62, expected 243"),
        (elf((0, RAM, b"x", 1), ident=b"\x01\x01"), "not a 64-bit little-endian ELF file"),
        (elf(), "nothing to load"),
        (elf((0, RAM, b"x", 0)), "nothing to load"),
        (elf((0, RAM, b"abc", 2)), "segment 0 lies outside the file"),
        (elf((0, (1 << 64) - 1, b"x", 2)), "segment 0 lies outside the address space"),
        (elf((0, RAM, b"x", 1))[:100], "program headers lie outside the file"),
        (b"\x7fELF", "not an ELF file"),
    ],
)
def test_files_that_are_no_kernels(tmp_path: Path, data: bytes, detail: str):
    path = put(tmp_path / "kernel", data)
    with pytest.raises(LoadError) as error:
        load(path, limit=256)
    assert str(error.value) == f"could not load kernel '{path}'"
    assert detail in error.value.detail


def test_missing_files_in_qemus_words():
    with pytest.raises(LoadError) as error:
        load("/nonexistent")
    assert str(error.value) == "could not load kernel '/nonexistent'"
    assert error.value.detail == "/nonexistent: No such file or directory"
    with pytest.raises(LoadError, match="could not load kernel"):
        load("a\0b")
    with pytest.raises(LoadError, match="could not load ramdisk '/nonexistent'"):
        load_initrd("/nonexistent", address=RAM, limit=MIB)
    with pytest.raises(LoadError) as error:
        load_firmware("/nonexistent", default_address=RAM, limit=MIB)
    assert str(error.value) == 'Unable to find the RISC-V BIOS "/nonexistent"'
    with pytest.raises(LoadError, match="could not load firmware '/'"):
        load_firmware("/", default_address=RAM, limit=MIB)


def test_firmware_is_raw_or_elf(tmp_path: Path):
    firmware = load_firmware(put(tmp_path / "fw.bin", b"abcd"), default_address=RAM, limit=MIB)
    assert (firmware.entry, firmware.high) == (RAM, RAM + 4)
    path = put(tmp_path / "fw.elf", elf((RAM, RAM, b"abcd", 0x5000), entry=RAM + 2))
    firmware = load_firmware(path, default_address=0, limit=MIB)
    assert (firmware.entry, firmware.high) == (RAM + 2, RAM + 0x5000)


@given(st.data())
@settings(max_examples=150)
def test_a_damaged_elf_is_refused_or_stays_inside_the_file(data: st.DataObject):
    blob = bytearray(elf((RAM, RAM, b"text", 8), (RAM + 64, RAM + 64, b"data", 4)))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        program = parse_elf(bytes(blob[: data.draw(st.integers(0, len(blob)))]))
    except ElfError:
        return
    for segment in program.segments:
        assert len(segment.data) <= segment.size
        assert program.low <= segment.address <= segment.address + segment.size <= program.high <= 1 << 64
