"""Serial ports as a driver and the programs at their other ends meet them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.virtio_console import VirtioSerialOptions
from qemud.hw.virtio.console import VirtioSerial
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.serial_port import PATIENCE, WINDOW
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from tests.hw.virtio.console_rig import (
    ADD,
    CONSOLE,
    MULTIPORT,
    NAME,
    OPEN,
    PORT_READY,
    PORTS,
    READY,
    REMOVE,
    TO_GUEST,
    ConsoleRig,
    input_of,
    output_of,
)
from tests.hw.virtio.devices import plug

if TYPE_CHECKING:
    from pathlib import Path


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def changes(rig: ConsoleRig) -> list[tuple[str, bool]]:
    return [(data["id"], data["open"]) for name, data in rig.events if name == "VSERPORT_CHANGE"]


def busy(rig: ConsoleRig, chardev: str) -> bool:
    found = rig.chardevs.get(chardev)
    assert found is not None
    return found.is_busy


async def settle(rig: ConsoleRig) -> None:
    """Let everything that is under way between the threads arrive."""
    for _ in range(5):
        await rig.call(lambda: None)
        await asyncio.sleep(0)


def test_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            port = await rig.add("virtserialport", "p0", name="org.test.0")
            await rig.start()
            assert await rig.message() == (1, ADD, 1, b"")
            await rig.say(1, PORT_READY)
            assert await rig.message() == (1, NAME, 1, b"org.test.0\0")
            reader, writer = await rig.connect("p0")
            assert await rig.message() == (1, OPEN, 1, b"")
            await rig.write(1, b"hello out there")
            assert await reader.readexactly(15) == b"hello out there"

            writer.write(b"hello in there")
            await rig.leave_room(input_of(1), 10)
            await settle(rig)
            assert await rig.call(rig.driver.used, input_of(1)) == [], "nobody has opened it"
            assert changes(rig) == []
            await rig.open(1)
            assert await rig.used(input_of(1)) == b"hello in t"
            await rig.leave_room(input_of(1), 10)
            assert await rig.used(input_of(1)) == b"here"
            await settle(rig)
            assert changes(rig) == [(port.id, True)]
            await rig.say(1, OPEN, 0)
            await settle(rig)
            assert changes(rig) == [(port.id, True), (port.id, False)]

            writer.close()
            assert await rig.message() == (1, OPEN, 0, b"")
            await rig.write(1, b"nobody hears")
            reader, writer = await rig.connect("p0")
            assert await rig.message() == (1, OPEN, 1, b"")
            await rig.write(1, b"again")
            assert await reader.readexactly(5) == b"again"
            writer.close()

    run(main())


def test_a_console(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            console = await rig.add("virtconsole", "c0")
            assert console.number == 0
            second = await rig.add("virtconsole", "c1")
            assert second.number == 1
            reader, writer = await rig.connect("c0")
            await rig.start()
            assert {await rig.message(), await rig.message()} == {(0, ADD, 1, b""), (1, ADD, 1, b"")}
            await rig.say(0, PORT_READY)
            assert await rig.message() == (0, CONSOLE, 1, b"")
            assert await rig.message() == (0, OPEN, 1, b"")
            await rig.write(0, b"login: ")
            assert await reader.readexactly(7) == b"login: "
            await rig.open(0)
            writer.write(b"root\r")
            await rig.leave_room(input_of(0), 64)
            assert await rig.used(input_of(0)) == b"root\r"
            writer.close()
            await rig.write(1, b"nobody is there, and that does not matter")

    run(main())


def test_a_driver_of_one_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            await rig.add("virtconsole", "c0")
            reader, writer = await rig.connect("c0")
            await rig.start(~MULTIPORT)
            await rig.write(0, b"out")
            assert await reader.readexactly(3) == b"out"
            await rig.leave_room(input_of(0), 64)
            writer.write(b"in")
            assert await rig.used(input_of(0)) == b"in"
            writer.close()

    run(main())


def test_back_pressure_on_output(tmp_path: Path) -> None:
    """A program whose listener does not listen waits; nothing is lost."""

    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            await rig.add("virtserialport", "p0")
            await rig.start()
            await rig.message()
            reader, writer = await rig.connect("p0")
            await rig.message()
            data = random.Random(1).randbytes(1 << 20)
            pieces = [data[n : n + 65536] for n in range(0, len(data), 65536)]
            for piece in pieces:
                await rig.put(1, piece)
            await settle(rig)
            assert len(await rig.call(rig.driver.used, output_of(1))) < len(pieces)
            assert await reader.readexactly(len(data)) == data
            await rig.write(1, b"more")
            assert await reader.readexactly(4) == b"more"
            writer.close()

    run(main())


def test_a_console_that_nobody_reads_does_not_stop_the_guest(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            console = await rig.add("virtconsole", "c0")
            await rig.start()
            await rig.message()
            reader, writer = await rig.connect("c0")
            await settle(rig)
            for _ in range(16):
                await rig.put(0, bytes(65536))
            given = 0
            while given < 16:
                given += len(await rig.call(rig.driver.used, output_of(0)))
                await asyncio.sleep(0.01)
            assert PATIENCE < 1_000_000_000
            assert await rig.call(lambda: console._element) is None
            await rig.write(0, b"thrown away at once")
            # Somebody reads again: what is said from then on is heard.
            received = b""
            while b"heard" not in received:
                await rig.write(0, b"heard")
                received += await reader.read(1 << 20)
            writer.close()

    run(main())


def test_back_pressure_on_input(tmp_path: Path) -> None:
    """What the guest has no room for stays outside, but for a little."""

    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            port = await rig.add("virtserialport", "p0")
            await rig.start()
            await rig.message()
            await rig.open(1)
            _, writer = await rig.connect("p0")
            await rig.message()
            data = random.Random(2).randbytes(1 << 19)
            writer.write(data)
            while len(port.state.inbox) < WINDOW:
                await asyncio.sleep(0)
            await settle(rig)
            assert len(port.state.inbox) == WINDOW
            found = b""
            while len(found) < len(data):
                await rig.leave_room(input_of(1), 4096)
                found += await rig.used(input_of(1))
            assert found == data
            writer.close()

    run(main())


def test_ports_come_and_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            await rig.start()
            port = await rig.add("virtserialport", "p0", nr=2, name="org.test.0")
            assert await rig.message() == (2, ADD, 1, b"")
            reader, writer = await rig.connect("p0")
            assert await rig.message() == (2, OPEN, 1, b"")
            await rig.write(2, b"x")
            assert await reader.readexactly(1) == b"x"
            assert busy(rig, "p0")
            await rig.remove(port)
            assert await rig.message() == (2, REMOVE, 1, b"")
            assert not busy(rig, "p0"), "the character device is free at once"
            again = await rig.add("virtserialport", "p0")
            assert again.number == 1
            assert await rig.message() == (1, ADD, 1, b"")
            await rig.say(1, PORT_READY)
            assert await rig.message() == (1, OPEN, 1, b"")
            await rig.put(2, b"a port that is gone")
            await rig.used(output_of(2))
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"nr": 1, "chardev": "p1"}, "virtio-serial-bus: A port already exists at id 1"),
        ({"name": "taken"}, "virtio-serial-bus: A port already exists by name taken"),
        ({"nr": PORTS}, f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {PORTS - 1}"),
        (
            {"nr": 0},
            "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.",
        ),
        ({"chardev": "none"}, "Property 'virtserialport.chardev' can't find value 'none'"),
        (
            {"chardev": "p0"},
            "Property 'virtserialport.chardev' can't take value 'p0': chardev 'p0' is already in use",
        ),
    ],
)
def test_ports_that_cannot_be(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            await rig.add("virtserialport", "p0", name="taken")
            await rig.chardevs.open_compact("p1", "null")
            with pytest.raises(GenericError) as caught:
                await rig.add("virtserialport", make=False, **options)
            assert str(caught.value) == text
            await settle(rig)
            assert not busy(rig, "p1")

    run(main())


def test_as_many_as_there_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            for _ in range(PORTS - 1):
                await rig.add("virtserialport")
            with pytest.raises(GenericError, match="Out-of-range port id specified"):
                await rig.add("virtserialport")
            assert (await rig.add("virtconsole")).number == 0

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_ports": 0}, "Maximum number of serial ports not specified"),
        ({"max_ports": 512}, "maximum ports supported: 511"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(GenericError) as caught:
        plug(VirtioSerial(VirtioSerialOptions(**options)))
    assert str(caught.value) == text


def test_messages_wait_for_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            for _ in range(3):
                await rig.add("virtserialport")
            await rig.start(room=0)
            await settle(rig)
            for n in range(3):
                await rig.leave_room(TO_GUEST, 8)
                assert (await rig.used(TO_GUEST))[:1] == bytes([n + 1])

    run(main())


def test_an_emergency(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            await rig.add("virtconsole", "c0")
            reader, writer = await rig.connect("c0")
            await settle(rig)
            for letter in b"Oops":
                await rig.call(rig.slot.write, Reg.CONFIG + 8, letter, 4)
            assert await reader.readexactly(4) == b"Oops"
            assert await rig.call(rig.slot.read, Reg.CONFIG + 4, 4) == PORTS
            writer.close()

    run(main())


def test_a_reset_closes_ports(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            port = await rig.add("virtserialport", "p0")
            await rig.start()
            await rig.message()
            await rig.open(1)
            _, writer = await rig.connect("p0")
            await rig.message()
            await rig.put(1, bytes(1 << 20))
            await settle(rig)
            await rig.call(reset_tree, rig.root)
            assert not port.state.guest_connected
            await settle(rig)
            assert changes(rig) == [(port.id, True), (port.id, False)]
            await rig.start()
            assert await rig.message() == (1, ADD, 1, b"")
            writer.close()

    run(main())


def test_saved_and_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with ConsoleRig(tmp_path) as rig:
            port = await rig.add("virtserialport", "p0")
            await rig.start()
            await rig.message()
            await rig.open(1)
            reader, writer = await rig.connect("p0")
            await rig.message()
            await settle(rig)
            writer.write(b"for the guest")
            while len(port.state.inbox) < 13:
                await asyncio.sleep(0)
            data = random.Random(3).randbytes(1 << 20)
            await rig.put(1, data)
            await settle(rig)
            await rig.call(rig.vm.clock.stop)
            await settle(rig)
            unit = await rig.call(port.save)
            assert unit["inbox"] == list(b"for the guest")
            assert "element" in unit, "a buffer is half written"
            device = await rig.call(rig.serial.save)
            await rig.call(port.load, unit)
            await rig.call(rig.serial.load, device)
            await rig.call(rig.vm.clock.start)
            assert await reader.readexactly(len(data)) == data
            await rig.leave_room(input_of(1), 64)
            assert await rig.used(input_of(1)) == b"for the guest"
            with pytest.raises(GenericError, match="'inbox' has 32769 bytes"):
                await rig.call(port.load, {**unit, "inbox": [0] * 32769})
            writer.close()

    run(main())


def test_hostile_drivers(tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(7)
        async with ConsoleRig(tmp_path) as rig:
            await rig.add("virtserialport", "p0", name="org.test.0")
            await rig.add("virtconsole", "c0")
            await rig.chardevs.open_compact("n0", "null")
            await rig.add("virtserialport", "n0")
            await rig.start()
            for _ in range(1500):

                def put() -> None:
                    queue = rng.randrange(2 * PORTS + 2)
                    readable = [rng.randbytes(rng.choice((0, 4, 8, 100))) for _ in range(rng.randrange(3))]
                    if rng.random() < 0.5:
                        readable = [
                            rng.randrange(5).to_bytes(4, "little")
                            + rng.randrange(9).to_bytes(2, "little")
                            + rng.randrange(2).to_bytes(2, "little")
                        ]
                    writable = [rng.choice((0, 1, 7, 8, 64)) for _ in range(rng.randrange(3))]
                    if len(rig.driver.queues[queue].free) > 6 and (readable or writable):
                        rig.driver.add(queue, readable, writable)
                        rig.driver.set(Reg.QUEUE_NOTIFY, queue)

                await rig.call(put)
                if rig.serial.state.broken or rng.random() < 0.05:
                    await rig.call(lambda: rig.driver.start(size=16, count=2 * PORTS + 2))
            await rig.call(lambda: rig.driver.start(size=16, count=2 * PORTS + 2))
            await rig.leave_room(TO_GUEST, 64)
            await rig.say(0, READY)

    run(main())
