"""Flash memory: a guest of ours runs from the first bank and writes the second, in qemud and in QEMU."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.accel import asm
from tests.accel.asm import A0, S0, S1, S2, T0, T1
from tests.programs import QEMU, QEMUD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

pytestmark = pytest.mark.differential

BANK = 32 << 20
FLASH1, UART = 0x2200_0000, 0x1000_0000
BOARD = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults")


def put(offset: int, value: int) -> list[Any]:
    return [asm.li(T0, FLASH1 + offset), asm.li(A0, value), asm.store(4, A0, T0)]


def say(letter: str) -> list[Any]:
    return [asm.li(A0, ord(letter)), asm.store(1, A0, S1)]


def show(offset: int, count: int) -> list[Any]:
    """The first byte of each of `count` words, from memory or from what the command gives."""
    return [
        [asm.li(T0, FLASH1 + offset + 4 * n), asm.load(4, A0, T0), asm.store(1, A0, S1)] for n in range(count)
    ]


def text(offset: int, count: int) -> list[Any]:
    return [
        [asm.li(T0, FLASH1 + offset + n), asm.load(1, A0, T0), asm.store(1, A0, S1)] for n in range(count)
    ]


READ = put(0, 0xFF)


def branch_if_not_erased(offset: int, where: str) -> list[Any]:
    return [asm.li(T0, FLASH1 + offset), asm.load(4, A0, T0), asm.li(T1, -1), asm.bne(A0, T1, where)]


GUEST = asm.program(
    asm.li(S1, UART),
    asm.li(S0, FLASH1),
    asm.li(S2, 0),
    put(0x154, 0x98),
    show(0x40, 3),
    READ,
    put(0x1000, 0x40),
    put(0x1000, 0x64636261),
    READ,
    text(0x1000, 4),
    put(0x1000, 0x20),
    put(0x1000, 0xD0),
    READ,
    branch_if_not_erased(0x1000, "end"),
    say("E"),
    put(0x2000, 0xE8),
    put(0x2000, 1),
    put(0x2000, 0x34333231),
    put(0x2004, 0x38373635),
    put(0x2000, 0xD0),
    READ,
    text(0x2000, 8),
    # What is no command, and half of one.
    put(0x3000, 0x77),
    put(0x3000, 0x60),
    put(0x3000, 0x12),
    put(0x3000, 0xE8),
    put(0x3000, 0),
    put(0x9000, 0x31313131),
    put(0x3000, 0xFF),
    READ,
    branch_if_not_erased(0x3000, "end"),
    say("N"),
    asm.label("end"),
    say("."),
    asm.label("forever"),
    asm.WFI,
    asm.j("forever"),
)
SAID = "QRYabcdE12345678N."


@pytest.fixture
def banks(tmp_path: Path) -> tuple[Path, Path]:
    code, variables = tmp_path / "code", tmp_path / "vars"
    code.write_bytes(GUEST + bytes(BANK - len(GUEST)))
    variables.write_bytes(bytes(BANK))
    return code, variables


@pytest.mark.parametrize("emulator", ["daemon", "reference"])
@pytest.mark.parametrize("way", ["drive", "blockdev"])
def test_code_runs_from_the_first_bank_and_the_second_remembers(
    request: pytest.FixtureRequest, banks: tuple[Path, Path], emulator: str, way: str
) -> None:
    start: Starter = request.getfixturevalue(emulator)
    code, variables = banks
    options: tuple[str, ...]
    if way == "drive":
        options = (
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
        )
    else:
        options = (
            *("-blockdev", f"driver=file,node-name=code,read-only=on,filename={code}"),
            *("-blockdev", f"driver=file,node-name=vars,filename={variables}"),
            *("-machine", "pflash0=code,pflash1=vars"),
        )
    program = start(*BOARD, "-bios", "none", *options, serial=True)
    assert program.serial.expect(".").endswith(SAID)
    program.qmp.command("quit")
    program.wait()
    content = variables.read_bytes()
    assert content[0x2000:0x2008] == b"12345678"
    assert content[0x1000:0x1004] == b"\xff" * 4
    assert content[: 256 << 10].count(b"\xff"[0]) == (256 << 10) - 8
    assert content[256 << 10 :] == bytes(BANK - (256 << 10))


def test_in_place_of_a_kernel(daemon: Starter, banks: tuple[Path, Path]) -> None:
    """With firmware the first bank is what it starts; here the built-in one."""
    program = daemon(
        *BOARD, "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={banks[0]}", serial=True
    )
    # The second bank has no drive, and remembers nothing.
    assert program.serial.expect(".").startswith("QRY")
    program.qmp.command("system_reset")
    assert program.serial.expect(".").startswith("QRY")


@pytest.mark.parametrize(
    "case",
    ["size", "both", "nowhere", "twice"],
)
def test_what_is_refused(case: str, banks: tuple[Path, Path], tmp_path: Path) -> None:
    code, _ = banks
    small = tmp_path / "small"
    small.write_bytes(bytes(4096))
    options = {
        "size": ("-drive", f"if=pflash,format=raw,file={small}"),
        "both": (
            *("-blockdev", f"driver=file,node-name=code,filename={code}", "-machine", "pflash0=code"),
            *("-drive", f"if=pflash,format=raw,file={small}"),
        ),
        "nowhere": ("-machine", "pflash0=nope"),
        "twice": (
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            *("-drive", f"if=pflash,unit=2,format=raw,file={small}"),
        ),
    }[case]
    said = []
    for command in (QEMUD, QEMU):
        run = subprocess.run(
            [command, *BOARD, "-S", *options], capture_output=True, text=True, check=False, timeout=60
        )
        [first, *_] = run.stderr.replace(command, "qemu").splitlines()
        said.append((run.returncode, first.rpartition(": ")[2] if case == "both" else first))
    assert said[0] == said[1]
