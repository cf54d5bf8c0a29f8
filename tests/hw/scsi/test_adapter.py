"""The host adapter: queues, events, task management, devices that come and go, hostile drivers, saved states."""

from __future__ import annotations

import asyncio
import errno
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.scsi import VirtioScsiOptions
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.scsi import VirtioScsi
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from tests.hw.scsi.rig import COMMANDS, EVENT, GOOD, ScsiRig, address
from tests.hw.virtio.devices import plug

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = 256
CONTENT = b"".join(b"%511d\n" % n for n in range(BLOCKS))
READ = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 8, 0)
WRITE = struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 8, 0)
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, UNIT_RESET, QUERY, QUERY_SET = range(8)
OK, OVERRUN, ABORTED, BAD_TARGET, RESET = range(5)
SUCCEEDED, REJECTED, INCORRECT_LUN = 10, 11, 12
NO_EVENT, TRANSPORT_RESET, _, PARAM_CHANGE = range(4)
MISSED = 1 << 31


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def config(rig: ScsiRig) -> tuple[Any, ...]:
    layout = struct.Struct("<IIIIIIIHHI")
    data = b"".join(rig.slot.read(Reg.CONFIG + n, 1).to_bytes(1, "little") for n in range(layout.size))
    return layout.unpack(data)


def test_the_configuration_space(tmp_path: Path) -> None:
    async def main() -> None:
        more: dict[str, Any] = {"num_queues": 3, "virtqueue_size": 64, "max_sectors": 1000, "cmd_per_lun": 7}
        async with ScsiRig(tmp_path, **more) as rig:
            expected = [3, 62, 1000, 7, 16, 96, 32, 0, 255, 16383]
            assert await rig.call(config, rig) == tuple(expected)
            await rig.start()
            await rig.call(rig.slot.write, Reg.CONFIG + 20, 18, 4)
            await rig.call(rig.slot.write, Reg.CONFIG + 24, 16, 4)
            expected[5:7] = 18, 16
            assert await rig.call(config, rig) == tuple(expected)
            await rig.start()
            expected[5:7] = 96, 32
            assert await rig.call(config, rig) == tuple(expected), "a reset undoes it"
            await rig.call(rig.slot.write, Reg.CONFIG + 24, 256, 4)
            assert rig.adapter.state.broken
        async with ScsiRig(tmp_path) as rig:
            assert (await rig.call(config, rig))[0] == 1

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_queues": 0}, "Invalid number of queues (= 0), must be a positive integer less than 1022."),
        (
            {"num_queues": 1023},
            "Invalid number of queues (= 1023), must be a positive integer less than 1022.",
        ),
        ({"virtqueue_size": 2}, "invalid virtqueue_size property (= 2), must be > 2"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(GenericError) as caught:
        plug(VirtioScsi(VirtioScsiOptions(**options)))
    assert str(caught.value) == text


def test_devices_come_and_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            await rig.offer_events()
            second = await rig.add(content=CONTENT, more={"scsi-id": 5, "lun": 300})
            assert await rig.event() == (TRANSPORT_RESET, address(5, 300), 1)
            assert (await rig.command(bytes(6), lun=0)).sense == (6, 0x3F, 0x0E)
            assert (await rig.command(bytes(6), lun=0)).status == GOOD
            assert (await rig.command(bytes(6), target=5, lun=300)).sense == (6, 0x29, 0)
            assert (await rig.command(READ, room=4096, target=5, lun=300)).data == CONTENT[:4096]
            await rig.take_out(second)
            assert await rig.event() == (TRANSPORT_RESET, address(5, 300), 2)
            luns = struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, 64, 0, 0)
            assert (await rig.command(luns, room=64)).status == GOOD
            assert (await rig.command(bytes(6))).status == GOOD, "who has asked knows"
            assert (await rig.command(bytes(6), target=5, lun=300)).response == BAD_TARGET

    run(main())


def test_missed_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            await rig.add(content=CONTENT)
            await rig.offer_events(2)
            assert await rig.event() == (MISSED | NO_EVENT, bytes(8), 0)
            await rig.add(content=CONTENT)
            assert await rig.event() == (TRANSPORT_RESET, address(2), 1)

    run(main())


