"""`-OPTION help` and `-OPTION …,help`: lists in the shape of QEMU's, so that scripts which read its can read ours."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QEMUD

if TYPE_CHECKING:
    from tests.conftest import Starter

ASKED = [
    "-machine help",
    "-machine none,help",
    "-M virt,?",
    "-cpu help",
    "-accel help",
    "-device help",
    "-device loader,help",
    "-device driver=loader,?",
    "-device virtio-rng,help",
    "-object help",
    "-object memory-backend-ram,help",
    "-object iothread,?",
    "-chardev help",
    "-netdev help",
    "-chardev socket,help",
    "-nic help",
    "-smp help",
    "-smp 1,help",
    "-boot help",
    "-rtc ?",
    "-global help",
    "-action help",
    "-msg help",
    "-overcommit help",
    "-add-fd help",
    "-name guest=x,help",
    "-display help",
    "-audiodev help",
    "-d help",
]
OTHERS = {
    # Lists are written with the type of one element in QEMU.
    "  host-nodes=<uint16List>",
    # Boards have versions here.
    "virt-10.0-machine options:",
    # QEMU adds the banks of flash memory to each board that it makes, and does not list them.
    "  pflash0=<string>",
    "  pflash1=<string>",
}


def listed(program: str, words: str) -> list[str]:
    """The lines that a program lists, without what it says of each thing."""
    done = subprocess.run([program, *words.split()], capture_output=True, text=True, timeout=LIMIT)
    assert done.stderr == ""
    assert program != QEMUD or done.returncode == 0
    lines = []
    for line in done.stdout.splitlines():
        head = line.partition(" - ")[0].partition(", desc ")[0].rstrip()
        if line and words not in {"-machine help", "-d help"}:
            lines.append(head)
        elif line:
            lines.append(line.split()[0])
    return lines


@pytest.mark.differential
@pytest.mark.parametrize("words", ASKED)
def test_lists_are_in_qemus_shape_and_say_less(words: str):
    ours, theirs = listed(QEMUD, words), listed("qemu-system-riscv64", words)
    assert ours
    unknown = {line for line in ours if not line.startswith(("virt-", "  x-fdt-", "  accel"))} - set(theirs)
    assert unknown <= OTHERS
    # The order, too, wherever a list has one.
    common = [line for line in ours if line in theirs]
    if words not in {"-chardev help", "-d help"}:
        assert common == [line for line in theirs if line in common]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-device nope,help", "-device nope,help: Device 'nope' not found"),
        ("-object nope,help", "-object nope,help: Parameter 'qom-type' does not accept value 'nope'"),
        (
            "-machine nope,help",
            'unsupported machine type: "nope"\nUse -machine help to list supported machines',
        ),
        ("-mon help", '-mon chardev=help: chardev "help" not found'),
    ],
)
def test_of_what_there_is_not(words: str, told: str):
    done = subprocess.run([QEMUD, *words.split()], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.partition(": ")[2].rstrip("\n").endswith(told)


def test_help_is_told_instead_of_anything_else():
    done = subprocess.run(
        [QEMUD, "-smp", "nope=1", "-rtc", "help"], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 1
    assert done.stdout == ""
    done = subprocess.run(
        [QEMUD, "-rtc", "help", "-smp", "nope=1"], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rtc options:\n")


def test_the_human_monitor_tells_the_same(daemon: Starter):
    program = daemon("-machine", "none", "-display", "none", "-nodefaults")
    for line, words in [
        ("device_add help", "-device help"),
        ("device_add loader,help", "-device loader,help"),
        ("object_add help", "-object help"),
        ("object_add iothread,?", "-object iothread,?"),
        ("chardev-add help", "-chardev help"),
    ]:
        told = program.qmp.command("human-monitor-command", {"command-line": line})
        done = subprocess.run([QEMUD, *words.split()], capture_output=True, text=True, timeout=LIMIT)
        assert told.replace("\r\n", "\n") == done.stdout
