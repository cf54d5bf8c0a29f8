"""The same lines to both programs, by human-monitor-command and by keys: the same answers."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.programs import Console

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

OPENSBI = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin"
BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-monitor", "none")

LINES = (
    "",
    "info status",
    "info status 1",
    "info nope",
    "info name",
    "info uuid",
    "info kvm",
    "info memory_size_summary",
    "info registers -b",
    "info registers 7",
    "info history",
    "info uuid x",
    "info numa",
    "info iothreads",
    "info hotpluggable-cpus",
    "info memory-devices",
    "info memory-devices x",
    "info irq",
    "info stats nope",
    "info stats vm * nope",
    "info stats",
    "nmi",
    "system_wakeup",
    "nope",
    "  nope now",
    "stop 1",
    " stop  2",
    "help nope",
    "help info nope",
    "print",
    "print 1+2*3",
    "print 1 + 2 & 3",
    "print 0x10/0",
    "print 7%-3",
    "print -7/2",
    "print/d -7%2",
    "print (1",
    "print 'a'",
    "print 'ab",
    "print '",
    "print ~0",
    "print/u -1",
    "print/o 8",
    "print/c 10",
    "print/c 0x141",
    "print/z 1",
    "print 08",
    "print 0x",
    "print 1 2",
    "print 99999999999999999999",
    "p $nope",
    "p/x 0",
    "p 5",
    "p/c 39",
    "p 5",
    "xp /4xw 0x1000",
    "xp 0x1000",
    "xp /3dh 0x1000",
    "xp /3oh 0x1000",
    "xp /20cb 0x1000",
    "xp /5c 0x1000",
    "xp /2ug 0x1000",
    "xp /2dg 0x1000",
    "xp /9xb 0x1000",
    "xp/2w 0x1000",
    "xp 0",
    "xp /2xg 0x83fffff8",
    "x /4xw 0x80000000",
    "x /2q 0x80000000",
    "xp /4q 1",
    "x",
    "sum 0x1000 64",
    "sum 0x1000 0",
    "sum 0x10000000000 1",
    "gva2gpa 0x80001234",
    "gva2gpa",
    "memsave 0 16",
    "memsave 0 0x100000000 x",
    "pmemsave 0x80000000 16 /nonexistent/file",
    "pmemsave 0 1 ",
    "logfile",
    "log none",
    "cpu 0",
    "cpu 3",
    "qom-list",
    "qom-list /nope",
    "qom-list /machine/peripheral",
    "qom-get /nope type",
    "qom-get /machine/soc0 type",
    "qom-get /machine/soc0 nope",
    "qom-set /machine/soc0 nope 1",
    "qom-get /machine",
    "qom-set /nope nope 1",
    "qom-set -j /machine nope {",
    "qom-set -x /machine nope {",
    "info qom-tree /machine/peripheral",
    "info qom-tree /nope",
    "object_add",
    "object_add nope,id=x",
    "object_add memory-backend-ram,id=m0",
    "object_add memory-backend-ram,size=4096",
    "object_add memory-backend-ram,id=m0,size=4096",
    "object_add memory-backend-ram,id=m0,size=4096",
    "qom-get /objects/m0 size",
    "qom-get /objects/m0 share",
    "qom-get /objects/m0 policy",
    "qom-set /objects/m0 merge off",
    "qom-get /objects/m0 merge",
    "qom-set -j /objects/m0 merge true",
    "qom-get /objects/m0 merge",
    "object_del m0",
    "object_del m0",
    "device_add",
    "device_add nope",
    "device_add nope,id=a",
    "device_del nope",
    "device_del",
    "chardev-add null",
    "chardev-add id=c1",
    "chardev-add nope,id=c1",
    "chardev-add null,id=c1",
    "chardev-add ringbuf,id=r1,size=64",
    'ringbuf_write r1 "ab\\\\c"',
    "ringbuf_write nope x",
    "ringbuf_read r1 10",
    "ringbuf_read r1 0",
    "ringbuf_read c1 1",
    "ringbuf_read r1",
    "chardev-change r1 null,id=z",
    "chardev-change nope null",
    "chardev-send-break nope",
    "chardev-send-break c1",
    "chardev-remove c1",
    "chardev-remove c1",
    "stop",
    "info status",
    "c 1",
    "system_powerdown",
    "system_reset 1",
)

OURS = {
    # Said by the QMP command; QEMU has other words for the same where the human monitor goes past QMP.
    "chardev-add null,id=c1": "Error: Chardev with id 'c1' already exists\r\n",
    "chardev-add ringbuf,id=r2,size=63": (
        "Error: Failed to add chardev 'r2': size of ringbuf chardev must be power of two\r\n"
    ),
    # QEMU has two readers for -object and object_add, with two texts.
    "object_add memory-backend-ram,id=m0,size=x": "Error: Parameter 'size' expects a size value\r\n",
}


def say(program: Program, line: str) -> str:
    said: str = program.qmp.command("human-monitor-command", {"command-line": line})
    return said


def test_lines(daemon: Starter, reference: Starter) -> None:
    ours = daemon(*BOARD, "-bios", OPENSBI)
    theirs = reference(*BOARD, "-bios", OPENSBI)
    differences = [
        (line, want, got) for line in LINES if (want := say(theirs, line)) != (got := say(ours, line))
    ]
    assert not differences
    say(ours, "chardev-add null,id=c1")
    assert {line: say(ours, line) for line in OURS} == OURS


def test_instructions(daemon: Starter, reference: Starter) -> None:
    line = "xp /2i 0x80000000"
    assert say(daemon(*BOARD, "-bios", OPENSBI), line) == (
        say(reference(*BOARD, "-bios", OPENSBI), line).replace(" \r", "\r")
    )


def test_registers_that_both_have(daemon: Starter, reference: Starter) -> None:
    def registers(start: Starter) -> dict[str, str]:
        text = say(start(*BOARD, "-bios", OPENSBI), "info registers")
        assert text.startswith("\r\nCPU#0\r\n")
        return dict(re.findall(r"(\S+) +([0-9a-f]{16})", text))

    ours, theirs = registers(daemon), registers(reference)
    assert ours.keys() <= theirs.keys()
    of_hypervisor = {"mideleg"}  # bits for the guests of an extension that qemud has not
    timer = {"mip"}  # as long as mtimecmp is below mtime, which each fills in its own way
    differ = {name for name in ours if ours[name] != theirs[name]}
    assert differ <= of_hypervisor | timer
    layout = [line for line in say(daemon(*BOARD), "info registers").split("\r\n") if "/" in line]
    assert [line.count("/") for line in layout] == [4] * 16


def test_regions_that_both_have(daemon: Starter, reference: Starter) -> None:
    ours, theirs = (say(start(*BOARD), "info mtree -f").split("\r\n") for start in (daemon, reference))
    assert len(ours) > 10
    # A bank of flash memory is memory there until it is written, and always registers here.
    assert [line for line in ours if line and line not in theirs and "flash" not in line] == [
        "FlatView #0"
    ] * ("FlatView #0" not in theirs)


def test_devices_that_both_have(daemon: Starter, reference: Starter) -> None:
    ours, theirs = (say(start(*BOARD), "info qtree -b").split("\r\n") for start in (daemon, reference))
    assert len(ours) > 20
    # The same devices in the same order, save those that are not built.
    rest = iter(theirs)
    missing = [line for line in ours if line.startswith("  dev: ") and line not in rest]
    assert sorted(set(missing)) == []


KEYS = (
    b"info status\r",
    b"x\x7fprint 1+2\r",
    b"print 12\x1b[D\x1b[D3\x1b[C\x04\r",
    b"\x10\x10\x0e!\x7f\r",
    b"one two three\x17\x17four\x01\x05\x08\r",
    b"print 5\x15nope\r",
    b"\x1b[A\x1b[A\x1b[B\r",
    b"qom-get /machine ty\x0cpe\r",
    b"system_p\t\r",
    b"system_p\x1bOHx\x1bOF \x1b[1~\x1b[3~\x1b[4~\r",
    b"info history\r",
)


def test_keys(daemon: Starter, reference: Starter) -> None:
    """What a terminal is sent, byte by byte."""
    assert type_keys(daemon) == type_keys(reference)


def type_keys(start: Starter) -> bytes:
    here, there = socket.socketpair()
    with here, there:
        fd = there.fileno()
        start(
            *("-machine", "none", "-display", "none", "-S"),
            *("-chardev", f"socket,id=hmp,fd={fd}", "-mon", "chardev=hmp"),
            pass_fds=[fd],
        )
        console = Console(here)
        console.expect("(qemu) ")
        for keys in KEYS:
            console.send(keys)
            console.expect(re.compile(r"\r\n\(qemu\) $"))
        return console.log
