"""A machine goes back to what it was, in the same process: memory, code that was translated, time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.guests import STRESS_HASH
from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

DEMO = ("-machine", "virt", "-m", "32", "-display", "none", "-kernel", str(DEMO_GUEST))
CODE = 0x8100_0000


def stopped(program: Embedded) -> Embedded:
    program.qmp.command("stop")
    return program


def back(program: Embedded, file: Path) -> None:
    """The machine of `file`, running."""
    stopped(program).load(file)
    program.qmp.command("cont")


def test_memory_code_and_time(tmp_path: Path) -> None:
    program = Embedded(*DEMO, serial=True)
    try:
        program.serial.expect("demo> ")
        program.serial.command("poke 0x80400000 0x1111")
        stopped(program).save(tmp_path / "machine")
        digest, clock = program.digest(), program.clock()
        program.qmp.command("cont")
        for i in range(5):
            assert program.serial.command("peek 0x80400000") == ["peek: 0x1111"]
            program.serial.command(f"poke 0x80400000 {i}")
            assert program.serial.command("code") == ["code: 100 of 100 right"]
            assert program.serial.command("sum 2")[0].endswith("2 of 2 right")
            assert program.serial.command("atomic 1") == ["atomic: 1000000 of 1000000 right"]
            assert int(program.serial.command("time")[0].split()[1]) >= clock // 100
            stopped(program).load(tmp_path / "machine")
            assert (program.digest(), program.clock()) == (digest, clock)
            program.qmp.command("cont")
    finally:
        program.close()


def test_from_one_guest_to_another(tmp_path: Path) -> None:
    """Linux becomes the embedded guest and Linux again, at other addresses with other tables: nothing translated stays."""
    board = ("-m", "256")
    demo = Embedded(*DEMO, *board, serial=True)
    try:
        demo.serial.expect("demo> ")
        stopped(demo).save(tmp_path / "demo")
    finally:
        demo.close()
    program = Embedded(*kernel(), serial=True)
    try:
        shell(program)
        run(program, "x=kept")
        stopped(program).save(tmp_path / "linux")
        for _ in range(3):
            stopped(program).load(tmp_path / "demo")
            program.qmp.command("cont")
            program.serial.send(b"\r")
            program.serial.expect("demo> ")
            assert program.serial.command("atomic 1") == ["atomic: 1000000 of 1000000 right"]
            back(program, tmp_path / "linux")
            program.serial.send(b"\r")
            shell(program)
            assert run(program, "echo $x; stress 1")[:2] == ["kept", f"STRESS 1 {STRESS_HASH}"]
        assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e stall") == ["0"]
    finally:
        program.close()
