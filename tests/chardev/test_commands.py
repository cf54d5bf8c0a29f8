"""The QMP commands, by their handlers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from qemud._generated.types.char import ChardevReturn
from qemud._generated.types.char_backends import ChardevBackendKind
from qemud.chardev.stream import ChardevEvent
from tests.chardev.room import Room, backend, in_room, refused, unix
from tests.chardev.support import User

if TYPE_CHECKING:
    from pathlib import Path


def test_add_query_remove() -> None:
    async def test(room: Room) -> None:
        assert await room.add("c0", "null") == ChardevReturn()
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
        assert names == {kind.value for kind in ChardevBackendKind}

    in_room(test)
