"""The QMP commands, by their handlers, and what the command line says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types import char
from qemud.chardev.commands import CharHandlers
from qemud.chardev.options import KINDS, NotationError, parse_compact, parse_options
from qemud.chardev.registry import Chardevs
from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import User, run_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def backend(kind: str, **data: Any) -> Any:
    return parse_type("ChardevBackend", {"type": kind, "data": data})


def unix(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"type": "unix", "data": {"path": os.fspath(path), **more}}


class Room:
    """The handlers on a fresh set of chardevs."""

    def __init__(self, **how: Any) -> None:
        self.chardevs = Chardevs(announce=lambda _: None, **how)
        self.passed: dict[str, int] = {}
        services = SimpleNamespace(chardevs=self.chardevs, take_descriptor=self._take)
        self.qmp = CharHandlers(services)

    def _take(self, name: str) -> int:
        if name not in self.passed:
            raise GenericError(f"File descriptor named '{name}' has not been found")
        return self.passed.pop(name)

    async def add(self, label: str, kind: str, **data: Any) -> char.ChardevReturn:
        return await self.qmp.chardev_add(id=label, backend=backend(kind, **data))

    async def shown(self) -> dict[str, tuple[str, bool]]:
        return {info.label: (info.filename, info.frontend_open) for info in await self.qmp.query_chardev()}


def in_room(test: Callable[..., Any]) -> None:
    async def main() -> None:
        room = Room()
        try:
            await test(room)
        finally:
            room.chardevs.close_now()

    run_on("asyncio", main())


async def refused(awaitable: Any) -> str:
    with pytest.raises(GenericError) as caught:
        await awaitable
    return str(caught.value)


def test_add_query_remove() -> None:
    async def test(room: Room) -> None:
        assert await room.add("c0", "null") == char.ChardevReturn()
        assert await refused(room.add("c0", "null")) == "Chardev with id 'c0' already exists"
        assert await room.shown() == {"c0": ("null", False)}
        user = User(room.chardevs.get("c0"))
        assert await room.shown() == {"c0": ("null", True)}
        user.port.set_open(False)
        assert await room.shown() == {"c0": ("null", False)}
        assert await refused(room.qmp.chardev_remove(id="c0")) == "Chardev 'c0' is busy"
        user.port.detach()
        await room.qmp.chardev_remove(id="c0")
        assert await refused(room.qmp.chardev_remove(id="c0")) == "Chardev 'c0' not found"
        assert await room.shown() == {}

    in_room(test)


def test_filenames(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")

    async def test(room: Room) -> None:
        await room.add("s", "socket", addr=unix(tmp_path / "s"))
        await room.add("a", "socket", addr=unix("name", abstract=True))
        await room.add("w", "socket", addr=unix("name2", abstract=True, tight=False))
        await room.add("f", "file", out=os.fspath(tmp_path / "f"))
        await room.add("p", "pipe", device=os.fspath(tmp_path / "p"))
        await room.add("r", "ringbuf")
        await room.add("m", "memory", size=8)
        await room.add("x", "mux", chardev="r")
        made = await room.add("t", "pty", path=os.fspath(tmp_path / "link"))
        assert made.pty is not None
        assert os.readlink(tmp_path / "link") == made.pty
        shown = {label: filename for label, (filename, _) in (await room.shown()).items()}
        assert shown == {
            "s": f"disconnected:unix:{tmp_path}/s,server=on",
            "a": "disconnected:unix:name,abstract=on,tight=on,server=on",
            "w": "disconnected:unix:name2,abstract=on,server=on",
            "f": "file",
            "p": "pipe",
            "r": "ringbuf",
            "m": "memory",
            "x": "mux",
            "t": f"pty:{made.pty}",
        }
        await room.qmp.chardev_remove(id="t")
        assert not (tmp_path / "link").is_symlink()

    in_room(test)


def test_what_cannot_be_added_leaves_nothing(tmp_path: Path) -> None:
    async def test(room: Room) -> None:
        before = sorted(os.listdir("/proc/self/fd"))
        for kind, data, text in (
            ("file", {"out": "/nonexistent/x"}, "Could not open '/nonexistent/x': No such file or directory"),
            ("file", {"out": "a\0b"}, "Could not open 'a\0b': Invalid argument"),
            (
                "file",
                {"out": os.fspath(tmp_path / "out"), "in": "/nonexistent/i"},
                "Could not open '/nonexistent/i': No such file or directory",
            ),
            (
                "pipe",
                {"device": "/nonexistent/p"},
                "Could not open '/nonexistent/p': No such file or directory",
            ),
            ("ringbuf", {"size": 17}, "size of ringbuf chardev must be power of two"),
            ("ringbuf", {"size": -16}, "size of ringbuf chardev must be power of two"),
            ("mux", {"chardev": "nope"}, "mux: base chardev nope not found"),
            ("pty", {"path": "/nonexistent/l"}, "Failed to create PTY symlink: No such file or directory"),
            (
                "null",
                {"logfile": "/nonexistent/l"},
                "Could not create '/nonexistent/l': No such file or directory",
            ),
            (
                "socket",
                {"addr": {"type": "fd", "data": {"str": "7"}}},
                "File descriptor named '7' has not been found",
            ),
            (
                "socket",
                {"addr": unix(tmp_path / "s"), "server": False, "wait": True},
                "'wait' option is incompatible with socket in client connect mode",
            ),
            (
                "socket",
                {"addr": unix("/nonexistent/s"), "logfile": os.fspath(tmp_path / "log")},
                "Failed to bind socket to /nonexistent/s: No such file or directory",
            ),
        ):
            assert await refused(room.add("c", kind, **data)) == f"Failed to add chardev 'c': {text}"
            assert await room.shown() == {}
        assert sorted(os.listdir("/proc/self/fd")) == before

    in_room(test)


def test_change_keeps_the_user_and_on_error_the_old_one(tmp_path: Path) -> None:
    async def test(room: Room) -> None:
        change = room.qmp.chardev_change
        await room.add("c", "socket", addr=unix(tmp_path / "s"))
        chardev = room.chardevs.get("c")
        user = User(chardev, can_change=True)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await user.sees(ChardevEvent.OPENED)
        text = await refused(change(id="c", backend=backend("file", out="/nonexistent/1")))
        assert text == "Could not open '/nonexistent/1': No such file or directory"
        assert room.chardevs.get("c") is chardev
        user.port.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        # the same path again: the old one listens there until the new one does
        await change(id="c", backend=backend("socket", addr=unix(tmp_path / "s")))
        await user.sees(ChardevEvent.CLOSED)
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await user.sees(ChardevEvent.OPENED)
        writer.write(b"hello")
        await user.gets(b"hello")
        writer.close()
        await user.sees(ChardevEvent.CLOSED)
        await change(id="c", backend=backend("null"))
        await user.sees(ChardevEvent.OPENED)
        assert await room.shown() == {"c": ("null", True)}
        assert not (tmp_path / "s").exists()

    in_room(test)


def test_change_is_refused_in_qemus_words() -> None:
    async def test(room: Room) -> None:
        change = room.qmp.chardev_change
        null = backend("null")
        assert await refused(change(id="nope", backend=null)) == "Chardev 'nope' does not exist"
        await room.add("r", "ringbuf")
        await room.add("m", "mux", chardev="r")
        assert (
            await refused(change(id="m", backend=null))
            == "For mux or hub device hotswap is not supported yet"
        )
        assert await refused(change(id="r", backend=null)) == "Chardev user does not support chardev hotswap"
        await room.add("n", "null")
        text = await refused(change(id="n", backend=backend("file", out="/nonexistent/1")))
        assert text == "Failed to add chardev 'n': Could not open '/nonexistent/1': No such file or directory"
        assert (await room.shown())["n"] == ("null", False)
        made = await change(id="n", backend=backend("pty"))
        assert made.pty is not None

    in_room(test)


def test_break() -> None:
    async def test(room: Room) -> None:
        await room.add("c", "null")
        user = User(room.chardevs.get("c"))
        await user.sees(ChardevEvent.OPENED)
        await room.qmp.chardev_send_break(id="c")
        await user.sees(ChardevEvent.BREAK)
        assert await refused(room.qmp.chardev_send_break(id="d")) == "Chardev 'd' not found"

    in_room(test)


def test_backends() -> None:
    async def test(room: Room) -> None:
        names = {info.name for info in await room.qmp.query_chardev_backends()}
        assert names == {kind.value for kind in char.ChardevBackendKind}

    in_room(test)


# -- ring buffers ------------------------------------------------------------------------------------------------------

UTF8, BASE64 = char.DataFormat.UTF8, char.DataFormat.BASE64


def test_ringbuf() -> None:
    async def test(room: Room) -> None:
        read, write = room.qmp.ringbuf_read, room.qmp.ringbuf_write
        await room.add("r", "ringbuf", size=8)
        await write(device="r", data="0123456789é", format=UTF8)
        assert await read(device="r", size=100, format=UTF8) == "456789é"
        assert await read(device="r", size=100, format=UTF8) == ""
        await write(device="r", data="aGVs\nbG8=", format=BASE64)
        assert await read(device="r", size=3, format=BASE64) == "aGVs"
        await write(device="r", data="/wBh", format=BASE64)
        assert await read(device="r", size=100, format=UTF8) == "lo\ufffd\0a"
        await write(device="r", data="aéb", format=UTF8)
        assert await read(device="r", size=2, format=UTF8) == "a"  # not half a character
        assert await read(device="r", size=2, format=UTF8) == "é"
        assert await read(device="r", size=2, format=UTF8) == "b"
        await room.add("n", "null")
        assert await refused(read(device="r", size=0, format=UTF8)) == "size must be greater than zero"
        assert await refused(read(device="n", size=1, format=UTF8)) == "n is not a ringbuf device"
        assert await refused(read(device="x", size=1, format=UTF8)) == "Device 'x' not found"
        assert await refused(write(device="x", data="", format=UTF8)) == "Device 'x' not found"
        text = await refused(write(device="r", data="aGVs!!bG8=", format=BASE64))
        assert text == "Base64 data contains invalid characters"
        await write(device="r", data="a", format=BASE64)  # no whole byte
        assert await read(device="r", size=9, format=UTF8) == ""

    in_room(test)


def test_an_absurd_ring_buffer_costs_nothing() -> None:
    async def test(room: Room) -> None:
        await room.add("r", "ringbuf", size=1 << 62)
        await room.qmp.ringbuf_write(device="r", data="x", format=UTF8)
        assert await room.qmp.ringbuf_read(device="r", size=(1 << 63) - 1, format=UTF8) == "x"

    in_room(test)


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 40)), max_size=30), st.integers(0, 6))
def test_a_ring_buffer_keeps_the_last_bytes(steps: list[bytes | int], exponent: int) -> None:
    from qemud.chardev.ringbuf import RingbufChardev

    ringbuf = RingbufChardev("r", 1 << exponent)
    kept = b""
    for step in steps:
        if isinstance(step, bytes):
            ringbuf.write(step)
            kept = (kept + step)[-(1 << exponent) :]
        else:
            assert ringbuf.take(step) == kept[:step]
            kept = kept[step:]
    assert ringbuf.take(1 << 20) == kept


@given(st.text(max_size=40), st.lists(st.integers(1, 7), min_size=1, max_size=60))
def test_text_survives_any_cutting(text: str, sizes: list[int]) -> None:
    from qemud.chardev.ringbuf import RingbufChardev

    ringbuf = RingbufChardev("r", 65536)
    ringbuf.write(text.encode())
    # A size below a character's yields pieces of it; sizes of at least four bytes never do.
    pieces = [ringbuf.take_text(size + 3) for size in sizes]
    assert "".join([*pieces, ringbuf.take_text(65536)]) == text


# -- the command line --------------------------------------------------------------------------------------------------


def test_options_are_those_of_the_schema() -> None:
    fields = char.ChardevOptions.__struct_encode_fields__
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


def short_form(text: str, **how: Any) -> tuple[str | None, char.ChardevBackend, bool]:
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
