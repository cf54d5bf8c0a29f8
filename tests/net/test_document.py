"""Networks in a document of the machine: what is described and made again is described in the same words."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.net.client import connect
from qemud.net.document import Description
from qemud.net.options import Legacy
from qemud.qapi.runtime.check import encode, parse_type
from tests.net.support import End, rig

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.net.support import Rig


def described(made: Rig) -> list[dict[str, Any]]:
    """The document's part, as a client gets it."""
    found: list[dict[str, Any]] = json.loads(encode(Description(made.networks).netdevs))
    return found


def shown(made: Rig) -> list[tuple[Any, ...]]:
    """What is connected to what."""
    networks = made.networks
    return [
        (each.kind, each.name, each.peer.name if each.peer is not None else None) for each in networks.clients
    ]


async def build(made: Rig, document: list[dict[str, Any]]) -> None:
    for each in document:
        await made.networks.add(parse_type("Netdev", each))


async def again(document: list[dict[str, Any]], connected: list[tuple[Any, ...]] | None = None) -> None:
    """Networks from a document are described by it."""
    async with rig() as made:
        await build(made, document)
        assert described(made) == document
        if connected is not None:
            assert shown(made) == connected


class Card(End):
    """As much of a card as a backend sees."""

    is_nic = True


IDS = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
USER = st.fixed_dictionaries(
    {"type": st.just("user")},
    optional={
        "restrict": st.booleans(),
        "hostname": st.just("guest"),
        "net": st.just("10.1.0.0/16"),
        "dnssearch": st.lists(st.sampled_from(["a.example", "b.example"]), max_size=2).map(
            lambda names: [{"str": name} for name in names]
        ),
    },
)
UDP = st.just(
    {
        "type": "dgram",
        "local": {"type": "inet", "host": "127.0.0.1", "port": "0"},
        "remote": {"type": "inet", "host": "127.0.0.1", "port": "9"},
    }
)
CONNECT = st.fixed_dictionaries(
    {
        "type": st.just("stream"),
        "addr": st.just({"type": "unix", "path": "/nowhere/at/all"}),
        "reconnect-ms": st.sampled_from([100_000, 200_000]),
    }
)
MCAST = st.just({"type": "socket", "udp": "127.0.0.1:9", "localaddr": "127.0.0.1:0"})


@st.composite
def documents(draw: st.DrawFn, folder: Path) -> list[dict[str, Any]]:
    """Backends, some of them at hubs."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(draw(st.lists(IDS, max_size=5, unique=True))):
        serve = st.just(
            {"type": "stream", "server": True, "addr": {"type": "unix", "path": str(folder / f"s{number}")}}
        )
        found.append({"id": name, **draw(st.one_of(USER, UDP, CONNECT, MCAST, serve))})
        if draw(st.booleans()):
            port = {"type": "hubport", "id": f"{name}.port", "hubid": draw(st.integers(0, 1))}
            found.append({**port, **draw(st.sampled_from([{}, {"netdev": name}]))})
    return found


@settings(max_examples=40)
@given(data=st.data())
def test_what_is_described_is_made_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    document = data.draw(documents(tmp_path_factory.getbasetemp()))

    async def test() -> None:
        async with rig() as made:
            await build(made, document)
            first, connected = described(made), shown(made)
        assert [each["id"] for each in first] == [each["id"] for each in document]
        for said, other in zip(document, first, strict=True):
            assert said.keys() <= other.keys() | {"dnssearch"}
        await again(first, connected)

    asyncio.run(test())


def test_what_the_older_options_make():
    async def test() -> None:
        async with rig() as made:
            legacy = Legacy()
            await legacy.nic(made.networks, "user", made.lines.append)
            await legacy.net(made.networks, "nic", made.lines.append)
            await legacy.net(made.networks, "user,hostname=x", made.lines.append)
            found = described(made)
            assert found == [
                {"type": "user", "id": "net000"},
                {"type": "hubport", "id": "hub0port0", "hubid": 0},
                {"type": "user", "id": "net002", "hostname": "x"},
                {"type": "hubport", "id": "hub0port1", "hubid": 0, "netdev": "net002"},
            ]
        await again(found)

    asyncio.run(test())


def test_rules_that_came_and_went():
    async def test() -> None:
        async with rig() as made:
            backend = await made.add("user,id=n,hostfwd=tcp:127.0.0.1:0-:22")
            backend.add_rule("udp:127.0.0.1:0-:53")
            assert described(made)[0]["hostfwd"] == [
                {"str": "tcp:127.0.0.1:0-:22"},
                {"str": "udp:127.0.0.1:0-:53"},
            ]
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            backend.add_rule(f"tcp:127.0.0.1:{port}-:80")
            assert len(described(made)[0]["hostfwd"]) == 3
            assert backend.remove_rule(f":127.0.0.1:{port}")
            assert not backend.remove_rule(f":127.0.0.1:{port}")
            found = described(made)
            assert len(found[0]["hostfwd"]) == 2
        await again(found)

    asyncio.run(test())


def test_a_port_whose_backend_is_gone():
    async def test() -> None:
        async with rig() as made:
            await made.add("hubport,id=p,hubid=3")
            await made.add("user,id=n")
            await made.add("hubport,id=q,hubid=3,netdev=n")
            port = made.networks.find_netdev("p")
            assert port is not None
            connect(Card("card"), port)
            await made.networks.remove("n")
            # The port leads nowhere now.
            assert described(made) == [
                {"type": "hubport", "id": "p", "hubid": 3},
                {"type": "hubport", "id": "q", "hubid": 3},
            ]

    asyncio.run(test())


def test_character_devices_of_rules_are_the_backends():
    async def test() -> None:
        async with rig() as made:
            await made.add("user,id=n,guestfwd=tcp:10.0.2.100:9-null")
            assert [each.label for each in made.chardevs] == ["guestfwd.tcp.9"]
            assert Description(made.networks).chardevs == {"guestfwd.tcp.9"}
            found = described(made)
        assert found == [{"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.100:9-null"}]}]
        await again(found)

    asyncio.run(test())
