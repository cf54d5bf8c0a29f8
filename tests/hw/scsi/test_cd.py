"""Drives for CDs and DVDs: what they say, trays, media that change."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block import BlockdevChangeReadOnlyMode
from qemud.block.media import BlockHandlers
from qemud.qapi.runtime.errors import GenericError
from tests.hw.scsi.rig import GOOD, ScsiRig

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = 300
CONTENT = b"".join(b"%2047d\n" % n for n in range(BLOCKS))
NO_MEDIUM, CHANGED, GONE = (2, 0x3A, 0), (6, 0x28, 0), (6, 0x3A, 0)
READY = bytes(6)
OPEN, CLOSE = bytes([0x1B, 0, 0, 0, 2, 0]), bytes([0x1B, 0, 0, 0, 3, 0])
LOCK, UNLOCK = bytes([0x1E, 0, 0, 0, 1, 0]), bytes(6).replace(b"\0", b"\x1e", 1)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def moves(rig: ScsiRig) -> list[bool]:
    return [data["tray-open"] for name, data in rig.events if name == "DEVICE_TRAY_MOVED"]


def test_what_it_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add("scsi-cd", content=CONTENT)
            await rig.start()
            data = (await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36)).data
            assert data[:2] == b"\x05\x80"
            assert data[8:] == b"QEMU    QEMU CD-ROM     2.5+"
            data = (await rig.command(bytes([0x12, 1, 0, 0, 255, 0]), room=255)).data
            assert data[: 4 + data[3]] == b"\x05\0\0\x02\0\x83"
            data = (await rig.command(bytes([0x25, *bytes(9)]), room=8)).data
            assert struct.unpack(">II", data) == (BLOCKS - 1, 2048)
            read = struct.pack(">BBIBHB", 0x28, 0, 7, 0, 2, 0)
            assert (await rig.command(read, room=4096)).data == CONTENT[7 * 2048 : 9 * 2048]
            write = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0)
            assert (await rig.command(write, data=bytes(2048))).sense == (7, 0x27, 0)

            toc = struct.pack(">BBBBBBBHB", 0x43, 0, 0, 0, 0, 0, 0, 255, 0)
            data = (await rig.command(toc, room=255)).data[:20]
            assert data == struct.pack(">HBBBBBBIBBBBI", 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0x16, 0xAA, 0, BLOCKS)
            msf = bytes([0x43, 2]) + toc[2:]
            data = (await rig.command(msf, room=255)).data[:20]
            assert (data[8:12], data[16:20]) == (b"\0\0\2\0", b"\0\0\6\0")
            raw = bytes([0x43, 0, 2]) + toc[3:]
            data = (await rig.command(raw, room=255)).data
            assert int.from_bytes(data[:2], "big") == 46
            session = bytes([0x43, 0, 1]) + toc[3:]
            assert (await rig.command(session, room=255)).data[:4] == b"\0\x0a\1\1"
            assert (await rig.command(toc[:6] + b"\2" + toc[7:], room=255)).sense == (5, 0x24, 0)

            configuration = struct.pack(">BBHBBBHB", 0x46, 0, 0, 0, 0, 0, 255, 0)
            data = (await rig.command(configuration, room=255)).data
            assert (data[3], data[6:8], data[18], data[14]) == (36, b"\0\x08", 1, 0)
            information = struct.pack(">BBBBBBBHB", 0x51, 0, 0, 0, 0, 0, 0, 34, 0)
            assert (await rig.command(information, room=34)).data[:3] == b"\0\x20\x0e"
            dvd = struct.pack(">BBIBBHBB", 0xAD, 0, 0, 0, 0, 2052, 0, 0)
            assert (await rig.command(dvd, room=2052)).sense == (5, 0x30, 0), "it is a CD"
            data = (await rig.command(dvd[:7] + b"\xff" + dvd[8:], room=2052)).data
            assert int.from_bytes(data[:2], "big") == 18
            mechanism = struct.pack(">BBHHHHBB", 0xBD, 0, 0, 0, 0, 8, 0, 0)
            assert (await rig.command(mechanism, room=8)).data == bytes([0, 0, 0, 0, 0, 1, 0, 0])
            data = (await rig.command(bytes([0x5A, 0, 0x2A, 0, 0, 0, 0, 1, 0, 0]), room=256)).data
            assert data[6:10] == b"\0\0\x2a\x14"

    run(main())


def test_an_empty_drive(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add("scsi-cd", content=None)
            await rig.start()
            assert (await rig.command(READY)).sense == NO_MEDIUM
            assert (
                await rig.command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), room=2048)
            ).sense == NO_MEDIUM
            assert (await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36)).status == GOOD
            configuration = struct.pack(">BBHBBBHB", 0x46, 0, 0, 0, 0, 0, 8, 0)
            assert (await rig.command(configuration, room=8)).data[6:8] == b"\0\0"

    run(main())


def test_the_guest_moves_the_tray(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            disk = await rig.add("scsi-cd", content=CONTENT)
            await rig.start()
            assert (await rig.command(LOCK)).status == GOOD
            assert (await rig.command(OPEN)).sense == (5, 0x53, 2)
            assert (await rig.command(UNLOCK)).status == GOOD
            assert (await rig.command(OPEN)).status == GOOD
            assert (await rig.command(OPEN)).status == GOOD
            assert (await rig.command(READY)).sense == NO_MEDIUM
            status = struct.pack(">BBBBBBBHB", 0x4A, 1, 0, 0, 0x10, 0, 0, 8, 0)
            assert (await rig.command(status, room=8)).data == bytes([0, 4, 4, 0x10, 0, 1, 0, 0])
            assert (await rig.command(CLOSE)).status == GOOD
            assert (await rig.command(READY)).status == GOOD
            await rig.call(lambda: None)
            assert moves(rig) == [True, False]
            assert (await rig.command(OPEN)).status == GOOD
            await rig.call(disk.reset)
            assert not disk.tray_open, "a reset closes it"

    run(main())


def test_clients_change_the_medium(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            disk = await rig.add("scsi-cd", content=CONTENT)
            await rig.node("other", CONTENT[2048:])
            await rig.start()
            media = BlockHandlers(rig.services)
            await media.blockdev_open_tray(device=None, id="disk0", force=False)
            assert (await rig.command(READY)).sense == GONE
            assert (await rig.command(READY)).sense == NO_MEDIUM
            await media.blockdev_remove_medium(id="disk0")
            await media.blockdev_insert_medium(id="disk0", node_name="other")
            await media.blockdev_close_tray(device=None, id="disk0")
            assert (await rig.command(READY)).sense == GONE
            assert (await rig.command(READY)).sense == CHANGED
            assert (await rig.command(READY)).status == GOOD
            data = (await rig.command(bytes([0x25, *bytes(9)]), room=8)).data
            assert struct.unpack(">II", data) == (BLOCKS - 2, 2048)
            status = struct.pack(">BBBBBBBHB", 0x4A, 1, 0, 0, 0x10, 0, 0, 8, 0)
            assert (await rig.command(status, room=8)).data[4:6] == bytes([2, 2])
            assert (await rig.command(status, room=8)).data[4:6] == bytes([0, 2])
            assert moves(rig) == [True, False]

            # The guest holds it, is asked, and lets it go.
            assert (await rig.command(LOCK)).status == GOOD
            await media.blockdev_open_tray(device=None, id="disk0", force=False)
            assert not disk.tray_open
            assert (await rig.command(status, room=8)).data[4:6] == bytes([1, 2])
            try:
                await media.eject(device=None, id="disk0", force=False)
            except GenericError as error:
                assert str(error) == (  # noqa: PT017 - what is raised is the point
                    "Device 'disk0' is locked and force was not specified, wait for tray to open and try again"
                )
            else:
                raise AssertionError("the guest holds it")
            await media.eject(device=None, id="disk0", force=True)
            assert (await rig.command(READY)).sense == GONE
            assert (await rig.command(READY)).sense == NO_MEDIUM
            (tmp_path / "third").write_bytes(CONTENT[4096:])
            await media.blockdev_change_medium(
                device=None,
                id="disk0",
                filename=str(tmp_path / "third"),
                format="raw",
                force=False,
                read_only_mode=BlockdevChangeReadOnlyMode.RETAIN,
            )
            assert (await rig.command(READY)).sense == GONE
            assert (await rig.command(READY)).sense == CHANGED
            read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0)
            assert (await rig.command(read, room=2048)).data == CONTENT[4096 : 4096 + 2048]

    run(main())
