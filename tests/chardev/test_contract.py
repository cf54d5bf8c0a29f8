"""What holds for every kind of chardev, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import LOOPS, RIGS, Rig, UnixServer, User, run_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qemud.chardev.stream import Chardev

BIG = bytes(range(256)) * 4096  # 1 MiB: more than any kernel buffer here


@pytest.fixture(params=sorted(RIGS))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with contextlib.closing(RIGS[request.param](tmp_path)) as made:
        yield made


@pytest.fixture(params=sorted(name for name, kind in RIGS.items() if kind.has_input))
def input_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with contextlib.closing(RIGS[request.param](tmp_path)) as made:
        yield made


@pytest.fixture(params=sorted(name for name, kind in RIGS.items() if kind.reconnects))
def reconnecting_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with contextlib.closing(RIGS[request.param](tmp_path)) as made:
        yield made


def open_now(chardev: Chardev) -> bool:
    return chardev.is_open


def test_opens_and_carries_bytes_both_ways(run, rig: Rig) -> None:
    async def main() -> None:
        chardev = await rig.open()
        user = User(chardev)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        user.port.write(b"from the guest")
        assert await peer.read(14) == b"from the guest"
        if rig.has_input:
            await peer.write(b"to the guest")
            await user.gets(b"to the guest")
        peer.close()
        await rig.chardevs.close_all()

    run(main())


def test_a_slow_reader_loses_nothing_and_stops_nobody(run, rig: Rig) -> None:
    async def main() -> None:
        chardev = await rig.open()
        user = User(chardev)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        for start in range(0, len(BIG), 65536):
            user.port.write(BIG[start : start + 65536])
        if rig.blocks:
            assert user.port.pending > 0
        drain = asyncio.create_task(user.port.drain())
        assert await peer.read(len(BIG)) == BIG
        await drain
        await user.until(lambda: user.port.pending == 0)
        peer.close()
        await rig.chardevs.close_all()

    run(main())


def test_input_comes_only_as_far_as_it_is_granted(run, input_rig: Rig) -> None:
    async def main() -> None:
        rig = input_rig
        chardev = await rig.open()
        user = User(chardev, credit=0)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        sending = asyncio.create_task(peer.write(BIG))
        got = bytearray()
        for size in (1, 2, 16, 1000):
            user.port.grant(size)
            await user.until_received(size)
            got += user.received
            user.received.clear()
        assert not (rig.blocks and sending.done())  # the kernel's buffers are full
        user.port.set_paused(paused=True)
        user.port.grant(len(BIG))
        await asyncio.sleep(0)
        assert not user.received
        user.port.set_paused(paused=False)
        await user.until(lambda: len(got) + len(user.received) == len(BIG))
        assert bytes(got + user.received) == BIG
        await sending
        peer.close()
        await rig.chardevs.close_all()

    run(main())


def test_accepts_again_after_a_disconnect(run, reconnecting_rig: Rig) -> None:
    async def main() -> None:
        rig = reconnecting_rig
        chardev = await rig.open()
        disconnected = chardev.filename
        user = User(chardev)
        for round_ in range(3):
            peer = await rig.peer()
            await user.sees(ChardevEvent.OPENED)
            assert open_now(chardev)
            await peer.write(b"hello %d" % round_)
            await user.gets(b"hello %d" % round_)
            peer.close()
            await user.sees(ChardevEvent.CLOSED)
            assert not open_now(chardev)
            assert chardev.filename == disconnected
            user.port.write(b"nobody hears this")
            assert user.port.pending == 0
        await rig.chardevs.close_all()

    run(main())


def test_a_hang_up_is_noticed_while_nobody_reads(run, reconnecting_rig: Rig) -> None:
    """What the vanished client sent is still delivered, before its end is told, and the next client need not wait."""

    async def main() -> None:
        rig = reconnecting_rig
        chardev = await rig.open()
        user = User(chardev, credit=3)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        await peer.write(b"first client")
        await user.gets(b"fir")
        user.port.write(b"answer")
        assert await peer.read(6) == b"answer"
        peer.close()
        while open_now(chardev):  # nobody is told yet: the user has not seen all input
            await asyncio.sleep(0.001)
        assert not user.events
        second = await rig.peer()
        while not open_now(chardev):
            await asyncio.sleep(0.001)
        user.port.write(b"welcome")
        assert await second.read(7) == b"welcome"
        await second.write(b"second")
        user.port.grant(100)
        await user.until(lambda: len(user.received) == 15)
        assert bytes(user.received) == b"st clientsecond"
        await user.sees(ChardevEvent.CLOSED, ChardevEvent.OPENED)
        second.close()
        await rig.chardevs.close_all()

    run(main())


def test_what_is_pending_leaves_when_all_is_closed(run, rig: Rig) -> None:
    async def main() -> None:
        chardev = await rig.open()
        user = User(chardev)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        user.port.write(BIG)
        reading = asyncio.create_task(peer.read(len(BIG)))
        if not rig.keeps:
            await reading
        await rig.chardevs.close_all()
        assert await reading == BIG
        peer.close()

    run(main())


def test_the_log_has_a_copy_of_all_output(run, rig: Rig) -> None:
    log = rig.directory / "log"
    log.write_bytes(b"old ")

    async def main() -> None:
        chardev = await rig.open(f",logfile={log},logappend=on")
        user = User(chardev)
        user.port.write(b"before anybody came, ")
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        user.port.write(b"after")
        if rig.has_input:
            await peer.write(b"input is not logged")
            await user.gets(b"input is not logged")
        await rig.chardevs.close_all()
        peer.close()

    run(main())
    assert log.read_bytes() == b"old before anybody came, after"


def test_one_user_at_a_time(run, rig: Rig) -> None:
    async def main() -> None:
        chardev = await rig.open()
        user = User(chardev)
        with pytest.raises(GenericError, match=r"^chardev 'c' is already in use$"):
            chardev.attach()
        with pytest.raises(GenericError, match=r"^Chardev 'c' is busy$"):
            await rig.chardevs.remove("c")
        user.port.detach()
        again = User(chardev)
        again.port.detach()
        await rig.chardevs.remove("c")
        assert rig.chardevs.get("c") is None

    run(main())


def test_a_multiplexer_passes_everything_on(run, input_rig: Rig) -> None:
    async def main() -> None:
        rig = input_rig
        chardev = await rig.open(",mux=on")
        first, second = User(chardev), User(chardev)
        peer = await rig.peer()
        await second.until(lambda: ChardevEvent.OPENED in second.events)
        first.port.write(b"one,")
        second.port.write(b"two")
        assert await peer.read(7) == b"one,two"
        await peer.write(b"typed\x01c" + BIG.replace(b"\x01", b"\x01\x01"))
        await second.gets(b"typed")
        await first.gets(BIG)
        peer.close()
        await rig.chardevs.close_all()

    run(main())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(
    outputs=st.lists(st.binary(min_size=1, max_size=3000), max_size=30),
    inputs=st.lists(st.binary(min_size=1, max_size=3000), max_size=30),
    grants=st.lists(st.integers(1, 4000), min_size=1, max_size=20),
    pauses=st.lists(st.booleans(), max_size=20),
    loop=st.sampled_from(sorted(LOOPS)),
)
def test_bytes_in_are_bytes_out(  # noqa: PLR0917 - what hypothesis draws
    tmp_path_factory, outputs, inputs, grants, pauses, loop
) -> None:
    """Whatever the pieces and the back-pressure."""

    async def main() -> None:
        rig = UnixServer(tmp_path_factory.mktemp("law"))
        chardev = await rig.open()
        user = User(chardev, credit=0)
        peer = await rig.peer()
        sent, expected = b"".join(outputs), b"".join(inputs)

        async def type_() -> None:
            for piece in inputs:
                await peer.write(piece)
                await asyncio.sleep(0)

        async def take() -> None:
            for index, size in enumerate(grants):
                if index < len(pauses) and pauses[index]:
                    user.port.set_paused(paused=True)
                    await asyncio.sleep(0)
                    user.port.set_paused(paused=False)
                granted = min(len(expected), sum(grants[: index + 1]))
                user.port.grant(size)
                await user.until_received(granted)
            user.port.grant(len(expected))
            await user.until(lambda: len(user.received) == len(expected))

        async def say() -> None:
            await user.until(lambda: ChardevEvent.OPENED in user.events)
            for piece in outputs:
                user.port.write(piece)
                await asyncio.sleep(0)

        results = await asyncio.gather(type_(), take(), say(), peer.read(len(sent)))
        assert results[-1] == sent
        assert bytes(user.received) == expected
        peer.close()
        await rig.chardevs.close_all()

    run_on(loop, main())


def test_a_log_that_nobody_reads_stops_nobody(run, tmp_path: Path) -> None:
    """A named pipe as the log: what it has no room for is lost, but nothing waits."""
    os.mkfifo(tmp_path / "log")

    async def main() -> None:
        rig = UnixServer(tmp_path)
        chardev = await rig.open(f",logfile={tmp_path}/log")
        user = User(chardev)
        peer = await rig.peer()
        await user.sees(ChardevEvent.OPENED)
        reading = asyncio.create_task(peer.read(len(BIG)))
        user.port.write(BIG)
        assert await reading == BIG
        await user.until(lambda: user.port.pending == 0)
        await rig.chardevs.close_all()
        peer.close()

    run(main())


def test_a_log_slower_than_the_line_slows_the_writer(tmp_path: Path) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open(f",logfile={tmp_path}/log"))
        user.port.write(b"x" * 100_000)  # nobody is connected: only the log has it
        assert user.port.pending == 100_000
        await user.until(lambda: user.drains)
        assert user.port.pending == 0
        assert (tmp_path / "log").read_bytes() == b"x" * 100_000
        await rig.chardevs.close_all()

    run_on("asyncio", main())
