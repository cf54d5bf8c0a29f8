"""Which frames the network card takes: what its driver chooses by commands, and what is told of it."""

from __future__ import annotations

import asyncio
import struct

from qemud.hw.virtio.net_control import MAC_TABLE_ENTRIES
from tests.hw.virtio.net_rig import BROADCAST, GROUP, MINE, OTHER_GROUP, TO_OTHERS, Machine, machine


def test_which_frames_it_takes() -> None:
    everything = [MINE, TO_OTHERS, BROADCAST, GROUP, OTHER_GROUP]

    async def taken(here: Machine) -> list[bytes]:
        await here.buffers(5, 200)
        await here.arrive(*everything)
        found = [each[12:] for each in await here.received()]
        # Use up the rest.
        await here.command(0, 0, b"\x01")
        await here.arrive(*[MINE] * (5 - len(found)))
        await here.received()
        await here.command(0, 0, b"\x00")
        return found

    async def main() -> None:
        async with machine() as here:
            await here.start()
            assert await taken(here) == everything  # until the driver says otherwise
            assert await taken(here) == [MINE, BROADCAST]
            table = struct.pack("<I", 1) + TO_OTHERS[:6] + struct.pack("<I", 1) + GROUP[:6]
            assert await here.command(1, 0, table) == 0
            assert await taken(here) == [MINE, TO_OTHERS, BROADCAST, GROUP]
            for command, wanted in (
                (1, everything),  # all multicast
                (3, [MINE, TO_OTHERS, BROADCAST]),  # none
                (4, [BROADCAST, GROUP]),  # no unicast
                (5, [MINE, TO_OTHERS, GROUP]),  # no broadcast
            ):
                assert await here.command(0, command, b"\x01") == 0
                assert await taken(here) == wanted
                assert await here.command(0, command, b"\x00") == 0
            assert await here.command(1, 0, bytes(8)) == 0
            assert await here.command(0, 2, b"\x01") == 0  # all unicast
            assert await taken(here) == [MINE, TO_OTHERS, BROADCAST]
            assert await here.command(1, 1, TO_OTHERS[:6]) == 0  # another address
            assert await here.command(0, 2, b"\x00") == 0
            assert await taken(here) == [TO_OTHERS, BROADCAST]
            for kind, command, data in (
                (0, 6, b"\x01"), (0, 0, b""), (1, 0, b""), (1, 0, bytes(4)), (1, 0, bytes(9)), (1, 1, bytes(5)),
                (1, 0, struct.pack("<I", 0xFFFFFFFF) + bytes(4)), (1, 2, b"\0"), (2, 0, b"\0"), (2, 0, b"\0\x10"),
                (2, 2, b"\0\0"), (3, 0, b"\0"), (5, 0, bytes(7)), (9, 0, b"\0"),
            ):  # fmt: skip
                assert await here.command(kind, command, data) == 1, (kind, command)
            many = struct.pack("<I", MAC_TABLE_ENTRIES + 1) + bytes(6 * (MAC_TABLE_ENTRIES + 1))
            assert await here.command(1, 0, many + many) == 0
            # More than there is room for: all are taken.
            assert await taken(here) == everything

    asyncio.run(main())


def test_vlans() -> None:
    def tagged(number: int) -> bytes:
        return MINE[:12] + b"\x81\x00" + number.to_bytes(2, "big") + bytes(44)

    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.buffers(10, 200)
            await here.command(2, 0, struct.pack("<H", 7))
            await here.arrive(tagged(7), tagged(8), tagged(0x2007))
            assert [each[12:] for each in await here.received()] == [tagged(7), tagged(0x2007)]
            await here.command(2, 1, struct.pack("<H", 7))
            await here.arrive(tagged(7), MINE)
            assert [each[12:] for each in await here.received()] == [MINE]
        async with machine(ctrl_vlan=False) as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.buffers(10, 200)
            await here.arrive(tagged(7))
            assert len(await here.received()) == 1

    asyncio.run(main())


def test_what_is_told_of_its_choice() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.command(0, 1, b"\x01")
            await here.command(2, 0, struct.pack("<H", 7))
            table = struct.pack("<I", 1) + TO_OTHERS[:6] + struct.pack("<I", 2) + GROUP[:6] + OTHER_GROUP[:6]
            await here.command(1, 0, table)
            changes = [data for name, data in here.here.events if name == "NIC_RX_FILTER_CHANGED"]
            assert changes == [{"path": "/net"}]  # once until somebody asks
            told = await here.call(here.device.nic.query_filter)
            assert (told.promiscuous, told.multicast.value, told.unicast.value, told.vlan.value) == (
                False, "all", "normal", "normal",
            )  # fmt: skip
            assert told.unicast_table == ["52:54:00:00:00:ff"]
            assert told.multicast_table == ["01:00:5e:00:00:02", "01:00:5e:00:00:01"]
            assert told.vlan_table == [7]
            assert told.main_mac == "52:54:00:12:34:56"
            await here.command(0, 0, b"\x01")
            await here.call(lambda: None)
            assert [name for name, _ in here.here.events].count("NIC_RX_FILTER_CHANGED") == 2

    asyncio.run(main())
