"""The serial line under Linux's own driver: much in, much out, nothing lost."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from tests.conftest import Starter

pytestmark = pytest.mark.system


def test_much_input_and_output_through_linux(daemon: Starter) -> None:
    program = daemon(*kernel(), serial=True)
    shell(program)
    data = random.Random(7).randbytes(60_000)
    right = hashlib.sha256(data).hexdigest()
    program.serial.send(
        f"stty raw -echo; echo begin; head -c {len(data)} > /tmp/in; stty sane; sha256sum /tmp/in\r".encode()
    )
    program.serial.expect("begin\n")
    program.serial.send(data)
    program.serial.expect(right)
    shell(program)
    # And back, in text, since a terminal adds to what it prints.
    lines = run(program, "base64 /tmp/in | sha256sum; stty -onlcr; base64 /tmp/in; stty onlcr")
    text = "".join(line + "\n" for line in lines[1:])
    assert lines[0].split()[0] == hashlib.sha256(text.encode()).hexdigest()


def test_input_while_the_guest_is_stopped_and_started(daemon: Starter) -> None:
    """The sender is held back while nobody takes; no character is lost at any boundary."""
    program = daemon(*kernel(), serial=True)
    shell(program)
    data = random.Random(8).randbytes(30_000)
    program.serial.send(
        f"stty raw -echo; echo begin; head -c {len(data)} > /tmp/in; stty sane; sha256sum /tmp/in\r".encode()
    )
    program.serial.expect("begin\n")
    sender = threading.Thread(target=program.serial.socket.sendall, args=(data,))
    program.serial.socket.settimeout(None)
    sender.start()
    for _ in range(100):
        program.qmp.command("stop")
        program.qmp.command("cont")
    sender.join()
    program.serial.expect(hashlib.sha256(data).hexdigest())
    shell(program)
    [port] = run(program, "grep ^0: /proc/tty/driver/serial")
    assert "uart:16550A" in port
    assert "oe:" not in port


def test_output_while_nobody_reads_and_the_guest_is_stopped_and_started(daemon: Starter) -> None:
    """The guest is held back by a full line, stopped and started all the while; every character comes, in order."""
    options = ("-machine", "virt", "-m", "64", "-display", "none", "-kernel", str(DEMO_GUEST))
    program = daemon(*options, serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"count 15000\r")
    for _ in range(100):
        program.qmp.command("stop")
        program.qmp.command("cont")
    for _ in range(100):
        program.qmp.command("stop")
        program.serial.expect("\n")
        program.qmp.command("cont")
    program.serial.expect("demo> ")
    printed = program.serial.log.replace(b"\r", b"").split(b"count 15000\n", 1)[1].split(b"\n")[:-1]
    assert printed == [b"count %d" % number for number in range(1, 15_001)]