def test_a_driver_that_wants_no_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, hotplug=False, param_change=False) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            await rig.offer_events()
            await rig.add(content=CONTENT)
            await rig.graph.nodes["n0"].truncate(64 * 512)
            assert (await rig.command(bytes(6))).sense == (6, 0x2A, 9)
            assert await rig.call(rig.driver.used, EVENT) == []

    run(main())


def test_another_size(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()
            await rig.offer_events()
            await rig.graph.nodes["n0"].truncate(512 * 512)
            assert await rig.event() == (PARAM_CHANGE, address(), 0x2A | 9 << 8)
            assert (await rig.command(bytes(6))).sense == (6, 0x2A, 9)
            data = (await rig.command(bytes([0x25, *bytes(9)]), room=8)).data
            assert struct.unpack(">II", data) == (511, 512)

    run(main())


async def begin(rig: ScsiRig, count: int, *, target: int = 0, lun: int = 0) -> dict[int, int]:
    """Begin reads that do not end; what they are called, by tag."""

    def put() -> dict[int, int]:
        numbers = {
            rig.put(READ, room=[4096], tag=100 + n, target=target, lun=lun): 100 + n for n in range(count)
        }
        rig.kick()
        return numbers

    numbers = await rig.call(put)
    while rig.began < count:
        await asyncio.sleep(0)
    return numbers


async def collect(rig: ScsiRig, numbers: dict[int, int]) -> dict[int, int]:
    """The responses to these commands, by tag."""
    found = {}
    while numbers:
        for number, _ in await rig.call(rig.driver.used, COMMANDS):
            content = await rig.call(rig.driver.data, COMMANDS, number)
            found[numbers.pop(number)] = rig.decode(content).response
        await asyncio.sleep(0)
    return found


def test_task_management(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, slow=True) as rig:
            await rig.add(content=CONTENT, more={"scsi-id": 2, "lun": 3})
            await rig.start()
            assert await rig.task(ABORT_TASK, target=9) == BAD_TARGET
            assert await rig.task(ABORT_TASK, target=2, lun=4) == INCORRECT_LUN
            assert await rig.task(CLEAR_ACA, target=2, lun=3) == REJECTED
            assert await rig.task(99, target=2, lun=3) == REJECTED
            assert await rig.task(QUERY, target=2, lun=3, tag=100) == OK
            assert await rig.task(QUERY_SET, target=2, lun=3) == OK
            assert await rig.task(ABORT_TASK, target=2, lun=3, tag=100) == OK
            for subtype, expected, attention in (
                (ABORT_TASK, {100: OK, 101: ABORTED, 102: OK}, None),
                (ABORT_TASK_SET, dict.fromkeys((100, 101, 102), ABORTED), None),
                (CLEAR_TASK_SET, dict.fromkeys((100, 101, 102), ABORTED), None),
                (UNIT_RESET, dict.fromkeys((100, 101, 102), RESET), (6, 0x29, 0)),
                (NEXUS_RESET, dict.fromkeys((100, 101, 102), RESET), (6, 0x29, 0)),
            ):
                rig.gate.clear()
                rig.began = 0
                numbers = await begin(rig, 3, target=2, lun=3)
                assert await rig.task(QUERY, target=2, lun=3, tag=101) == SUCCEEDED
                assert await rig.task(QUERY_SET, target=2, lun=3) == SUCCEEDED
                task = asyncio.ensure_future(rig.task(subtype, target=2, lun=3, tag=101))
                await rig.call(lambda: None)
                await rig.call(lambda: None)
                assert not task.done(), "the outside still writes into the guest's memory"
                rig.gate.set()
                found = collect(rig, numbers)
                assert (await task, await found) == (OK, expected)
                answer = await rig.command(bytes(6), target=2, lun=3)
                assert answer.sense == attention

    run(main())


@pytest.mark.parametrize("how", ["driver", "machine", "unplug", "all"])
def test_what_is_under_way_ends(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, slow=True) as rig:
            disk = await rig.add(content=CONTENT)
            for _ in range(20):
                await rig.start()
                rig.gate.clear()
                rig.began = 0
                numbers = await begin(rig, 16)
                if how == "driver":
                    await rig.call(rig.driver.set, Reg.STATUS, 0)
                elif how == "machine":
                    await rig.call(rig.vm.dma.retire)
                    await rig.call(reset_tree, rig.root)
                elif how == "unplug":
                    await rig.call(disk.take_down)
                else:
                    await rig.call(rig.adapter.take_down)
                assert rig.vm.dma.count == 16
                leaving = asyncio.ensure_future(disk.settled())
                await asyncio.sleep(0)
                assert not leaving.done()
                memory = await rig.call(rig.vm.memory.read_physical, 0x8000_0000, 1 << 20)
                rig.gate.set()
                await leaving
                assert rig.vm.dma.count == 0
                if how == "unplug":
                    assert set((await collect(rig, numbers)).values()) == {ABORTED}
                else:
                    await rig.call(lambda: None)
                    assert memory == await rig.call(rig.vm.memory.read_physical, 0x8000_0000, 1 << 20), (
                        "nothing is written into rings that are gone"
                    )
                if how in {"unplug", "all"}:
                    break

    run(main())


def test_stop_on_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            disk = await rig.add(content=CONTENT, werror="stop", rerror="report")
            node = rig.graph.nodes["n0"]
            for name in ("read_now", "write_now"):
                setattr(node, name, lambda *_: False)
            good = node.do_writev
            failing = True

            async def fail(*arguments: Any, **keywords: Any) -> None:
                if failing:
                    raise OSError(errno.ENOSPC, "full")
                await good(*arguments, **keywords)

            node.do_writev = fail  # type: ignore[method-assign]
            await rig.start()
            task = asyncio.ensure_future(rig.command(WRITE, data=b"x" * 4096))
            while not disk.disk.parked:
                await asyncio.sleep(0)
            assert not task.done()
            assert rig.vm.dma.count == 0, "who waits for the user holds nothing up"
            saved = await rig.call(rig.adapter.save)
            assert [request["queue"] for request in saved["requests"]] == [COMMANDS]
            events = [data for name, data in rig.events if name == "BLOCK_IO_ERROR"]
            assert [(event["operation"], event["action"]) for event in events] == [("write", "stop")]
            # As on another machine: what waited begins again.
            failing = False
            states = await rig.call(disk.save)
            await rig.call(disk.load, states)
            await rig.call(rig.adapter.load, saved)
            assert not disk.disk.parked
            assert not disk.requests
            await rig.call(rig.adapter._begin_restored)
            assert (await task).status == GOOD
            assert (tmp_path / "n0").read_bytes()[:4096] == b"x" * 4096

    run(main())


@pytest.mark.parametrize(("number", "sense"), [(errno.EIO, (11, 0, 6)), (errno.ENOSPC, (7, 0x27, 7))])
def test_errors_are_told(tmp_path: Path, number: int, sense: tuple[int, int, int]) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT, werror="report", rerror="report")
            node = rig.graph.nodes["n0"]
            for name in ("read_now", "write_now"):
                setattr(node, name, lambda *_: False)

            async def fail(*_: Any, **__: Any) -> None:
                raise OSError(number, "no")

            node.do_writev = node.do_readv = fail  # type: ignore[method-assign]
            await rig.start()
            assert (await rig.command(WRITE, data=bytes(4096))).sense == sense
            assert (await rig.command(READ, room=4096)).sense == sense
            assert rig.vm.dma.count == 0

    run(main())


