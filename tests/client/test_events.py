"""No event is lost: slow readers, cut wires, servers that forget."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from qemud.client import Client, ConnectionLost, Event, EventsLost, EventStream, GenericError, Reconnect
from qemud.client.events import DeviceDeletedEvent, ResumeEvent, ShutdownEvent, StopEvent
from tests.client.support import Wire, emulator, faked, run
from tests.programs import QEMU, QEMUD, Program, QmpError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SOON = Reconnect(delay=0.001, longest=0.01)


def event(name: str, **data: Any) -> bytes:
    when = {"seconds": 1, "microseconds": 0}
    return json.dumps({"timestamp": when, "event": name, "data": data}).encode() + b"\r\n"


def numbered(number: int) -> dict[str, Any]:
    when = {"seconds": 1, "microseconds": 0}
    return {"timestamp": when, "event": "TICK", "data": {"n": number}, "sequence": number}


def numbered_tick(number: int) -> bytes:
    return json.dumps(numbered(number)).encode() + b"\n"


def test_streams_get_what_they_ask_for() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            everything = qmp.events()
            deleted = qmp.events(DeviceDeletedEvent, where=lambda event: event.path.endswith("1"))
            named = qmp.events("NEWFANGLED", ShutdownEvent)
            await server.send(
                event("DEVICE_DELETED", path="/machine/0")
                + event("DEVICE_DELETED", path="/machine/1", device="d")
                + event("NEWFANGLED", size=9)
                + event("SHUTDOWN", guest=True, reason="solar-flare")
                + event("SHUTDOWN", guest="who knows")
            )
            assert [(await everything.get()).event for _ in range(5)] == [
                "DEVICE_DELETED",
                "DEVICE_DELETED",
                "NEWFANGLED",
                "SHUTDOWN",
                "SHUTDOWN",
            ]
            found = await deleted.get()
            assert (found.device, found.path, found.timestamp) == ("d", "/machine/1", 1.0)
            assert (await named.get()).data == {"size": 9}
            shutdown = await named.get()
            assert isinstance(shutdown, ShutdownEvent)
            assert shutdown.guest
            assert shutdown.reason.value == "solar-flare"
            strange = await named.get()
            assert type(strange) is Event
            assert strange.data == {"guest": "who knows"}
            named.close()
            with pytest.raises(StopAsyncIteration):
                await named.get()
            with pytest.raises(TimeoutError):
                await deleted.get(timeout=0)

    run(test())


def test_a_stream_that_nobody_reads_is_bounded_and_says_so() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            with qmp.events(limit=3) as events:
                await server.send(b"".join(event("TICK", n=n) for n in range(10)))
                asked = asyncio.ensure_future(qmp.query_name())
                await server.serve({})
                await asked
                with pytest.raises(EventsLost, match=r"^7 events were lost: they were not read in time$"):
                    await events.get()
                assert [(await events.get()).data["n"] for _ in range(3)] == [7, 8, 9]

    run(test())


@asynccontextmanager
async def cut_off(server: str, **options: Any) -> AsyncIterator[tuple[Client, Wire]]:
    async with Wire.to(server) as (wire, address), Client.connect(address, **options) as qmp:
        yield qmp, wire


async def cut(qmp: Client, wire: Wire) -> None:
    """Cut the wire, and wait until the client has noticed."""
    wire.cut()
    while qmp.connected:
        await asyncio.sleep(0)


def toggle(program: Program, times: int) -> None:
    """Cause 2 * `times` events by another monitor."""
    for _ in range(times):
        program.qmp.command("cont")
        program.qmp.command("stop")


async def take(events: EventStream[Any], count: int) -> list[Event]:
    return [await events.get() for _ in range(count)]


def test_reconnecting_loses_no_event() -> None:
    async def test(program: Program, address: str) -> None:
        async with cut_off(address, reconnect=SOON) as (qmp, wire):
            assert "event-replay" in qmp.enabled
            with qmp.events() as events, qmp.events(StopEvent) as stops:
                toggle(program, 1)
                seen = await take(events, 1)
                for turn in range(3):
                    await cut(qmp, wire)
                    toggle(program, 2)
                    seen += await take(events, 1)
                    assert not (await qmp.query_status()).running
                    assert wire.connections == turn + 2
                toggle(program, 1)
                seen += await take(events, 12)
                assert [event.event for event in seen] == ["RESUME", "STOP"] * 8
                assert [event.sequence for event in seen] == list(range(1, 17))
                assert len(await take(stops, 8)) == 8

    with emulator(QEMUD, "-machine", "none", "-S") as (program, address):
        run(test(program, address))


def test_a_connection_that_breaks_again_and_again_loses_no_event() -> None:
    """Cut after any number of bytes: in the greeting, in the replay, between events and within them, while more of them come."""

    def lives() -> Iterator[int]:
        numbers = random.Random(20)
        while True:
            yield numbers.randrange(1, numbers.choice([300, 3000, 20_000]))

    async def test(program: Program, address: str) -> None:
        async with cut_off(address, reconnect=Reconnect(delay=0, longest=0.001)) as (qmp, wire):
            with qmp.events() as events, qmp.events(StopEvent) as stops:
                wire.lifetimes = lives()
                await cut(qmp, wire)
                seen: list[Event] = []
                for _ in range(20):  # in portions that the server's history holds
                    toggling = asyncio.create_task(asyncio.to_thread(toggle, program, 50))
                    seen += await take(events, 100)
                    await toggling
                assert [event.sequence for event in seen] == list(range(1, 2001))
                assert [event.event for event in seen] == ["RESUME", "STOP"] * 1000
                assert [event.sequence for event in await take(stops, 1000)] == list(range(2, 2001, 2))
                assert wire.connections > 50

    with emulator(QEMUD, "-machine", "none", "-S") as (program, address):
        run(test(program, address))


def toggle_fast(program: Program, times: int) -> None:
    """The same, of one breath."""
    for _ in range(times // 100):
        program.qmp.send(b'{"execute": "cont"} {"execute": "stop"}' * 100)
        for _ in range(200):
            assert "return" in program.qmp.reply()
        program.qmp.log = b""
        program.qmp.events.clear()


def test_who_falls_asleep_learns_what_was_lost() -> None:
    """The server keeps neither unbounded output nor unbounded history: what is seen and what is said to be lost is everything."""
    total = 20_000

    async def test(program: Program, address: str) -> None:
        async with Client.connect(address) as qmp:
            with qmp.events(limit=total) as events:
                toggle_fast(program, total // 2)  # without a look at the socket
                seen, lost = [0], 0
                while seen[-1] < total:
                    try:
                        event = await events.get()
                    except EventsLost as gap:
                        lost += gap.count or 0
                    else:
                        seen.append(event.sequence or 0)
                assert seen == sorted(set(seen))
                assert lost > 0
                assert len(seen) - 1 + lost == total

    with emulator(QEMUD, "-machine", "none", "-S") as (program, address):
        run(test(program, address))


def test_a_replay_of_no_known_form_is_told_and_what_follows_comes() -> None:
    async def test() -> None:
        async with faked(numbered=True) as (qmp, server):
            with qmp.events() as events:
                for number in (1, 3):
                    await server.send(numbered_tick(number))
                assert (await events.get()).sequence == 1
                await server.serve({"instance": "one", "last": "three"})
                with pytest.raises(EventsLost, match="replay-events"):
                    await events.get()
                assert (await events.get()).sequence == 3
                await server.send(numbered_tick(4))
                assert (await events.get()).sequence == 4

    run(test())


def test_a_server_that_has_forgotten_says_how_many() -> None:
    async def test(program: Program, address: str) -> None:
        async with cut_off(address, reconnect=SOON) as (qmp, wire):
            with qmp.events() as events:
                wire.open = False
                await cut(qmp, wire)
                toggle(program, 600)
                with pytest.raises(TimeoutError):
                    await qmp.execute("query-status", timeout=0.01)
                wire.open = True
                with pytest.raises(
                    EventsLost, match=r"^176 events were lost: the server does not keep so many$"
                ):
                    await events.get()
                assert [event.sequence for event in await take(events, 1024)] == list(range(177, 1201))

    with emulator(QEMUD, "-machine", "none", "-S") as (program, address):
        run(test(program, address))


def test_another_server_at_the_same_place() -> None:
    async def test(address: str, second: str, other: Program) -> None:
        async with cut_off(address, reconnect=SOON) as (qmp, wire):
            with qmp.events() as events:
                await qmp.cont()
                assert (await events.get()).sequence == 1
                wire.server = second
                toggle(other, 5)
                await cut(qmp, wire)
                with pytest.raises(EventsLost, match="the server is another one now") as caught:
                    await events.get()
                assert caught.value.count is None
                await qmp.cont()
                assert (await events.get()).sequence == 11

    with (
        emulator(QEMUD, "-machine", "none", "-S") as (_, address),
        emulator(QEMUD, "-machine", "none", "-S") as (other, second),
    ):
        run(test(address, second, other))


@pytest.mark.differential
@pytest.mark.needs("qemu-system-riscv64")
def test_qemu_keeps_no_events_and_the_streams_say_so() -> None:
    async def test(program: Program, address: str) -> None:
        async with cut_off(address, reconnect=SOON) as (qmp, wire):
            assert not qmp.enabled
            with qmp.events() as events:
                await cut(qmp, wire)
                toggle(program, 1)
                with pytest.raises(EventsLost, match="the server does not keep them"):
                    await events.get()
                await qmp.cont()
                assert isinstance(await events.get(), ResumeEvent)

    with emulator(QEMU, "-machine", "none", "-S") as (program, address):
        run(test(program, address))


def test_events_that_the_server_held_back_are_asked_for() -> None:
    async def test() -> None:
        async with faked(numbered=True) as (qmp, server):
            with qmp.events() as events:
                for number in (1, 2, 6, 7):
                    await server.send(numbered_tick(number))
                asked = await server.serve({"instance": "one", "last": 7, "lost": 0, "events": []})
                assert asked["execute"] == "replay-events"
                asked = await server.serve(
                    {"instance": "one", "last": 7, "lost": 1, "events": [numbered(n) for n in range(4, 8)]}
                )
                assert asked["arguments"] == {"since": 2}
                assert [event.sequence for event in await take(events, 2)] == [1, 2]
                with pytest.raises(EventsLost, match=r"^1 events were lost"):
                    await events.get()
                await server.send(numbered_tick(8))
                assert [event.sequence for event in await take(events, 5)] == [4, 5, 6, 7, 8]

    run(test())


def test_giving_up() -> None:
    async def test(address: str) -> None:
        async with cut_off(address, reconnect=Reconnect(delay=0, longest=0, tries=3)) as (qmp, wire):
            with qmp.events() as events:
                waiting = asyncio.ensure_future(events.get())
                wire.open = False
                await cut(qmp, wire)
                with pytest.raises(ConnectionLost, match=r"^gave up after 3 tries: no QMP server: "):
                    await waiting
                with pytest.raises(ConnectionLost, match="gave up"):
                    await qmp.query_status()
                await qmp.wait_closed()

    with emulator(QEMUD, "-machine", "none", "-S") as (_, address):
        run(test(address))


def test_a_client_that_does_not_ask_sees_plain_qmp() -> None:
    with emulator(QEMUD, "-machine", "none", "-S") as (program, _):
        assert program.qmp.greeting["capabilities"] == ["oob", "event-replay"]
        toggle(program, 1)
        seen = program.qmp.event("RESUME")
        assert sorted(seen) == ["event", "timestamp"]
        replayed = program.qmp.command("replay-events", since=0)
        assert (replayed["last"], replayed["lost"]) == (2, 0)
        assert [record["sequence"] for record in replayed["events"]] == [1, 2]
        assert replayed["events"][0] == {"sequence": 1, **seen}
        nothing = program.qmp.command("replay-events")
        assert nothing == {**replayed, "events": []}
        with pytest.raises(QmpError, match=r"^Parameter 'since' expects the number of an event, 2 or less$"):
            program.qmp.command("replay-events", since=3)


def test_a_typed_replay() -> None:
    async def test(address: str) -> None:
        async with Client.connect(address, replay=False) as qmp:
            with qmp.events() as events:
                await qmp.cont()
                assert (await events.get()).sequence is None
            [record] = (await qmp.replay_events(since=0)).events
            assert record.event == "RESUME"
            assert record.data is UNSET
            with pytest.raises(GenericError):
                await qmp.replay_events(since=5)

    with emulator(QEMUD, "-machine", "none", "-S") as (_, address):
        run(test(address))
