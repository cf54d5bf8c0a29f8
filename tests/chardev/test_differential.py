"""The same questions about character devices to Debian's QEMU and to qemud: the same answers."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

BOARD = ("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none")


def ask(program: Program, command: str, arguments: dict[str, Any]) -> Any:
    """What is answered, errors too; numbers that the system chose are left out."""
    try:
        answer = program.qmp.command(command, **arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"
    if command == "query-chardev":
        answer = sorted(
            (
                info["label"],
                re.sub(r"/dev/pts/\d+|(?<=:)\d{2,}", "N", info["filename"]),
                info["frontend-open"],
            )
            for info in answer
            if info["label"] != "test-qmp"
        )
    elif isinstance(answer, dict) and "pty" in answer:
        answer["pty"] = "N"
    return answer


def script(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Commands and their arguments, one after the other."""

    def add(label: str, kind: str, **data: Any) -> tuple[str, dict[str, Any]]:
        return "chardev-add", {"id": label, "backend": {"type": kind, "data": data}}

    def change(label: str, kind: str, **data: Any) -> tuple[str, dict[str, Any]]:
        return "chardev-change", {"id": label, "backend": {"type": kind, "data": data}}

    def unix(path: str, **more: Any) -> dict[str, Any]:
        return {"type": "unix", "data": {"path": path, **more}}

    def inet(host: str, port: str, **more: Any) -> dict[str, Any]:
        return {"type": "inet", "data": {"host": host, "port": port, **more}}

    query: tuple[str, dict[str, Any]] = ("query-chardev", {})
    yield add("", "null")
    yield add("a/b", "null")
    yield add("a/b", "null")
    yield query
    yield add("s1", "socket", addr=unix(f"{directory}/s1"))
    yield add("s2", "socket", addr=unix(f"{directory}/abstract", abstract=True))
    yield add("s4", "socket", addr=inet("127.0.0.1", "0"))
    yield add("s5", "socket", addr=inet("::1", "0"))
    yield add("s6", "socket", addr=inet("127.0.0.1", "1"), server=False)
    yield add("s7", "socket", addr=inet("127.0.0.1", "1"), server=False, wait=True)
    yield add(
        "s8", "socket", addr=inet("127.0.0.1", "1"), server=False, **{"reconnect": 1, "reconnect-ms": 5}
    )
    yield add("s9", "socket", addr=inet("127.0.0.1", "1"), reconnect=1)
    yield add("s10", "socket", addr=inet("127.0.0.1", "1"), server=False, **{"reconnect-ms": 100_000})
    yield add("s11", "socket", addr={"type": "fd", "data": {"str": "7"}})
    yield add("s12", "socket", addr=unix("x" * 120))
    yield add("s13", "socket", addr=inet("127.0.0.1", "abc"))
    # A range of no ports is no question for both: QEMU ends its text with whatever error the process had last.
    yield add("s15", "socket", addr=inet("127.0.0.1", "0", ipv4=False, ipv6=False))
    yield add("s16", "socket", addr=unix(f"{directory}/s1"), server=False)
    yield add("s17", "socket", addr=unix("/nonexistent/s"), server=False)
    yield add("s18", "socket", addr=unix("/nonexistent/s"))
    yield add("s19", "socket", addr=inet("0.0.0.0", "0"), telnet=True)
    yield add("tls1", "socket", addr=inet("127.0.0.1", "0"), **{"tls-creds": "nope"})
    yield add("tls2", "socket", addr=inet("127.0.0.1", "0"), **{"tls-authz": "nope"})
    yield query
    for size in (0, 1, 8, 17, -16):
        yield add(f"r{size}", "ringbuf", size=size)
    yield add("r", "ringbuf")
    yield add("mem", "memory", size=8)
    yield add("p1", "pty")
    yield add("p2", "pty", path=f"{directory}/link")
    yield add("p3", "pty", path="/nonexistent/l")
    yield add("p4", "pipe", device="/nonexistent/p")
    yield add("p5", "pipe", device=f"{directory}/fifo")
    yield add("f1", "file", out=f"{directory}/out", append=True)
    yield add("f2", "file", **{"out": f"{directory}/out", "in": "/nonexistent/i"})
    yield add("f3", "file", out=f"{directory}")
    yield add("l1", "null", logfile="/nonexistent/l")
    yield add("m1", "mux", chardev="nope")
    yield add("m2", "mux", chardev="r")
    yield add("m3", "mux", chardev="r")
    yield add("x", "nope")
    yield add("x", "socket", addr={"type": "nope", "data": {}})
    yield "chardev-add", {"id": "x", "backend": {"type": "null"}}
    yield "chardev-add", {"id": "x", "backend": {}}
    yield "chardev-add", {"id": 7, "backend": {"type": "null", "data": {}}}
    yield add("x", "ringbuf", size="8")
    yield add("x", "file")
    yield query
    for label in ("r", "nope", "r8", "r8", "s2", "s4"):  # s2 makes room for the other program's
        yield "chardev-remove", {"id": label}
    for label in ("nope", "mem"):
        yield "chardev-send-break", {"id": label}
    for device, data, how in (
        ("mem", "0123456789", {}),
        ("mem", "aGVsbG8=", {"format": "base64"}),
        ("mem", "aGVs!!bG8=", {"format": "base64"}),
        ("mem", "aGVs\nbG8=", {"format": "base64"}),
        ("mem", "a", {"format": "base64"}),
        ("mem", "a", {"format": "nope"}),
        ("p1", "a", {}),
        ("nope", "a", {}),
    ):
        yield "ringbuf-write", {"device": device, "data": data, **how}
        yield "ringbuf-read", {"device": device, "size": 3, **how}
        yield "ringbuf-read", {"device": device, "size": 100}
    yield "ringbuf-read", {"device": "mem", "size": 0}
    yield "ringbuf-read", {"device": "mem", "size": -1}
    yield change("nope", "null")
    yield change("m2", "null")
    yield change("r", "null")
    yield change("f1", "ringbuf", size=16)
    yield query


def test_the_same_answers(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    answers = []
    for start in (daemon, reference):
        directory = tmp_path / "d"
        directory.mkdir()
        os.mkfifo(directory / "fifo")
        program = start(*BOARD)
        answers.append([(question, ask(program, *question)) for question in script(directory)])
        directory.rename(tmp_path / f"of-{len(answers)}")
    for (question, ours), (_, theirs) in zip(*answers, strict=True):
        assert ours == theirs, question


def test_a_listening_descriptor_passed_as_libvirt_does(
    daemon: Starter, reference: Starter, tmp_path: Path
) -> None:
    """The client connects before the program is up, goes, and comes again; the path stays."""
    for index, start in enumerate((daemon, reference)):
        path = tmp_path / f"s{index}"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.fspath(path))
            listening.listen(1)
            fd = listening.fileno()
            options = ("-chardev", f"socket,id=charserial0,fd={fd},server=on,wait=off")
            program = start(*BOARD, *options, pass_fds=(fd,))
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(os.fspath(path))
        shown = {info["label"]: info["filename"] for info in program.qmp.command("query-chardev")}
        assert shown["charserial0"] in {f"unix:{path},server=on", f"disconnected:unix:{path},server=on"}
        assert path.exists()