def test_a_saved_state_is_checked(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            disk = await rig.add(content=CONTENT)
            await rig.start()
            state = await rig.call(rig.adapter.save)
            with pytest.raises(GenericError, match=r"sense data of 96 bytes, commands of 256"):
                await rig.call(rig.adapter.load, {**state, "cdb-size": 256})
            wrong = {"queue": 1, "element": {"index": 0, "count": 1, "readable": [], "writable": []}}
            with pytest.raises(GenericError, match=r"a command is of queue 1"):
                await rig.call(rig.adapter.load, {**state, "requests": [wrong]})
            unit = await rig.call(disk.save)
            for size in (256, 513, 1 << 16):
                with pytest.raises(GenericError, match=r"a block has"):
                    await rig.call(disk.load, {**unit, "block-size": size})
            await rig.call(disk.load, {**unit, "block-size": 4096, "write-cache": False})
            assert (disk.block_size, disk.write_cache) == (4096, False)

    run(main())


@pytest.mark.parametrize(
    ("readable", "writable"),
    [([], []), ([b"x" * 50], [108]), ([b"x" * 51], [107]), ([b"x" * 51], []), ([], [108])],
)
def test_headers_of_the_wrong_size_need_a_reset(
    tmp_path: Path, readable: list[bytes], writable: list[int]
) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.start()

            def wrong() -> int:
                rig.driver.add(COMMANDS, readable or [b""], writable or [0])
                rig.kick()
                return rig.driver.status

            assert await rig.call(wrong) == 15 | 64
            await rig.start()
            assert (await rig.command(READ, room=4096)).data == CONTENT[:4096]

    run(main())


def test_hostile_commands(tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(20261122)
        async with ScsiRig(tmp_path) as rig:
            await rig.add(content=CONTENT)
            await rig.add("scsi-cd", content=CONTENT)
            await rig.start()
            known = [0x00, 0x03, 0x04, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x2E, 0x2F]
            known += [
                0x35,
                0x41,
                0x42,
                0x43,
                0x46,
                0x4A,
                0x51,
                0x55,
                0x5A,
                0x88,
                0x8A,
                0x93,
                0x9E,
                0xA0,
                0xA8,
            ]
            known += [0xAD, 0xBD]
            for _ in range(1500):
                cdb = bytearray(rng.randbytes(rng.choice((6, 10, 12, 16, 32))))
                cdb[0] = rng.choice((rng.randrange(256), rng.choice(known), rng.choice(known)))
                for at in range(1, len(cdb)):
                    if rng.random() < 0.6:
                        cdb[at] = 0
                data = rng.randbytes(rng.choice((0, 0, 4, 8, 24, 512, 4096)))
                room = 0 if data else rng.choice((0, 1, 8, 36, 255, 512, 4096, 65536))
                where = {"target": rng.choice((0, 0, 1, 1, 2)), "lun": rng.choice((0, 0, 0, 1))}
                answer = await rig.command(bytes(cdb), data=data, room=room, **where)
                assert answer.response in {OK, OVERRUN, BAD_TARGET}
                assert not rig.adapter.state.broken
            assert rig.vm.dma.count == 0
            # Whatever is in the rest of a request: addresses, tasks, events.
            for _ in range(500):

                def put() -> None:
                    queue = rng.randrange(3)
                    readable = [rng.randbytes(rng.randrange(120)) for _ in range(rng.randrange(3))]
                    writable = [rng.randrange(200) for _ in range(rng.randrange(3))]
                    if readable or writable:
                        rig.driver.add(queue, readable, writable)
                        rig.kick(queue)

                await rig.call(put)
                if rig.adapter.state.broken or rng.random() < 0.2:
                    await rig.start(quiet=False)
            await rig.start()
            assert (await rig.command(bytes(6))).response == OK
            assert rig.vm.dma.count == 0

    run(main())


def test_legacy_drivers(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScsiRig(tmp_path, legacy=True) as rig:
            await rig.add(content=CONTENT)

            def go() -> bytes:
                driver = rig.driver
                driver.start_legacy(wanted=0)
                driver.queues = [None, None]  # only the third one is used
                from tests.hw.virtio.driver import RINGS, SplitQueue

                queue = SplitQueue(driver, 16, RINGS + 0x10000)
                rig.vm.memory.write_physical(RINGS + 0x10000, bytes(queue.end - RINGS - 0x10000))
                driver.set(Reg.QUEUE_SEL, COMMANDS)
                driver.set(Reg.QUEUE_NUM, 16)
                driver.set(Reg.QUEUE_ALIGN, 4096)
                driver.set(Reg.QUEUE_PFN, (RINGS + 0x10000) >> 12)
                driver.queues.append(queue)
                number = rig.put(bytes([0x12, 0, 0, 0, 36, 0]), room=[36])
                rig.kick()
                assert [name for name, _ in driver.used(COMMANDS)] == [number]
                return driver.data(COMMANDS, number)

            answer = rig.decode(await rig.call(go))
            assert (answer.response, answer.status) == (OK, GOOD)
            assert answer.data[8:16] == b"QEMU    "

    run(main())
