"""virtio-blk as a driver meets it, on a file."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

import pytest

from qemud.debug.trace import NAMES
from qemud.hw.virtio.mmio import Reg
from qemud.qapi.runtime.errors import GenericError
from tests.hw.virtio.rig import IOERR, OK, UNSUPP, Rig

if TYPE_CHECKING:
    from pathlib import Path

READ, WRITE, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
SECTORS = 2048
CONTENT = b"".join(b"%511d\n" % n for n in range(SECTORS))
CONFIG_WCE, FLUSH_FEATURE, RO = 1 << 11, 1 << 9, 1 << 5
BOTH = pytest.mark.parametrize("slow", [False, True], ids=["at-once", "later"])


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def config(rig: Rig, offset: int, layout: str) -> Any:
    size = struct.calcsize("<" + layout)
    data = b"".join(rig.slot.read(Reg.CONFIG + offset + n, 1).to_bytes(1, "little") for n in range(size))
    return struct.unpack("<" + layout, data)


@BOTH
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_reading_and_writing(tmp_path: Path, slow: bool, packed: bool) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=slow, packed=packed) as rig:
            rig.gate.set()
            await rig.start(packed=packed)
            assert await rig.request(READ, 5, room=[512, 1024]) == (OK, CONTENT[5 * 512 : 8 * 512])
            assert await rig.request(WRITE, 7, data=[b"a" * 1024, b"b" * 512]) == (OK, b"")
            assert await rig.request(READ, 6, room=[4 * 512]) == (
                OK,
                CONTENT[6 * 512 : 7 * 512] + b"a" * 1024 + b"b" * 512,
            )
            assert await rig.request(FLUSH, 0) == (OK, b"")
            assert await rig.call(lambda: rig.driver.get(Reg.INTERRUPT_STATUS)) == 1
        assert rig.path.read_bytes()[7 * 512 : 10 * 512] == b"a" * 1024 + b"b" * 512

    run(main())


@BOTH
def test_many_requests_at_a_time(tmp_path: Path, slow: bool) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=slow) as rig:
            rig.gate.set()
            await rig.start()

            def begin() -> dict[int, int]:
                numbers = {rig.put(READ, n * 8, room=[4096]): n for n in range(64)}
                rig.kick()
                return numbers

            expected = await rig.call(begin)
            while expected:
                for number, written in await rig.call(rig.driver.used, 0):
                    n = expected.pop(number)
                    assert written == 4097
                    assert (
                        await rig.call(rig.driver.data, 0, number)
                        == CONTENT[n * 4096 : (n + 1) * 4096] + b"\0"
                    )
                await asyncio.sleep(0)

    run(main())


def test_what_is_not_on_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, logical_block_size=4096, physical_block_size=4096) as rig:
            await rig.start()
            assert (await rig.request(READ, SECTORS - 8, room=[4096]))[0] == OK
            for sector, length in (
                (SECTORS, 4096),
                (SECTORS - 8, 8192),
                (1 << 62, 4096),
                ((1 << 64) - 8, 4096),
                (1, 4096),
                (0, 512),
                (0, 4097),
            ):
                assert (await rig.request(READ, sector, room=[length]))[0] == IOERR, (sector, length)
            assert (await rig.request(READ, 0))[0] == OK, "nothing is read"
            assert not rig.device.state.broken
            assert rig.path.read_bytes() == CONTENT

    run(main())


def test_discard_and_zeroes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, node={"discard": "unmap"}) as rig:
            await rig.start()

            async def clear(kind: int, sector: int, count: int, flags: int = 0, more: bytes = b"") -> int:
                return (await rig.request(kind, 0, data=[struct.pack("<QII", sector, count, flags) + more]))[
                    0
                ]

            assert await clear(ZEROES, 8, 16) == OK
            assert await clear(ZEROES, 64, 16, 1) == OK
            assert await clear(DISCARD, 128, 8) == OK
            assert await clear(DISCARD, 0, 8, 1) == UNSUPP, "no flag that is known"
            assert await clear(ZEROES, 0, 8, 2) == UNSUPP
            assert await clear(ZEROES, SECTORS - 1, 2) == IOERR
            assert await clear(DISCARD, 0, 1 << 23) == IOERR
            assert await clear(ZEROES, 0, 8, 0, struct.pack("<QII", 16, 1, 0)) == UNSUPP, (
                "one range a request"
            )
            assert await clear(DISCARD & ~1, 0, 8) == UNSUPP
        zero = bytes(512)
        expected = CONTENT[: 8 * 512] + zero * 16 + CONTENT[24 * 512 : 64 * 512] + zero * 16
        assert rig.path.read_bytes()[: 80 * 512] == expected

    run(main())


def test_a_header_may_be_spread(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()

            header = struct.pack("<IIQ", WRITE, 0, 3)
            pieces = [header[:5], header[5:9], header[9:] + b"x" * 100, b"y" * 412]
            assert await rig.raw(pieces, [1]) == b"\0"
            header = struct.pack("<IIQ", READ, 0, 3)
            assert await rig.raw([header], [100, 413]) == b"x" * 100 + b"y" * 412 + b"\0"

    run(main())


@pytest.mark.parametrize(
    ("readable", "writable"),
    [([], [1]), ([b"x" * 16], []), ([b"x" * 15], [1]), ([struct.pack("<IIQ", DISCARD, 0, 0), b"short"], [1])],
)
def test_requests_without_headers_need_a_reset(
    tmp_path: Path, readable: list[bytes], writable: list[int]
) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()

            def wrong() -> int:
                rig.driver.add(0, readable, writable)
                rig.kick()
                return rig.driver.status

            assert await rig.call(wrong) == 15 | 64
            assert rig.vm.dma.count == 0
            await rig.start()
            assert (await rig.request(READ, 0, room=[512]))[0] == OK

    run(main())


def test_serial_and_unknown_requests(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, serial="S3R1AL") as rig:
            await rig.start()
            status, content = await rig.request(GET_ID, 0, room=[20])
            assert (status, content[:7]) == (OK, b"S3R1AL\0")
            assert (await rig.request(GET_ID, 0, room=[2, 2]))[1] == b"S3R1"
            assert (await rig.request(77, 0, room=[20]))[0] == UNSUPP
            assert (await rig.request(2, 0, room=[20]))[0] == IOERR
            assert (await rig.request(2, 0, data=[b"cdb"], room=[96, 16]))[0] == UNSUPP
        async with Rig(tmp_path / "disk2", CONTENT, serial="x" * 30) as rig:
            await rig.start()
            assert (await rig.request(GET_ID, 0, room=[20]))[1] == b"x" * 20

    run(main())


def test_the_configuration_space(tmp_path: Path) -> None:
    async def main() -> None:
        options = {
            "logical_block_size": 1024,
            "physical_block_size": 4096,
            "min_io_size": 8192,
            "opt_io_size": 65536,
            "num-queues": 3,
            "queue-size": 128,
            "discard_granularity": 2048,
            "cyls": 10,
            "heads": 4,
            "secs": 32,
        }
        async with Rig(tmp_path / "disk", CONTENT, options=options) as rig:
            capacity, size_max, seg_max = config(rig, 0, "QII")
            assert (capacity, size_max, seg_max) == (SECTORS, 0, 126)
            assert config(rig, 16, "HBB") == (10, 4, 32)
            assert config(rig, 20, "IBBHI") == (1024, 2, 0, 8, 64)
            assert config(rig, 32, "BBH") == (1, 0, 3)
            assert config(rig, 36, "IIIIIB") == (4194303, 1, 4, 4194303, 1, 1)
            assert rig.slot.read(Reg.CONFIG + 57, 1) == 0xFF
            await rig.start(count=3)
            for queue in range(3):
                assert (await rig.request(READ, 2, room=[1024], queue=queue))[0] == OK

    run(main())


def test_the_geometry_is_guessed(tmp_path: Path) -> None:
    async def main() -> None:
        table = bytearray(CONTENT)
        table[0x1BE + 4 : 0x1BE + 16] = bytes([0x83, 7, 17, 0]) + struct.pack("<II", 1, 100)
        table[510:512] = b"\x55\xaa"
        for content, expected in ((CONTENT, (2, 16, 63)), (bytes(table), (2048 // (8 * 17), 8, 17))):
            async with Rig(tmp_path / "disk", content) as rig:
                assert config(rig, 16, "HBB") == expected

    run(main())


def test_the_write_cache_is_the_drivers_to_choose(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:

            def cached() -> bool:
                return rig.device.drive.backend.enable_write_cache

            await rig.start()
            assert cached()
            await rig.call(rig.slot.write, Reg.CONFIG + 32, 0, 1)
            assert config(rig, 32, "B") == (0,)
            assert not cached()
            assert (await rig.request(WRITE, 0, data=[b"x" * 512]))[0] == OK
            await rig.start()
            assert cached(), "a reset brings back the user's choice"
            await rig.start(~(CONFIG_WCE | FLUSH_FEATURE))
            assert not cached(), "a driver that cannot flush"
        async with Rig(
            tmp_path / "disk", CONTENT, options={"write-cache": "off", "config-wce": False}
        ) as rig:
            assert not await rig.call(rig.driver.offered) & (FLUSH_FEATURE | CONFIG_WCE)

    run(main())


def test_a_read_only_disk(tmp_path: Path) -> None:
    async def main() -> None:
        node = {"read-only": True}
        async with Rig(tmp_path / "disk", CONTENT, node=node) as rig:
            assert await rig.call(rig.driver.offered) & RO
            await rig.start()
            assert (await rig.request(WRITE, 0, data=[b"x" * 512]))[0] == IOERR
            assert (await rig.request(READ, 0, room=[512]))[0] == OK
        assert rig.path.read_bytes() == CONTENT

    run(main())


def test_another_size_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()
            await rig.node.truncate(4096 * 512)
            await rig.call(lambda: None)
            assert await rig.call(lambda: rig.driver.get(Reg.INTERRUPT_STATUS)) == 3
            assert config(rig, 0, "Q") == (4096,)
            assert (await rig.request(READ, 4095, room=[512])) == (OK, bytes(512))

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"drive": ""}, "drive property not set"),
        ({"drive": "none"}, "Property 'virtio-blk-device.drive' can't find value 'none'"),
        ({"num-queues": 0}, "num-queues property must be larger than 0"),
        ({"num-queues": 1025}, r"invalid num-queues property \(1025\), must be no more than 1024"),
        ({"queue-size": 2}, r"invalid queue-size property \(2\), must be > 2"),
        ({"queue-size": 100}, r"invalid queue-size property \(100\), must be a power of 2 \(max 1024\)"),
        ({"queue-size": 2048}, r"invalid queue-size property \(2048\), must be a power of 2 \(max 1024\)"),
        (
            {"logical_block_size": 100},
            "parameter logical_block_size must be a power of 2 between 512 and 2097152",
        ),
        ({"logical_block_size": 1024}, "logical_block_size > physical_block_size not supported"),
        ({"min_io_size": 100}, "min_io_size must be a multiple of logical_block_size"),
        ({"opt_io_size": 100}, "opt_io_size must be a multiple of logical_block_size"),
        ({"discard_granularity": 100}, "discard_granularity must be a multiple of logical_block_size"),
        (
            {"discard_granularity": 1 << 33},
            r"Property virtio-blk-device.discard_granularity doesn't take value 8589934592 \(maximum: 4294967295\)",
        ),
        ({"cyls": 1}, "heads must be between 1 and 255"),
        (
            {"max-discard-sectors": 0},
            r"invalid max-discard-sectors property \(0\), must be between 1 and 4194303",
        ),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    async def main() -> None:
        rig = Rig(tmp_path / "disk", CONTENT, options=options)
        with pytest.raises(GenericError, match=f"^{text}$"):
            await rig.__aenter__()
        assert rig.graph.backends == []

    run(main())


def test_state_by_value(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()
            for _ in range(30):
                await rig.request(READ, 0, room=[512])
            await rig.call(rig.slot.write, Reg.CONFIG + 32, 0, 1)
            saved = await rig.call(rig.device.save), await rig.call(rig.slot.save)
            await rig.call(rig.device.reset)
            await rig.call(rig.device.load, saved[0])
            await rig.call(rig.slot.load, saved[1])
            assert not rig.device.drive.backend.enable_write_cache
            assert (await rig.request(READ, 3, room=[512])) == (OK, CONTENT[3 * 512 : 4 * 512])

    run(main())


def test_trace_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    for module in ("device", "blk"):
        monkeypatch.setattr(f"qemud.hw.virtio.{module}.traced", {name for name in NAMES if "virtio" in name})
        monkeypatch.setattr(
            f"qemud.hw.virtio.{module}.trace", lambda event, **fields: told.append((event, fields))
        )

    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()
            told.clear()
            assert (await rig.request(READ, 8, room=[4096]))[0] == OK
            assert (await rig.request(WRITE, 8, data=[b"x" * 4096]))[0] == OK
            await rig.call(rig.driver.set, Reg.STATUS, 0)

    run(main())
    disk = {"device": "/disk"}
    assert [entry for entry in told if entry[0] != "virtio_notify"] == [
        ("virtio_queue_notify", disk | {"queue": 0}),
        ("virtio_blk_handle_read", disk | {"sector": 8, "size": 4096}),
        ("virtio_blk_req_complete", disk | {"status": 0}),
        ("virtio_queue_notify", disk | {"queue": 0}),
        ("virtio_blk_handle_write", disk | {"sector": 8, "size": 4096}),
        ("virtio_blk_req_complete", disk | {"status": 0}),
        ("virtio_set_status", disk | {"status": 0}),
    ]
    assert ("virtio_notify", disk | {"queue": 0}) in told
