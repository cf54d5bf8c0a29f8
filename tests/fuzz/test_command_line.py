"""Words that make no sense: one message on standard error and status 1, or it runs; never a traceback, and nothing stays behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.daemon.cmdline import OPTIONS
from tests.fuzz.attack import CONFINED, attack, rounds
from tests.fuzz.grammar import Grammar
from tests.fuzz.outcomes import Outcomes
from tests.fuzz.test_syntaxes import KEYVAL
from tests.programs import LIMIT, QEMUD

if TYPE_CHECKING:
    import random
    from pathlib import Path

OPTIONS_WITH_VALUES = sorted(name for name, option in OPTIONS.items() if option.read is not None)

VALUES = (
    "", "=", ",", ",,", ",=", "=,", "x", "help", "?", "-1", "0", "18446744073709551616", "1e400", "nan", "x=y", "id=",
    "id=a", "id=a,id=b", b"\xff\xfe", "é", "\x01", "{}", "{", "[]", "{" * 3000, '{"a":' * 3000, '{"driver":null}',
    '{"qom-type":[]}', '{"driver":"loader","addr":-1}', "none", "virt", "stdio", "null", "pty,id=p", "fifo", "empty", ".",
    "/dev/null", "/dev/full", "/nonexistent/a", "a.b.c=1", "a..b=1", "a.1000000000000=1", " ", "\n", "%s%n", "A" * 50_000,
    "socket,id=a", "unix:", "tcp:", "tcp::", "unix:s,server=on,wait=off", "unix:" + "s" * 200, "mon:", "chardev:", "file:fifo",
    "loader,file=empty", "loader,file=fifo,addr=0", "memory-backend-file,id=m,size=1M,mem-path=.", "secret,id=s,file=fifo",
)  # fmt: skip

TRACES = ("Traceback", "Fatal Python error", "Warning: ", "Exception ignored", "never awaited")


def outcome(directory: Path, words: list[str | bytes], *, ends_by_itself: bool = False) -> tuple[int, str]:
    """Start it, and end it when it is ready; its status and what it said. It leaves nothing in `directory`."""
    before = sorted(directory.iterdir())
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        open(directory.parent / "said", "w+b") as said,
    ):
        manager.bind("")  # the kernel finds an abstract name
        address = manager.getsockname().decode().replace("\0", "@")
        with subprocess.Popen(
            [QEMUD, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=directory,
            env={**os.environ, **CONFINED, "NOTIFY_SOCKET": address},
        ) as process:
            ended = os.pidfd_open(process.pid)
            try:
                if not ends_by_itself:
                    ready = select.select([manager.fileno(), ended], [], [], 10)[0]
                    if ended not in ready:  # it runs, or waits for a pipe
                        process.send_signal(signal.SIGTERM)
                status = process.wait(LIMIT)
            finally:
                os.close(ended)
                process.kill()
        said.seek(0)
        text = said.read().decode(errors="replace")
    for path in set(directory.iterdir()) - set(before):
        assert path.is_file(), (
            words,
            path,
        )  # what an option names to be written; no sockets, no links to terminals
        path.unlink()
    return status, text


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "cwd"
    path.mkdir()
    (path / "empty").touch()
    os.mkfifo(path / "fifo")
    return path


def _check(words: list[str | bytes], status: int, said: str) -> None:
    assert status in {0, 1}, (words, status, said)
    assert not any(trace in said for trace in TRACES), (words, said)
    assert status == 0 or said.strip(), words


def _words(numbers: random.Random) -> list[str | bytes]:
    words: list[str | bytes] = [
        "-machine",
        numbers.choice(["none", "none", "virt"]),
        "-S",
        "-display",
        "none",
    ]
    words += ["-nodefaults"]
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        if numbers.random() < 0.5:
            words += [f"-{numbers.choice(OPTIONS_WITH_VALUES)}", numbers.choice(VALUES)]
            continue
        option = numbers.choice(["device", "object", "chardev", "serial", "machine", "mon"])
        type_name, implied, _ = KEYVAL[option]
        grammar = Grammar(numbers)
        value = grammar.value(type_name)
        _bound(value)
        in_json = numbers.random() < 0.4
        text = json.dumps(value) if in_json else grammar.keyval(value, implied).replace("\0", "")
        words += [f"-{option}", text.encode("utf-8", "surrogateescape" if in_json else "replace")]
    return words


def _bound(value: Any) -> None:
    """No sizes that are possible and not wanted in a test, and no servers that wait for a client as they are told to."""
    if isinstance(value, dict):
        if "server" in value:
            value["wait"] = False
        if isinstance(value.get("size"), int):
            value["size"] %= 1 << 22
        for each in value.values():
            _bound(each)


def test_any_words(directory: Path):
    outcomes = Outcomes()
    with attack() as numbers:
        for _ in rounds(40):
            words = _words(numbers)
            status, said = outcome(directory, words)
            _check(words, status, said)
            if status:
                outcomes.refuse(said.partition(": ")[2].strip() or said)
            else:
                outcomes.take()
    outcomes.check("command lines", taken=0, kinds=15)


@pytest.mark.parametrize(
    "bad",
    [
        ("-qmp", "unix:/nonexistent/q,server=on,wait=off"),
        ("-machine", "nonesuch"),
        ("-kernel", "/nonexistent/kernel"),
        ("-pidfile", "/nonexistent/pid"),
        ("-device", "nonesuch"),
        ("-object", "nonesuch,id=a"),
        ("-serial", "stdio"),
        ("-m", "1E"),
    ],
    ids=lambda bad: bad[0],
)
def test_the_background_is_not_reached(directory: Path, bad: tuple[str, str]):
    """The process that was started tells why, has status 1, and no other stays: nobody holds its lock on the pid file."""
    serial = () if "-serial" in bad else ("-serial", "null")
    words: list[str | bytes] = [*serial, "-pidfile", "pid", *bad, "-daemonize"]
    status, said = outcome(directory, words, ends_by_itself=True)
    assert status == 1
    assert said.startswith(f"{QEMUD}: ")
    assert not any(trace in said for trace in TRACES), said
