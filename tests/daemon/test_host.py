"""Options about the host: the time of day, names of threads, what a core dump holds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QEMUD

if TYPE_CHECKING:
    from tests.conftest import Starter

VIRT = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S")
RTC = 0x101000
Y2006 = 1_136_073_600
DAY = 86_400


def test_the_guests_time_of_day(daemon: Starter):
    program = daemon(*VIRT, "-rtc", "base=2006-06-17T16:01:21")
    # The register with the low half is read first: it holds on to the high one.
    low, high = (
        int(
            program.qmp.command("human-monitor-command", **{"command-line": f"xp /1xw {at:#x}"}).split()[1],
            16,
        )
        for at in (RTC, RTC + 4)
    )
    seconds = (high << 32 | low) // 1_000_000_000
    assert Y2006 < seconds < Y2006 + 365 * DAY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base=zz", "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'"),
        ("base=2020-13-01", "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'"),
        ("clock=zz", "invalid option value 'zz'"),
        ("utc=on", "-rtc utc=on: Invalid parameter 'utc'"),
    ],
)
def test_no_time_of_day(text: str, told: str):
    done = subprocess.run([QEMUD, *VIRT, "-rtc", text], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr.partition(": ")[2]) == (1, f"{told}\n")


def test_names_of_threads(daemon: Starter):
    def names(*arguments: str) -> set[str]:
        program = daemon(*VIRT, *arguments)
        program.qmp.command("query-status")
        return {path.read_text().strip() for path in Path(f"/proc/{program.process.pid}/task").glob("*/comm")}

    assert "CPU 0/TCG" in names("-name", "vm,debug-threads=on")
    assert "CPU 0/TCG" not in names("-name", "vm")


@pytest.mark.parametrize(("value", "left_out"), [("on", False), ("off", True)])
def test_core_dumps_without_the_guests_memory(daemon: Starter, value: str, left_out: bool):
    program = daemon("-machine", f"virt,dump-guest-core={value}", *VIRT[2:])
    program.qmp.command("query-status")
    maps = Path(f"/proc/{program.process.pid}/smaps").read_text().splitlines()
    head = next(number for number, line in enumerate(maps) if "riscv_virt_board.ram" in line)
    flags = next(line for line in maps[head:] if line.startswith("VmFlags"))
    assert ("dd" in flags.split()) is left_out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-smp", "2"), "Invalid SMP CPUs 2. The max CPUs supported by machine 'none' is 1"),
        (
            ("-smp", "0"),
            "Invalid CPU topology: CPU topology parameters must be greater than zero",
        ),
        (("-smp", "1,,2"), "-smp 1,,2: Invalid parameter ''"),
        (("-cpu", "zz"), "unable to find CPU model 'zz'"),
        (("-cpu", ""), "-cpu option cannot be empty"),
        (("-cpu", "rv64,zz"), "Expected key=value format, found zz."),
        (
            ("-global", "driver=serial-mm"),
            "-global driver=serial-mm: options 'driver', 'property', and 'value' are required",
        ),
        (("-machine", "none,usb"), "-machine none,usb: Expected '=' after parameter 'usb'"),
        (
            ("-readconfig", "/nonexistent"),
            "-readconfig /nonexistent: Could not open '/nonexistent': No such file or directory",
        ),
        (
            ("-object", "iothread,id=i", "-object", "iothread,id=i"),
            "-object iothread,id=i: Duplicate ID 'i' for object",
        ),
    ],
)
def test_a_machine_without_processors_takes_no_nonsense_either(arguments: tuple[str, ...], told: str):
    command = [QEMUD, "-machine", "none", "-display", "none", "-nodefaults", "-S", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr.partition(": ")[2]) == (1, f"{told}\n")


@pytest.mark.parametrize(
    ("option", "argument"), [("-object", "iothread,id=i,x"), ("-chardev", "null,id=c,x")]
)
def test_warnings_say_where(option: str, argument: str):
    command = [QEMUD, "-machine", "none", "-display", "none", "-nodefaults", "-S", option, argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    place = f"{QEMUD}: {option} {argument}: "
    assert done.stderr == (
        f"{place}warning: short-form boolean option 'x' deprecated\nPlease use x=on instead\n"
        f"{place}Invalid parameter 'x'\n"
    )
