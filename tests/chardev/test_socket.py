"""What only sockets do: paths, modes, descriptors, waiting, reconnecting, telnet."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from qemud.chardev.registry import Chardevs
from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import Peer, UnixServer, User, run_on

if TYPE_CHECKING:
    from pathlib import Path

OPENED, CLOSED, BREAK = ChardevEvent.OPENED, ChardevEvent.CLOSED, ChardevEvent.BREAK


def connect(path: Path | str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.fspath(path))
    return sock


# -- the path of a UNIX socket -----------------------------------------------------------------------------------------


def test_a_path_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        before = os.umask(0)
        try:
            await rig.open()
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        await rig.chardevs.remove("c")
        assert not (tmp_path / "s").exists()

    run_on("asyncio", main())


def test_a_stale_path_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / "s"))

    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open())
        with connect(tmp_path / "s"):
            await user.sees(OPENED)
        await rig.chardevs.close_all()

    run_on("asyncio", main())


@pytest.mark.parametrize("full", [False, True])
def test_a_path_that_somebody_listens_on_is_left_alone(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
            alive.bind(os.fspath(path))
            alive.listen(0)
            if full:
                waiting.connect(os.fspath(path))
            with pytest.raises(
                GenericError, match=rf"^Failed to bind socket to {path}: Address already in use$"
            ):
                await UnixServer(tmp_path).open()
            assert path.exists()

    run_on("asyncio", main())


def test_a_file_is_not_taken_for_a_stale_socket(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    async def main() -> None:
        with pytest.raises(GenericError, match=r"Address already in use$"):
            await UnixServer(tmp_path).open()

    run_on("asyncio", main())
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_that_another_has_taken_over_is_not_removed(tmp_path: Path) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        await rig.open()
        (tmp_path / "s").unlink()
        (tmp_path / "s").write_text("somebody else's")
        await rig.chardevs.close_all()

    run_on("asyncio", main())
    assert (tmp_path / "s").exists()


def test_a_path_too_long_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        path = "/" + "x" * 107
        with pytest.raises(GenericError, match=rf"^UNIX socket path '{path}' is too long$"):
            await Chardevs().open_options(f"socket,id=c,path={path},server=on,wait=off")

    run_on("asyncio", main())


def test_without_a_path_a_server_chooses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))

    async def main() -> None:
        chardevs = Chardevs()
        chardev = await chardevs.open_options("socket,id=c,path=,server=on,wait=off")
        path = chardev.filename.removeprefix("disconnected:unix:").removesuffix(",server=on")
        assert path.startswith(f"{tmp_path}/qemud-socket-")
        connect(path).close()
        await chardevs.close_all()

    run_on("asyncio", main())
    assert not list(tmp_path.iterdir())


# -- descriptors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_descriptors_come_with_their_message(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open())
        with connect(tmp_path / "s") as sock:
            await user.sees(OPENED)
            pipes = [os.pipe() for _ in range(3)]
            for (reader, writer), text in zip(pipes, (b"first", b"second", b"third"), strict=True):
                socket.send_fds(sock, [text], [reader])
                os.close(reader)
                os.write(writer, b"in the pipe of " + text)
                os.close(writer)
            await user.gets(b"firstsecondthird")
            for text in (b"first", b"second", b"third"):
                (fd,) = user.port.take_fds()
                assert not os.get_inheritable(fd)
                assert os.get_blocking(fd)
                assert os.read(fd, 100) == b"in the pipe of " + text
                os.close(fd)
            assert user.port.take_fds() == []
        await rig.chardevs.close_all()

    run_on(loop, main())


def test_descriptors_that_nobody_takes_are_closed(tmp_path: Path) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open())
        with connect(tmp_path / "s") as sock:
            await user.sees(OPENED)
            before = len(os.listdir("/proc/self/fd"))
            reader, writer = os.pipe()
            for _ in range(100):
                socket.send_fds(sock, [b"x"], [writer])
            os.close(writer)
            await user.gets(b"x" * 100)
            assert len(os.listdir("/proc/self/fd")) < before + 30
        await user.sees(CLOSED)
        assert os.read(reader, 1) == b""  # no writer is left
        os.close(reader)
        await rig.chardevs.close_all()

    run_on("asyncio", main())


def test_a_listening_descriptor_is_served_and_never_removed(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.fspath(tmp_path / "s"))
            listening.listen(3)
            fd = listening.detach()
        with connect(tmp_path / "s") as early:  # before anybody accepts
            chardevs = Chardevs()
            chardev = await chardevs.open_options(f"socket,id=c,fd={fd},server=on,wait=off")
            assert chardev.filename == f"disconnected:unix:{tmp_path}/s,server=on"
            user = User(chardev)
            await user.sees(OPENED)
            assert chardev.filename == f"unix:{tmp_path}/s,server=on"
            early.send(b"hello")
            await user.gets(b"hello")
        await user.sees(CLOSED)
        with connect(tmp_path / "s"):
            await user.sees(OPENED)
        await chardevs.close_all()
        assert (tmp_path / "s").exists()

    run_on("asyncio", main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("fd=999999,server=on,wait=off", "File descriptor '999999' is not a socket"),
        ("fd=-1,server=on,wait=off", "File descriptor '-1' is not a socket"),
        (
            "fd=99999999999999999999,server=on,wait=off",
            "File descriptor '99999999999999999999' is not a socket",
        ),
        ("fd=abc", "Unable to parse FD number abc"),
        (
            "path=/nonexistent/s,server=on,wait=off",
            "Failed to bind socket to /nonexistent/s: No such file or directory",
        ),
        ("path=/nonexistent/s", "Failed to connect to '/nonexistent/s': No such file or directory"),
        ("path=/s,wait=off", "'wait' option is incompatible with socket in client connect mode"),
        ("path=/s,reconnect=1,reconnect-ms=1", "'reconnect' and 'reconnect-ms' are mutually exclusive"),
        (
            "path=/s,server=on,reconnect=1",
            "'reconnect' option is incompatible with socket in server listen mode",
        ),
        ("fd=0,reconnect=1", "'reconnect' option is incompatible with 'fd' address type"),
        ("host=127.0.0.1,port=1", "Failed to connect to '127.0.0.1:1': Connection refused"),
        ("host=127.0.0.1,port=99999", "port 99999 out of range"),
        (
            "host=127.0.0.1,port=abc,server=on,wait=off",
            "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype",
        ),
        ("host=a,port=1,ipv4=off,ipv6=off", "Cannot disable IPv4 and IPv6 at same time"),
        ("host=127.0.0.1,port=5,to=3,server=on,wait=off", "Failed to create a socket"),
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_cannot_be_opened_is_refused_in_qemus_words(options: str, text: str, loop: str) -> None:
    async def main() -> None:
        chardevs = Chardevs()
        with pytest.raises(GenericError) as caught:
            await chardevs.open_options(f"socket,id=c,{options}")
        assert str(caught.value) == text
        assert chardevs.get("c") is None

    run_on(loop, main())


# -- waiting and reconnecting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_may_wait_for_its_client(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        told: list[str] = []
        chardevs = Chardevs(report=told.append)
        opening = asyncio.create_task(chardevs.open_options(f"socket,id=c,path={tmp_path}/s,server=on"))
        while not told:
            await asyncio.sleep(0)
        assert told == [f"info: QEMU waiting for connection on: disconnected:unix:{tmp_path}/s,server=on"]
        assert chardevs.get("c") is None
        with pytest.raises(GenericError, match=r"^Duplicate ID 'c' for chardev$"):
            await chardevs.open_options("null,id=c")
        with connect(tmp_path / "s"):
            user = User(await opening)
            await user.sees(OPENED)
        await chardevs.close_all()

    run_on(loop, main())


def test_giving_up_the_wait_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        told: list[str] = []
        chardevs = Chardevs(report=told.append)
        opening = asyncio.create_task(chardevs.open_options(f"socket,id=c,path={tmp_path}/s,server=on"))
        while not told:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not (tmp_path / "s").exists()
        await chardevs.open_options("null,id=c")  # the ID is free
        await chardevs.close_all()

    run_on("asyncio", main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_connects_again(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        told: list[str] = []
        chardevs = Chardevs(report=told.append)
        chardev = await chardevs.open_options(f"socket,id=c,path={tmp_path}/s,reconnect-ms=2")
        assert chardev.filename == f"disconnected:unix:{tmp_path}/s"
        user = User(chardev)
        while not told:
            await asyncio.sleep(0.001)
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(os.fspath(tmp_path / "s"))
                listening.listen(1)
                listening.setblocking(False)
                sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            (tmp_path / "s").unlink()
            with sock:
                await user.sees(OPENED)
                assert chardev.filename == f"unix:{tmp_path}/s"
                sock.send(b"hello")
                await user.gets(b"hello")
            await user.sees(CLOSED)
        trouble = f"Unable to connect character device c: Failed to connect to '{tmp_path}/s': "
        assert told[0] == f"{trouble}No such file or directory"
        await chardevs.close_all()

    run_on(loop, main())


def test_a_port_is_chosen_from_a_range() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            last = min(port + 50, 65535)
            chardevs = Chardevs()
            chardev = await chardevs.open_options(
                f"socket,id=c,host=127.0.0.1,port={port},to={last},server=on,wait=off"
            )
            chosen = int(chardev.filename.removesuffix(",server=on").rpartition(":")[2])
            assert port < chosen <= last
            user = User(chardev)
            with socket.create_connection(("127.0.0.1", chosen)) as sock:
                await user.sees(OPENED)
                here, there = sock.getpeername(), sock.getsockname()
                assert chardev.filename == f"tcp:{here[0]}:{here[1]},server=on <-> {there[0]}:{there[1]}"
            with pytest.raises(
                GenericError, match=r"^Failed to find an available port: Address already in use$"
            ):
                await chardevs.open_options(f"socket,id=d,host=127.0.0.1,port={port},server=on,wait=off")
            await chardevs.close_all()

    run_on("asyncio", main())


def test_one_client_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open())
        with connect(tmp_path / "s") as first, connect(tmp_path / "s") as second:
            await user.sees(OPENED)
            second.send(b"second")
            first.send(b"first")
            await user.gets(b"first")
            first.close()
            await user.sees(CLOSED, OPENED)
            await user.gets(b"second")
        await rig.chardevs.close_all()

    run_on("asyncio", main())


def test_a_client_that_resets_does_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        chardevs = Chardevs()
        chardev = await chardevs.open_options("socket,id=c,host=127.0.0.1,port=0,server=on,wait=off")
        port = int(chardev.filename.removesuffix(",server=on").rpartition(":")[2])
        user = User(chardev)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                await user.sees(OPENED)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 0]).tobytes())
            user.port.write(b"x" * 100_000)
            user.port.write(b"y")
            await user.sees(CLOSED)
            assert user.port.pending == 0
        await chardevs.close_all()

    run_on("asyncio", main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [1, 300_000])
@pytest.mark.parametrize("answers", [False, True])
def test_the_last_words_of_one_who_resets_are_read_and_the_next_is_served(
    loop: str, size: int, answers: bool
) -> None:
    async def main() -> None:
        chardevs = Chardevs()
        chardev = await chardevs.open_options("socket,id=c,host=127.0.0.1,port=0,server=on,wait=off")
        port = int(chardev.filename.removesuffix(",server=on").rpartition(":")[2])
        user = User(chardev, credit=0)
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                await user.sees(OPENED)
                peer = Peer(fd := os.dup(sock.fileno()), fd)
                writing = asyncio.create_task(peer.write(bytes(size)))
                user.port.grant(size)
                if size > 1:
                    await user.until(lambda: len(user.received) >= size // 2)
                await writing
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 0]).tobytes())
                peer.close()
            if answers:
                user.port.write(b"x")
                user.port.write(b"y")
            await user.sees(CLOSED)
            await user.gets(bytes(size))
        await chardevs.close_all()

    run_on(loop, main())


# -- a client that finishes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_who_only_finishes_is_read_to_the_end_and_gets_every_answer(tmp_path: Path, loop: str) -> None:
    answer = b"answer" * 200_000  # more than the kernel keeps for a peer that does not read

    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open(), credit=3)
        with connect(tmp_path / "s") as sock:
            peer = Peer(fd := os.dup(sock.fileno()), fd)
            sock.sendall(b"questions")
            sock.shutdown(socket.SHUT_WR)
        await user.sees(OPENED)
        await user.gets(b"que")
        user.port.write(answer)
        user.port.grant(100)
        await user.gets(b"stions")
        assert not user.events
        assert await peer.read(len(answer) + 1) == answer
        await user.sees(CLOSED)
        peer.close()
        await rig.chardevs.close_all()

    run_on(loop, main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_who_finishes_and_goes_before_the_answer_is_not_waited_for(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        rig = UnixServer(tmp_path)
        user = User(await rig.open())
        with connect(tmp_path / "s") as sock:
            await user.sees(OPENED)
            user.port.write(bytes(1_000_000))
            sock.shutdown(socket.SHUT_WR)
        await user.sees(CLOSED)
        assert user.port.pending == 0
        await rig.chardevs.close_all()

    run_on(loop, main())


# -- telnet ------------------------------------------------------------------------------------------------------------


def test_telnet_is_spoken(tmp_path: Path) -> None:
    async def main() -> None:
        chardevs = Chardevs()
        chardev = await chardevs.open_compact("c", "telnet:127.0.0.1:0,server=on,wait=off")
        assert chardev.filename.startswith("disconnected:telnet:127.0.0.1:")
        port = int(chardev.filename.removesuffix(",server=on").rpartition(":")[2])
        user = User(chardev)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            peer = Peer(fd := sock.detach(), fd)
        assert await peer.read(12) == b"\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00"
        await user.sees(OPENED)
        for byte in b"\xff\xfd\x01\xff\xfa\x18\x00xterm\xff\xf0a\xff\xffb\xff\xf3c":
            await peer.write(bytes([byte]))
        await user.gets(b"a\xffbc")
        await user.sees(BREAK)
        user.port.write(b"\xff!")
        assert await peer.read(3) == b"\xff\xff!"
        peer.close()
        await chardevs.close_all()

    run_on("asyncio", main())
