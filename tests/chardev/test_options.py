"""Character devices on the command line: their options, the short forms, and what is made of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types.char_backends import ChardevBackend, ChardevOptions
from qemud.chardev.options import KINDS, NotationError, parse_compact, parse_options
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.room import Room, backend, in_room, refused, unix
from tests.chardev.support import run_on

if TYPE_CHECKING:
    from pathlib import Path


def test_options_are_those_of_the_schema() -> None:
    fields = ChardevOptions.__struct_encode_fields__
    assert set(KINDS) == set(fields)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("null", "chardev: no id specified"),
        ("id=c", 'chardev: "c" missing backend'),
        ("nope,id=c", "'nope' is not a valid char driver name"),
        ("null,id=c,foo=1", "Invalid parameter 'foo'"),
        ("null,id=c,foo", "Invalid parameter 'foo'"),
        ("null,id=c,mux=maybe", "Parameter 'mux' expects 'on' or 'off'"),
        ("null,id=c,append=xx", "Parameter 'append' expects 'on' or 'off'"),
        ("null,id=1c", "Parameter 'id' expects an identifier"),
        ("null,id=c,,d", "Parameter 'id' expects an identifier"),
        ("null,id=", "Parameter 'id' expects an identifier"),
        ("ringbuf,id=c,size=abc", "Parameter 'size' expects a non-negative number below 2^64"),
        ("socket,id=c,path=/a,reconnect=x", "Parameter 'reconnect' expects a number"),
        ("socket,id=c,host=x", "chardev: socket: no port given"),
        ("socket,id=c,path=/x,host=y", "None or one of 'path', 'fd' or 'host' option required."),
        ("socket,id=c,delay=on,nodelay=on,host=a,port=1", "'delay' and 'nodelay' are mutually exclusive"),
        ("socket,id=c,to=70000,host=a,port=1", "port 70000 out of range"),
        ("pipe,id=c", "chardev: pipe: no device path given"),
        ("file,id=c", "chardev: file: no filename given"),
        ("mux,id=c", "chardev: mux: no chardev given"),
    ],
)
def test_bad_options(text: str, error: str) -> None:
    with pytest.raises(GenericError) as caught:
        parse_options(text)
    assert str(caught.value) == error


def socket_of(**members: Any) -> Any:
    return backend("socket", **members)


def inet(host: str, port: str, **more: Any) -> dict[str, Any]:
    return {"type": "inet", "data": {"host": host, "port": port, **more}}


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("null,id=c", "c", backend("null")),
        ("pty,id=c,path=/l", "c", backend("pty", path="/l")),
        ("stdio,id=c,signal=off", "c", backend("stdio", signal=False)),
        (
            "ringbuf,id=c,size=4k,logfile=/l,logappend=on",
            "c",
            backend("ringbuf", size=4096, logfile="/l", logappend=True),
        ),
        ("ringbuf,id=c,size=0", "c", backend("ringbuf")),
        ("memory,id=c", "c", backend("ringbuf")),
        (
            "file,id=c,path=/o,input-path=/i,append=on",
            "c",
            backend("file", **{"out": "/o", "in": "/i", "append": True}),
        ),
        ("pipe,id=c,path=/p", "c", backend("pipe", device="/p")),
        ("mux,id=c,chardev=d", "c", backend("mux", chardev="d")),
        ("socket,id=c,path=/a,,b", "c", socket_of(addr=unix("/a,b"), server=False)),
        ("socket,id=c,path=/s,server=on", "c", socket_of(addr=unix("/s"), server=True, wait=True)),
        ("socket,id=c,path=/s,server,nowait", "c", socket_of(addr=unix("/s"), server=True, wait=False)),
        (
            "socket,id=c,host=h,port=1,to=9,ipv4=on,ipv6=off,nodelay=on,telnet=on,reconnect-ms=5",
            "c",
            socket_of(
                addr=inet("h", "1", to=9, ipv4=True, ipv6=False),
                server=False,
                nodelay=True,
                telnet=True,
                **{"reconnect-ms": 5},
            ),
        ),
        (
            "socket,id=c,host=h,port=1,delay=off",
            "c",
            socket_of(addr=inet("h", "1"), server=False, nodelay=True),
        ),
        (
            "socket,id=c,fd=7,server=on,wait=off",
            "c",
            socket_of(addr={"type": "fd", "data": {"str": "7"}}, server=True, wait=False),
        ),
    ],
)
def test_options_become_qmps_types(text: str, label: str, expected: Any) -> None:
    description = parse_options(text)
    assert description.label == label
    assert description.backend == expected
    assert not description.mux


def short_form(text: str, **how: Any) -> tuple[str | None, ChardevBackend, bool]:
    description = parse_compact(text, **how)
    return description.label, description.backend, description.mux


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", backend("null")),
        ("pty", backend("pty")),
        ("pty:/l", backend("pty", path="/l")),
        ("stdio", backend("stdio")),
        ("file:/a,b=c", backend("file", out="/a,b=c")),
        ("pipe:/p", backend("pipe", device="/p")),
        ("unix:/s,server=on,wait=off", socket_of(addr=unix("/s"), server=True, wait=False)),
        ("tcp:h:1", socket_of(addr=inet("h", "1"), server=False)),
        ("tcp::1,server=on,wait=off", socket_of(addr=inet("", "1"), server=True, wait=False)),
        ("tcp:[::1]:1,nodelay=on", socket_of(addr=inet("::1", "1"), server=False, nodelay=True)),
        ("telnet:h:1,server=on", socket_of(addr=inet("h", "1"), server=True, wait=True, telnet=True)),
    ],
)
def test_the_short_form(text: str, expected: Any) -> None:
    assert short_form(text) == (None, expected, False)


def test_the_short_form_with_a_monitor() -> None:
    assert short_form("mon:stdio", mux_monitor=True) == (None, backend("stdio", signal=False), True)
    assert short_form("mon:pty", mux_monitor=True) == (None, backend("pty"), True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nope", "'nope' is not a valid char driver"),
        ("tcp:foo", "'tcp:foo' is not a valid char driver"),
        ("", "'' is not a valid char driver"),
        ("mon:stdio", "mon: isn't supported in this context"),
    ],
)
def test_bad_short_forms(text: str, error: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse_compact(text)
    assert str(caught.value) == error


@given(
    st.text(max_size=40),
    st.sampled_from(["", "tcp:", "unix:", "mon:", "telnet:", "file:", "socket,id=c,", "null,id=c,"]),
)
def test_no_text_does_more_than_be_refused(text: str, start: str) -> None:
    for parse in (parse_options, parse_compact):
        with contextlib.suppress(GenericError):
            parse(start + text)


def test_the_registry_from_the_command_line(tmp_path: Path) -> None:
    async def test(room: Room) -> None:
        chardevs = room.chardevs
        mux = await chardevs.open_options("ringbuf,id=c,mux=on")
        assert await room.shown() == {"c-base": ("ringbuf", False), "c": ("mux", False)}
        assert await chardevs.open_compact("serial0", "chardev:c") is mux
        assert await refused(chardevs.open_compact("serial0", "chardev:d")) == 'chardev "d" not found'
        assert await refused(chardevs.open_options("null,id=c")) == "Duplicate ID 'c' for chardev"
        text = await refused(chardevs.open_options("file,id=f,path=/nonexistent/x"))
        assert text == "Could not open '/nonexistent/x': No such file or directory"
        serial = await chardevs.open_compact("serial0", f"file:{tmp_path}/out")
        serial.attach().write(b"hello")
        assert serial.label == "serial0"

    in_room(test)
    assert (tmp_path / "out").read_bytes() == b"hello"


def test_the_tree_is_told() -> None:
    told: list[tuple[str, str]] = []

    async def main() -> None:
        room = Room()
        room.chardevs.watch(lambda c: told.append(("+", c.label)), lambda c: told.append(("-", c.label)))
        await room.add("a", "null")
        await room.add("b", "null")
        await room.qmp.chardev_change(id="a", backend=backend("ringbuf"))
        await room.qmp.chardev_remove(id="a")
        await room.chardevs.close_all()

    run_on("asyncio", main())
    assert told == [("+", "a"), ("+", "b"), ("-", "a"), ("+", "a"), ("-", "a"), ("-", "b")]


def test_a_daemon_has_no_standard_input() -> None:
    async def main() -> None:
        room = Room(daemonized=True)
        assert await refused(room.chardevs.open_options("stdio,id=c")) == "cannot use stdio with -daemonize"

    run_on("asyncio", main())
