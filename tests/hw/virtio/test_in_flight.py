"""Resets, stops and unplugs while requests are under way: what answers means that nobody touches the guest's memory any more."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.run_state import RunState, ShutdownCause
from qemud.hw.virtio.mmio import Reg
from qemud.machine.memory import MemoryFault
from tests.hw.virtio.driver import BASE, RAM
from tests.hw.virtio.rig import IOERR, OK, Rig

if TYPE_CHECKING:
    from pathlib import Path

READ, WRITE, FLUSH = 0, 1, 4
BLOCK = 4096
DEPTH = 64
TURNS = 125
"""Of each of the four ways to interrupt: 500 in all."""
CONTENT = bytes(range(256)) * (DEPTH * BLOCK // 256)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 120))


def memory(rig: Rig) -> bytes:
    return rig.vm.memory.read_physical(BASE, RAM)


async def fill(rig: Rig) -> list[int]:
    """Put 64 requests under way, of all kinds, and let some of them get far."""

    def begin() -> list[int]:
        numbers = []
        for n in range(DEPTH):
            if n % 16 == 15:
                numbers.append(rig.put(FLUSH, 0))
            elif n % 4 == 3:
                numbers.append(rig.put(WRITE, n * 8, data=[b"w" * BLOCK]))
            else:
                numbers.append(rig.put(READ, n * 8, room=[BLOCK // 2, BLOCK // 2]))
        rig.kick()
        return numbers

    numbers = await rig.call(begin)
    # A flush with nothing to flush may have ended already.
    assert rig.vm.dma.count >= DEPTH - DEPTH // 16
    return numbers


async def open_gate(rig: Rig, turns: int) -> None:
    """Let requests go on a little later."""
    for _ in range(turns):
        await asyncio.sleep(0)
    rig.gate.set()


async def settled(rig: Rig) -> None:
    """Whatever is still on its way, were there anything, would arrive."""
    for _ in range(3):
        await asyncio.sleep(0)
        await rig.call(lambda: None)


async def reset(rig: Rig) -> None:
    await rig.vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)


async def stop(rig: Rig) -> None:
    await rig.vm.stop()


async def driver_reset(rig: Rig) -> None:
    """The driver stores 0 to the status register, and its processor goes on when that is done."""
    await rig.call(rig.driver.set, Reg.STATUS, 0)
    await rig.device.dma.returned()
    assert await rig.call(lambda: rig.thread._holds) == 0


@pytest.mark.parametrize("way", [reset, driver_reset], ids=["machine", "driver"])
def test_reset(tmp_path: Path, way: Any) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True) as rig:
            for turn in range(TURNS):
                rig.gate.clear()
                await rig.start(size=128)
                numbers = await fill(rig)
                opening = asyncio.create_task(open_gate(rig, random.randrange(20)))
                await way(rig)
                before = await rig.call(memory, rig)
                assert rig.vm.dma.count == 0
                await opening
                await settled(rig)
                assert await rig.call(memory, rig) == before, turn
                # A flush with nothing to flush may have ended before.
                assert all(numbers.index(number) % 16 == 15 for number, _ in rig.driver.used(0))
                assert rig.driver.get(Reg.INTERRUPT_STATUS) == 0
            await rig.start()
            assert (await rig.request(READ, 0, room=[512])) == (OK, CONTENT[:512])

    run(main())


def test_stop(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True) as rig:
            await rig.vm.cont()
            await rig.start(size=128)
            for turn in range(TURNS):
                rig.gate.clear()
                numbers = await fill(rig)
                opening = asyncio.create_task(open_gate(rig, random.randrange(20)))
                await stop(rig)
                before = await rig.call(memory, rig)
                assert rig.vm.dma.count == 0
                await opening
                await settled(rig)
                assert await rig.call(memory, rig) == before, turn
                # All of them have come back: what the guest sees is what the disk has.
                used = dict(await rig.call(rig.driver.used, 0))
                assert sorted(used) == sorted(numbers)
                for n, number in enumerate(numbers):
                    if n % 4 != 3:
                        data = await rig.call(rig.driver.data, 0, number)
                        assert data == CONTENT[n * BLOCK : (n + 1) * BLOCK] + b"\0"
                await rig.vm.cont()

    run(main())


def test_unplug(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True) as rig:
            for turn in range(TURNS):
                rig.gate.clear()
                await rig.start(size=128)
                await fill(rig)
                opening = asyncio.create_task(open_gate(rig, random.randrange(20)))
                await rig.unplug()
                before = await rig.call(memory, rig)
                assert rig.vm.dma.count == 0
                await opening
                await settled(rig)
                assert await rig.call(memory, rig) == before, turn
                assert rig.vm.dma.owners == []
                await rig.plug()

    run(main())


def test_memory_cannot_be_used_for_a_lease_when_it_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT) as rig:
            await rig.start()
            with pytest.raises(MemoryFault):
                rig.device.dma.lend([(BASE + RAM - 1, 2)], write=True)
            assert rig.vm.dma.count == 0

    run(main())


def failing(rig: Rig, number: int) -> list[int]:
    """Have the file fail with that error from now on; the list has one entry for each try."""
    file = rig.node.children["file"]
    tries: list[int] = []

    async def fail(*_: object, **__: object) -> None:
        tries.append(number)
        raise OSError(number, os.strerror(number))

    for name in ("do_readv", "do_writev"):
        setattr(file, name, fail)
    return tries


def test_a_request_waits_for_the_user(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True, werror="stop", rerror="stop") as rig:
            rig.gate.set()
            file = rig.node.children["file"]
            good = file.do_readv, file.do_writev
            await rig.vm.cont()
            await rig.start()
            tries = failing(rig, errno.EIO)

            def begin() -> tuple[int, int]:
                numbers = rig.put(READ, 0, room=[512]), rig.put(WRITE, 8, data=[b"!" * 512])
                rig.kick()
                return numbers

            numbers = await rig.call(begin)
            while rig.vm.state is RunState.RUNNING:
                await asyncio.sleep(0)
            await rig.vm.stop()
            assert rig.vm.state is RunState.IO_ERROR
            assert len(tries) == 2
            assert [data["action"] for name, data in rig.events if name == "BLOCK_IO_ERROR"] == [
                "stop",
                "stop",
            ]
            assert rig.driver.used(0) == []
            saved = await rig.call(rig.device.save)
            assert len(saved["requests"]) == 2
            assert rig.vm.dma.count == 0

            file.do_readv, file.do_writev = good  # type: ignore[method-assign]
            await rig.vm.cont()
            while len(await rig.call(lambda: rig.device.flying)):
                await asyncio.sleep(0)
            assert sorted(name for name, _ in await rig.call(rig.driver.used, 0)) == sorted(numbers)
            assert rig.path.read_bytes()[BLOCK : BLOCK + 512] == b"!" * 512

            # The same requests, brought by a saved state into a machine that has forgotten them.
            await rig.call(rig.device.reset)
            await rig.call(rig.device.load, saved)
            rig.driver.queues[0].chains |= {number: [] for number in numbers}
            rig.driver.queues[0].last_used -= 2
            back: list[int] = []
            while len(back) < 2:
                back += [name for name, _ in await rig.call(rig.driver.used, 0)]
            assert sorted(back) == sorted(numbers)

    run(main())


def test_a_reset_ends_what_waits_for_the_user(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True, rerror="stop") as rig:
            rig.gate.set()
            file = rig.node.children["file"]
            good = file.do_readv
            await rig.vm.cont()
            await rig.start()
            failing(rig, errno.EIO)

            def begin() -> None:
                rig.put(READ, 0, room=[512])
                rig.kick()

            await rig.call(begin)
            while rig.vm.state is RunState.RUNNING:
                await asyncio.sleep(0)
            await rig.vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)
            assert rig.device.flying == {}
            assert rig.vm.dma.count == 0
            file.do_readv = good  # type: ignore[method-assign]
            await rig.vm.cont()
            await rig.start()
            assert (await rig.request(READ, 0, room=[512]))[0] == OK

    run(main())


def test_errors_are_reported_to_the_driver(tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path / "disk", CONTENT, slow=True) as rig:
            rig.gate.set()
            await rig.start()
            failing(rig, errno.EIO)
            assert (await rig.request(READ, 0, room=[512]))[0] == IOERR
            assert (await rig.request(WRITE, 0, data=[b"x" * 512]))[0] == IOERR

    run(main())
