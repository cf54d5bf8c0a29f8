"""Disks on a SCSI bus as a driver meets them."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.hw.scsi.rig import CHECK, GOOD, ScsiRig

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.hw.scsi.disk import ScsiDisk

BLOCKS = 4096
CONTENT = b"".join(b"%511d\n" % n for n in range(BLOCKS))
BOTH = pytest.mark.parametrize("slow", [False, True], ids=["at-once", "later"])
NO_MEDIUM, INVALID_OPCODE, INVALID_FIELD = (2, 0x3A, 0), (5, 0x20, 0), (5, 0x24, 0)
OUT_OF_RANGE, PARAM_LEN, PARAM = (5, 0x21, 0), (5, 0x1A, 0), (5, 0x26, 0)
WRITE_PROTECTED = (7, 0x27, 0)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def cached(disk: ScsiDisk) -> bool:
    return disk.write_cache


def part(first: int, count: int) -> bytes:
    return CONTENT[first * 512 : (first + count) * 512]


@BOTH
def test_reading_and_writing(tmp_path: Path, slow: bool) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, slow=slow) as rig:
            rig.gate.set()
            await rig.add(content=CONTENT)
            await rig.start()
            read = {
                6: bytes([0x08, 0, 0, 5, 3, 0]),
                10: struct.pack(">BBIBHB", 0x28, 0, 5, 0, 3, 0),
                12: struct.pack(">BBIIBB", 0xA8, 0, 5, 3, 0, 0),
                16: struct.pack(">BBQIBB", 0x88, 0, 5, 3, 0, 0),
                "fua": struct.pack(">BBIBHB", 0x28, 8, 5, 0, 3, 0),
            }
            for cdb in read.values():
                answer = await rig.command(cdb, room=1536)
                assert answer[:4] == (0, GOOD, 0, None)
                assert answer.data == part(5, 3)
            answer = await rig.command(read[10], room=4096)
            assert (answer.residual, answer.data) == (4096 - 1536, part(5, 3))
            assert (await rig.command(bytes([0x08, 0, 0, 0, 0, 0]), room=256 * 512)).data == part(0, 256)
            write = [
                bytes([0x0A, 0, 0, 10, 2, 0]),
                struct.pack(">BBIBHB", 0x2A, 0, 20, 0, 2, 0),
                struct.pack(">BBIIBB", 0xAA, 0, 30, 2, 0, 0),
                struct.pack(">BBQIBB", 0x8A, 8, 40, 2, 0, 0),
                struct.pack(">BBIBHB", 0x2E, 0, 50, 0, 2, 0),
            ]
            for n, cdb in enumerate(write):
                assert (await rig.command(cdb, data=bytes([65 + n]) * 1024))[:4] == (0, GOOD, 0, None)
            assert (await rig.command(bytes([0x35, *bytes(9)]))).status == GOOD
            assert rig.vm.dma.count == 0
        content = (tmp_path / "n0").read_bytes()
        for n in range(5):
            at = (10 + 10 * n) * 512
            assert content[at - 512 : at + 1536] == (
                part(9 + 10 * n, 1) + bytes([65 + n]) * 1024 + part(12 + 10 * n, 1)
            )

    run(main())


def test_what_is_not_on_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            for lba, count in ((BLOCKS, 1), (BLOCKS - 1, 2), ((1 << 64) - 1, 1), (1 << 63, 1)):
                cdb = struct.pack(">BBQIBB", 0x88, 0, lba, count, 0, 0)
                assert (await rig.command(cdb, room=512 * count)).sense == OUT_OF_RANGE
                cdb = struct.pack(">BBQIBB", 0x8A, 0, lba, count, 0, 0)
                assert (await rig.command(cdb, data=bytes(512 * count))).sense == OUT_OF_RANGE
            assert (await rig.command(struct.pack(">BBQIBB", 0x88, 0, BLOCKS, 0, 0, 0))).status == GOOD
            too_long = struct.pack(">BBQIBB", 0x88, 0, 0, 1 << 31, 0, 0)
            assert (await rig.command(too_long, room=512)).sense == INVALID_FIELD
            protect = struct.pack(">BBIBHB", 0x28, 0x20, 0, 0, 1, 0)
            assert (await rig.command(protect, room=512)).sense == INVALID_FIELD
            # The data are shorter than the command says, or for the other direction.
            read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 2, 0)
            assert (await rig.command(read, room=512)).response == 1
            assert (await rig.command(read, data=bytes(1024))).response == 1
            write = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 2, 0)
            assert (await rig.command(write, data=bytes(1023))).response == 1
            assert (await rig.command(write, room=1024)).response == 1
            assert (await rig.command(write, data=bytes(1024), room=1024)).response == 9
            assert (tmp_path / "n0").read_bytes() == CONTENT

    run(main())


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            more = {
                "serial": "S3RIAL",
                "vendor": "ACME",
                "product": "Disk",
                "ver": "1.0",
                "wwn": 0x5000C50015EA71AC,
                "port_wwn": 0x5000C50015EA71AD,
                "port_index": 3,
                "rotation_rate": 1,
                "physical_block_size": 4096,
                "min_io_size": 4096,
                "opt_io_size": 65536,
                "discard_granularity": 8192,
            }
            await rig.add(content=CONTENT, more=more)
            await rig.add(content=CONTENT, removable=True)
            await rig.start()
            answer = await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36)
            assert answer.data == bytes([0, 0, 5, 0x12, 31, 0, 0, 0x12]) + b"ACME    Disk            1.0\0"
            answer = await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36, target=1)
            assert answer.data[:2] == b"\0\x80"
            assert answer.data[8:] == b"QEMU    QEMU HARDDISK   2.5+"

            async def page(number: int) -> bytes:
                data = (await rig.command(bytes([0x12, 1, number, 0, 255, 0]), room=255)).data
                assert data[:3] == bytes([0, number, 0])
                assert not any(data[4 + data[3] :])
                return data[4 : 4 + data[3]]

            assert await page(0) == bytes([0, 0x80, 0x83, 0xB0, 0xB1, 0xB2])
            assert await page(0x80) == b"S3RIAL"
            assert await page(0x83) == (
                b"\2\0\0\6S3RIAL"
                b"\1\3\0\x08\x50\x00\xc5\x00\x15\xea\x71\xac"
                b"\x61\x93\0\x08\x50\x00\xc5\x00\x15\xea\x71\xad"
                b"\x61\x94\0\4\0\0\0\3"
            )
            limits = await page(0xB0)
            assert len(limits) == 0x3C
            assert struct.unpack_from(">BBHIIIIII", limits) == (1, 0, 8, 4194303, 128, 0, 2097152, 255, 16)
            assert (await page(0xB1))[:2] == b"\0\1"
            assert await page(0xB2) == bytes([0, 0xE0, 2, 0])
            for cdb in (bytes([0x12, 1, 0xC0, 0, 255, 0]), bytes([0x12, 0, 1, 0, 255, 0])):
                assert (await rig.command(cdb, room=255)).sense == INVALID_FIELD
            assert (
                await rig.command(bytes([0x12, 1, 0x80, 0, 255, 0]), room=255, target=1)
            ).sense == INVALID_FIELD

            data = (await rig.command(bytes([0x25, *bytes(9)]), room=8)).data
            assert struct.unpack(">II", data) == (BLOCKS - 1, 512)
            cdb = struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0)
            data = (await rig.command(cdb, room=32)).data
            assert struct.unpack_from(">QIBBB", data) == (BLOCKS - 1, 512, 0, 3, 0x80)
            assert (
                await rig.command(struct.pack(">BBIBHB", 0x25, 0, 1, 0, 0, 0), room=8)
            ).sense == INVALID_FIELD

    run(main())


def test_mode_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            disk = await rig.add(content=CONTENT)
            await rig.start()
            sense = bytes([0x1A, 0, 8, 0, 255, 0])
            data = (await rig.command(sense, room=255)).data
            assert data[:4] == bytes([4 + 8 + 20 - 1, 0, 0, 8])
            assert data[4:12] == BLOCKS.to_bytes(4, "big") + bytes([0, 0, 2, 0])
            assert data[12:15] == bytes([8, 0x12, 4])
            whole = (await rig.command(bytes([0x5A, 8, 0x3F, 0, 0, 0, 0, 1, 0, 0]), room=256)).data
            length = int.from_bytes(whole[:2], "big") + 2
            pages, at = [], 8
            while at < length:
                pages.append(whole[at])
                at += whole[at + 1] + 2
            assert (pages, at) == ([1, 4, 5, 8], length)

            def select(*page: int, flags: int = 0x10) -> tuple[bytes, bytes]:
                content = bytes(4) + bytes(page)
                return bytes([0x15, flags, 0, 0, len(content), 0]), content

            assert (await rig.command(*select(8, 1, 0))).status == GOOD
            assert not cached(disk)
            assert (await rig.command(sense, room=255)).data[14] == 0
            assert (await rig.command(bytes([0x1A, 0, 0x48, 0, 255, 0]), room=255)).data[14] == 4
            write = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0)
            assert (await rig.command(write, data=bytes(512))).status == GOOD
            assert (await rig.command(*select(8, 1, 4))).status == GOOD
            assert cached(disk)
            for wrong, expected in (
                (select(8, 1, 0x81), PARAM),
                (select(8, 2, 0), PARAM_LEN),
                (select(0x3F, 0), PARAM),
                (select(0x20, 0), PARAM),
                (select(8, 0x13, *bytes(0x13)), PARAM),
                (select(8, 1, 4, 8), PARAM_LEN),
                (select(8, 1, 4, flags=0), INVALID_FIELD),
                (select(8, 1, 4, flags=0x11), INVALID_FIELD),
                ((bytes([0x15, 0x10, 0, 0, 3, 0]), bytes(3)), PARAM_LEN),
                ((bytes([0x15, 0x10, 0, 0, 4, 0]), bytes([0, 0, 0, 8])), PARAM_LEN),
                ((bytes([0x15, 0x10, 0, 0, 8, 0]), bytes([0, 0, 0, 4, 0, 0, 0, 0])), PARAM),
            ):
                assert (await rig.command(*wrong)).sense == expected, wrong
            assert cached(disk)
            assert (await rig.command(bytes([0x1A, 0, 0xC8, 0, 255, 0]), room=255)).sense == (5, 0x39, 0)
            assert (await rig.command(bytes([0x1A, 0, 0x2A, 0, 255, 0]), room=255)).sense == INVALID_FIELD
            # Another size of blocks.
            descriptor = bytes([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x10, 0])
            assert (await rig.command(bytes([0x15, 0x10, 0, 0, 12, 0]), data=descriptor)).status == GOOD
            data = (await rig.command(bytes([0x25, *bytes(9)]), room=8)).data
            assert struct.unpack(">II", data) == (BLOCKS // 8 - 1, 4096)
            read = struct.pack(">BBIBHB", 0x28, 0, 1, 0, 1, 0)
            assert (await rig.command(read, room=4096)).data == part(8, 8)

    run(main())


@BOTH
def test_discarding_and_the_same_again(tmp_path: Path, slow: bool) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, slow=slow) as rig:
            rig.gate.set()
            await rig.add(content=CONTENT)
            await rig.start()

            def unmap(*ranges: tuple[int, int]) -> tuple[bytes, bytes]:
                listed = b"".join(struct.pack(">QII", lba, count, 0) for lba, count in ranges)
                content = struct.pack(">HHI", len(listed) + 6, len(listed), 0) + listed
                return struct.pack(">BBIBHB", 0x42, 0, 0, 0, len(content), 0), content

            assert (await rig.command(*unmap((0, 8), (16, 8), (5, 0)))).status == GOOD
            assert (await rig.command(*unmap((64, 8), (BLOCKS, 1)))).sense == OUT_OF_RANGE
            assert (await rig.command(*unmap())).status == GOOD
            cdb, content = unmap((128, 8))
            assert (await rig.command(cdb[:1] + b"\1" + cdb[2:], content)).sense == INVALID_FIELD
            short = struct.pack(">BBIBHB", 0x42, 0, 0, 0, 20, 0)
            assert (await rig.command(short, content[:20])).sense == PARAM_LEN

            same = struct.pack(">BBIBHB", 0x41, 0, 256, 0, 2048, 0)
            assert (await rig.command(same, b"ab" * 256)).status == GOOD
            zero = struct.pack(">BBQIBB", 0x93, 8, 2304, 16, 0, 0)
            assert (await rig.command(zero, bytes(512))).status == GOOD
            without = struct.pack(">BBQIBB", 0x93, 9, 2400, 16, 0, 0)
            assert (await rig.command(without)).status == GOOD
            assert (
                await rig.command(struct.pack(">BBQIBB", 0x93, 0, 0, 0, 0, 0), bytes(512))
            ).sense == INVALID_FIELD
            assert (
                await rig.command(struct.pack(">BBQIBB", 0x93, 2, 0, 1, 0, 0), bytes(512))
            ).sense == INVALID_FIELD
            far = struct.pack(">BBQIBB", 0x93, 0, BLOCKS - 1, 2, 0, 0)
            assert (await rig.command(far, bytes(512))).sense == OUT_OF_RANGE
            assert rig.vm.dma.count == 0
        content = (tmp_path / "n0").read_bytes()
        expected = (
            bytes(8 * 512)
            + part(8, 8)
            + bytes(8 * 512)
            + part(24, 40)
            + bytes(8 * 512)
            + part(72, 184)
            + b"ab" * (256 * 2048)
            + bytes(16 * 512)
            + part(2320, 80)
            + bytes(16 * 512)
            + part(2416, BLOCKS - 2416)
        )
        assert content == expected

    run(main())


def test_small_commands(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            for cdb in (
                bytes(6),
                bytes([0x16, *bytes(5)]),
                bytes([0x17, *bytes(5)]),
                bytes([0x56, *bytes(9)]),
                bytes([0x1E, 0, 0, 0, 1, 0]),
                bytes([0x1B, 0, 0, 0, 1, 0]),
                struct.pack(">BBIBHB", 0x2F, 0, 0, 0, 1, 0),
                struct.pack(">BBIBHB", 0x2B, 0, BLOCKS - 1, 0, 0, 0),
                bytes([0x04, *bytes(5)]),
            ):
                assert (await rig.command(cdb)).status == GOOD, cdb
            assert (await rig.command(struct.pack(">BBIBHB", 0x2B, 0, BLOCKS, 0, 0, 0))).sense == OUT_OF_RANGE
            verify = struct.pack(">BBIBHB", 0x2F, 2, 0, 0, 1, 0)
            assert (await rig.command(verify, data=bytes(512))).sense == INVALID_FIELD
            assert (await rig.command(bytes([0x16, 1, *bytes(4)]))).sense == INVALID_FIELD
            reserve_in = struct.pack(">BBIBHB", 0x5E, 0, 0, 0, 24, 0)
            assert (await rig.command(reserve_in, room=24)).sense == INVALID_OPCODE
            # What the last command had to say, and that nothing is left of it.
            ask = bytes([0x03, 0, 0, 0, 18, 0])
            data = (await rig.command(ask, room=18)).data
            assert (data[0], data[2], data[12]) == (0x70, 5, 0x20)
            data = (await rig.command(ask, room=18)).data
            assert (data[0], data[2], data[12]) == (0x70, 0, 0)
            data = (await rig.command(bytes([0x03, 1, 0, 0, 18, 0]), room=18)).data
            assert data[:2] == b"\x72\0"
            for op in (0x60, 0x7F, 0xC1, 0xFF):
                assert (await rig.command(bytes([op] * 16))).sense == INVALID_OPCODE
            for op in (0x46, 0x4A, 0x51, 0xAD, 0xBD):
                assert (
                    await rig.command(bytes([op, 1, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0]), room=4096)
                ).sense == (INVALID_FIELD), "for drives only"

    run(main())


def test_a_medium_that_cannot_be_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.node("ro", CONTENT, **{"read-only": True})
            await rig.add(drive="ro")
            await rig.start()
            write = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0)
            assert (await rig.command(write, data=bytes(512))).sense == WRITE_PROTECTED
            same = struct.pack(">BBIBHB", 0x41, 0, 0, 0, 1, 0)
            assert (await rig.command(same, data=bytes(512))).sense == WRITE_PROTECTED
            assert (await rig.command(bytes([0x1A, 0, 8, 0, 255, 0]), room=255)).data[2] == 0x80

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"drive": "none"}, "Property 'scsi-hd.drive' can't find value 'none'"),
        ({"channel": 1}, "bad scsi channel id: 1"),
        ({"scsi-id": 256}, "bad scsi device id: 256"),
        ({"lun": 16384}, "bad scsi device lun: 16384"),
        ({"scsi-id": 3, "lun": 7}, "lun already used by 'disk0'"),
        ({"serial": "x" * 37}, "The serial number can't be longer than 36 characters"),
        (
            {"serial": "x" * 21},
            "The serial number can't be longer than 20 characters when it is also used as the default for device_id",
        ),
        ({"logical_block_size": 4096}, "logical_block_size > physical_block_size not supported"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT, more={"scsi-id": 3, "lun": 7})
            with pytest.raises(GenericError, match=f"^{text}$".replace("(", r"\(")):
                await rig.add(content=CONTENT, more=options)
            assert len(rig.adapter.scsi_bus.devices) == 1
            assert [backend.device_id for backend in rig.graph.backends] == ["disk0"]

    run(main())


def test_no_drive(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            with pytest.raises(GenericError, match=r"^drive property not set$"):
                await rig.add(content=None)

    run(main())


def test_free_addresses(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            found = []
            for more in ({}, {}, {"scsi-id": 1}, {"lun": 5}, {"scsi-id": 0}, {"scsi-id": 3, "lun": 300}):
                disk = await rig.add(content=CONTENT, more=more)
                found.append((disk.target, disk.lun))
                assert disk.get_property("lun") == disk.lun
            assert found == [(0, 0), (1, 0), (1, 1), (0, 5), (0, 1), (3, 300)]
            await rig.start()

            async def report(target: int, lun: int = 0) -> list[int]:
                cdb = struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, 256, 0, 0)
                data = (await rig.command(cdb, room=256, target=target, lun=lun)).data
                count = int.from_bytes(data[:4], "big") // 8
                assert len(data) == 8 + 8 * count
                return [int.from_bytes(data[8 + 8 * n : 10 + 8 * n], "big") for n in range(count)]

            assert await report(0) == [0, 5, 1]
            assert await report(1) == [0, 1]
            assert await report(3) == [0, 0x4000 | 300]
            # Units that there are not, of a target that there is.
            answer = await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36, target=3)
            assert answer.data[0] == 0x3F
            assert answer.data[16:] == b"QEMU TARGET     2.5\0"
            answer = await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36, target=3, lun=1)
            assert answer.data[0] == 0x7F
            assert (
                await rig.command(bytes([0x12, 1, 0, 0, 36, 0]), room=36, target=3, lun=1)
            ).data == b"\0\0\1\0"
            assert (await rig.command(bytes(6), target=3, lun=1)).sense == (5, 0x25, 0)
            assert (await rig.command(bytes(6), target=3)).status == GOOD
            assert (await rig.command(bytes([0x03, 0, 0, 0, 18, 0]), room=18, target=3, lun=9)).data[
                12
            ] == 0x25
            assert (
                await rig.command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 0, 0), target=3)
            ).sense == INVALID_OPCODE
            # No such target at all.
            assert (await rig.command(bytes(6), target=9)).response == 3

    run(main())


def test_attentions(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start(quiet=False)
            inquiry = bytes([0x12, 0, 0, 0, 36, 0])
            assert (await rig.command(inquiry, room=36)).status == GOOD
            read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0)
            answer = await rig.command(read, room=512)
            assert (answer.status, answer.sense) == (CHECK, (6, 0x29, 0))
            assert (await rig.command(read, room=512)).data == part(0, 1)

    run(main())
