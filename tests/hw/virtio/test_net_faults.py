"""The network card in trouble: resets with frames under way, states that are loaded, drivers that do what they may not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from typing import TYPE_CHECKING

import pytest

from qemud.hw.virtio import net as card
from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.mmio import Reg
from qemud.net.offload import Offload
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from tests.hw.virtio.driver import BASE, RAM
from tests.hw.virtio.net_rig import ALL, GROUP, HEAD, MINE, OTHER_GROUP, TO_OTHERS, machine
from tests.net.support import frame

if TYPE_CHECKING:
    from collections.abc import Callable


def test_resets_and_unplugs_with_frames_under_way() -> None:
    async def main() -> None:
        async with machine() as here:
            for turn in range(100):
                await here.start(packed=bool(turn & 1))
                await here.buffers(4, 200)
                for number in range(8):
                    here.end.send([(b"", frame(f"in {number}"))])
                await here.call(lambda: here.driver.add(card.TX, [HEAD, frame("out")], []))
                await here.call(here.driver.set, Reg.QUEUE_NOTIFY, card.TX)
                if turn % 3 == 0:
                    await here.call(here.driver.set, Reg.STATUS, 0)
                elif turn % 3 == 1:
                    await here.call(reset_tree, here.root)
                else:
                    await here.unplug()
                    assert here.end.peer is None
                    await here.plug()
            await here.start()
            await here.buffers(1, 200)
            await here.arrive(frame("last"))
            assert [each[12:] for each in await here.received()] == [frame("last")]
            # Nothing counts as under way any more.
            await here.call(lambda: None)
            nic = here.device.nic
            assert nic._posted == nic._consumed

    asyncio.run(main())


def test_state_is_kept() -> None:
    async def main() -> None:
        async with machine(ALL) as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.command(1, 0, struct.pack("<I", 0) + struct.pack("<I", 1) + GROUP[:6])
            await here.command(2, 0, struct.pack("<H", 7))
            await here.command(1, 1, TO_OTHERS[:6])
            await here.command(5, 0, struct.pack("<Q", bits.FEATURE_GUEST_CSUM))
            saved = await here.call(here.device.save)
            await here.buffers(2, 200)
            await here.call(reset_tree, here.device)
            assert here.device.state.promisc
            await here.call(here.device.load, saved)
            assert await here.call(here.device.save) == saved
            assert here.end.wanted[-1] == Offload(csum=True)
            await here.arrive(MINE, OTHER_GROUP, GROUP)
            assert [each[12:] for each in await here.received()] == [GROUP]
            now = await here.call(here.device.save)
            for name, value in (
                ("mac", "12"),
                ("multicast", ["zz"] * 2),
                ("unicast", ["00" * 6] * 65),
                ("vlans", [4096]),
            ):
                with pytest.raises(GenericError):
                    await here.call(here.device.load, saved | {name: value})
            assert await here.call(here.device.save) == now

    asyncio.run(main())


@pytest.mark.parametrize(
    ("readable", "writable"),
    [([b""[:0] + b"\0" * 11], []), ([b"x" * 5, b"y" * 6], []), ([], [64]), ([HEAD + frame("a")], [64])],
)
def test_frames_that_are_none_break_the_device(readable: list[bytes], writable: list[int]) -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.call(lambda: here.driver.add(card.TX, readable, writable))
            await here.call(here.driver.set, Reg.QUEUE_NOTIFY, card.TX)
            assert await here.status() & 64
            await here.start()
            assert await here.status() == 15

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(6))
def test_hostile_drivers(seed: int) -> None:
    """Descriptors with any address, length and direction: the device ends as needing a reset, or goes on; never anything else."""

    async def main() -> None:
        dice = random.Random(seed)
        async with machine(ALL, packed=True, queues=2, mq=True) as here:
            failures: list[BaseException] = []

            def watched(look: Callable[[], None]) -> Callable[[], None]:
                def watch() -> None:
                    try:
                        look()
                    except BaseException as error:
                        failures.append(error)
                        raise

                return watch

            for pair in here.device.pairs:
                pair.look = watched(pair.look)  # type: ignore[method-assign]
            edges = (0, 1, 2, 9, 10, 11, 12, 13, 26, 60, 1514, 65535, 65600, 1 << 20, (1 << 32) - 1)
            for _ in range(150):
                await here.start(packed=bool(dice.getrandbits(1)))

                def attack() -> None:
                    driver = here.driver
                    for queue in dice.sample(range(5), 5):
                        for _ in range(dice.randrange(4)):
                            pieces = []
                            for _ in range(dice.randrange(1, 5)):
                                address = dice.choice(
                                    (
                                        driver.buffer(64),
                                        BASE + RAM - 5,
                                        0,
                                        BASE,
                                        (1 << 64) - 8,
                                        dice.getrandbits(32),
                                    )
                                )
                                pieces.append((address, dice.choice(edges), dice.choice((0, 2))))
                            if dice.random() < 0.7:
                                pieces.sort(key=lambda piece: piece[2])
                            for address, length, _ in pieces:
                                if BASE <= address < BASE + RAM - 64 and length:
                                    here.vm.memory.write_physical(
                                        address + 12 * (address < BASE + RAM // 2), dice.randbytes(16)
                                    )
                            driver.queues[queue].add(pieces)
                        driver.set(Reg.QUEUE_NOTIFY, queue)

                with contextlib.suppress(
                    IndexError, AssertionError
                ):  # the rings themselves were written into
                    await here.call(attack)
                if dice.getrandbits(1):
                    await here.call(here.device.attempt, here.device.use_pairs, dice.randrange(1, 3))
                dice.choice(here.ends).send(
                    [
                        (
                            dice.choice((b"", dice.randbytes(10))),
                            dice.randbytes(dice.choice((1, 60, 1514, 60000))),
                        )
                        for _ in range(3)
                    ]
                )
                status = await here.status()
                assert status in {15, 15 | 64}
            await here.start()
            await here.buffers(4, 2000)
            await here.arrive(frame("alive"))
            assert failures == []
            assert [each[12:] for each in await here.received()] == [frame("alive")]

    asyncio.run(main())
