"""`-icount` on the whole board: a guest does the same every time, instruction by instruction, whatever the host does meanwhile.

The guest is a program in machine mode.  Whatever traps it, it notes the count of instructions, the time, where and why; then it sends all
of that through its serial port and switches the machine off.
"""

from __future__ import annotations

import itertools
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.demo.debian import PROMPT
from qemud.hw.boot import fdt
from qemud.qapi.runtime.errors import GenericError
from tests.accel import asm
from tests.accel.asm import A2, A3, A4, A5, S1, S2, S3, S4, T0, T1, T2, T3, T4, T6
from tests.programs import QEMU, QmpError
from tests.system.embed import embedded
from tests.system.linux import kernel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

RAM, NOTES = 0x8000_0000, 0x8010_0000
UART, CLINT, POWER = 0x1000_0000, 0x0200_0000, 0x10_0000
MTIMECMP, MTIME = CLINT + 0x4000, CLINT + 0xBFF8
MINSTRET, TIMER_INTERRUPT = 0xB02, 1 << 63 | 7
TICK_NS = 100


def guest(*body: Any, interval: int, interrupts: int) -> bytes:
    """`body` for ever, until there were that many interrupts of the timer, `interval` ticks after one another."""
    code: bytes = asm.program(
        asm.la(T1, "trap"), asm.csrw(asm.MTVEC, T1), asm.li(S1, NOTES), asm.li(S2, MTIMECMP), asm.li(S4, MTIME),
        asm.li(S3, interrupts), asm.li(A2, 0), asm.li(A3, 0x8020_0000), asm.li(A4, 0x12345),
        asm.li(T0, interval), asm.store(8, T0, S2),
        asm.li(T0, 0x80), asm.csrw(asm.MIE, T0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0),
        asm.label("loop"), body, asm.addi(A2, A2, 1), asm.bnez(S3, "loop"),
        asm.li(T0, 8), asm.csrc(asm.MSTATUS, T0), asm.li(T0, NOTES), asm.li(T1, UART),
        asm.label("out"), asm.load(1, T2, T0, unsigned=True), asm.store(1, T2, T1), asm.addi(T0, T0, 1),
        asm.bne(T0, S1, "out"),
        asm.li(T0, POWER), asm.li(T1, 0x5555), asm.store(4, T1, T0), asm.label("end"), asm.j("end"),
        asm.Align(4), asm.label("trap"),
        asm.csrr(T3, MINSTRET), asm.store(8, T3, S1, 0), asm.rdtime(T3), asm.store(8, T3, S1, 8),
        asm.csrr(T3, asm.MEPC), asm.store(8, T3, S1, 16), asm.csrr(T3, asm.MCAUSE), asm.store(8, T3, S1, 24),
        asm.addi(S1, S1, 32), asm.li(T4, 32), asm.bltu(T3, T4, "exception"),
        asm.load(8, T3, S2), asm.li(T4, interval), asm.add(T3, T3, T4), asm.store(8, T3, S2),
        asm.addi(S3, S3, -1), asm.MRET,
        asm.label("exception"), asm.csrr(T3, asm.MEPC), asm.addi(T3, T3, 4), asm.csrw(asm.MEPC, T3), asm.MRET,
    )  # fmt: skip
    return code


# Computes, with compressed instructions among them; sometimes traps, and reads a device in the middle of a block.
BUSY = [
    asm.C_NOP, asm.mul(A4, A4, A2), asm.store(8, A4, A3), asm.load(8, A5, A3), asm.C_NOP, asm.xor(A4, A4, A5),
    asm.slli(T6, A2, 54), asm.bnez(T6, "more"), asm.ECALL, asm.addi(A4, A4, 1), asm.load(8, A5, S4), asm.C_NOP,
    asm.xor(A4, A4, A5), asm.ILLEGAL, asm.label("more"),
]  # fmt: skip
PLAIN = [asm.C_NOP, asm.mul(A4, A4, A2), asm.store(8, A4, A3), asm.load(8, A5, A3)]
IDLE = [asm.WFI, asm.addi(A4, A4, 1)]

# No timers: what every instruction of QEMU counts, and a load of nothing in the middle of a block.
TRAPS = [
    *BUSY, asm.li(T6, 0x7FF), asm.addi(A4, A4, 1), asm.load(8, A5, T6), asm.addi(A4, A4, 1), asm.EBREAK,
    asm.load(8, A5, S4), asm.C_NOP, asm.load(8, A5, S4), asm.store(8, A5, S1, 24), asm.addi(S1, S1, 32),
    asm.addi(S3, S3, -1),
]  # fmt: skip


class Note(tuple[int, int, int, int]):
    """How many instructions there were, the time in ticks, where and why."""

    __slots__ = ()


def notes(data: bytes) -> list[Note]:
    return [Note(note) for note in struct.iter_unpack("<4Q", data)]


def board(path: Path, code: bytes, *options: str) -> tuple[str, ...]:
    path.write_bytes(code)
    return ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-bios", str(path), *options)


def run(start: Starter, folder: Path, code: bytes, icount: str, meddle: Any = None) -> list[Note]:
    """What the guest has noted, when `meddle` is done with the machine meanwhile."""
    serial = folder / "serial"
    words = board(
        folder / "guest", code, "-icount", icount, "-serial", f"file:{serial}", "-no-shutdown", "-S"
    )
    program = start(*words)
    program.qmp.command("cont")
    if meddle is not None:
        meddle(program)
    program.qmp.event("SHUTDOWN")
    program.qmp.command("quit")
    assert program.wait() == 0
    return notes(serial.read_bytes())


def timers(found: list[Note]) -> list[Note]:
    return [note for note in found if note[3] == TIMER_INTERRUPT]


def stop_and_go(program: Program) -> None:
    """As often as can be while the guest runs."""
    for _ in range(40):
        program.qmp.command("stop")
        program.qmp.command("query-status")
        try:
            program.qmp.command("cont")
        except QmpError:
            return  # it has come to its end


@pytest.mark.parametrize("body", [BUSY, IDLE], ids=["busy", "idle"])
def test_twice_the_same_whatever_the_host_does(daemon: Starter, tmp_path: Path, body: list[Any]) -> None:
    code = guest(body, interval=5001, interrupts=100)
    first = run(daemon, tmp_path, code, "shift=3,sleep=off")
    assert len(timers(first)) == 100
    assert run(daemon, tmp_path, code, "shift=3,sleep=off") == first
    assert run(daemon, tmp_path, code, "shift=3,sleep=off", stop_and_go) == first
    # What is waited for in real time is the same time.
    assert run(daemon, tmp_path, code, "shift=3") == first


@pytest.mark.parametrize("shift", [0, 3, 10])
def test_a_timer_fires_before_the_very_instruction(daemon: Starter, tmp_path: Path, shift: int) -> None:
    found = run(daemon, tmp_path, guest(PLAIN, interval=997, interrupts=50), f"shift={shift},sleep=off")
    fired = timers(found)
    assert len(fired) == 50
    for number, (count, ticks, _, _) in enumerate(fired, 1):
        due = number * 997 * TICK_NS
        # The first instruction of the trap has read the count, and is in it.
        assert (count - 2) << shift < due <= (count - 1) << shift
        assert ticks == ((count + 2) << shift) // TICK_NS


def test_an_idle_guest_jumps(daemon: Starter, tmp_path: Path) -> None:
    """A hundred hours pass at once, and no instruction more is run for that."""
    hour = 3600 * 10**9 // TICK_NS
    fired = timers(run(daemon, tmp_path, guest(IDLE, interval=hour, interrupts=100), "shift=3,sleep=off"))
    assert [ticks // hour for _, ticks, _, _ in fired] == list(range(1, 101))
    assert len({later[0] - earlier[0] for earlier, later in itertools.pairwise(fired)}) == 1


def test_both_parts_below_agree(daemon: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = guest(BUSY, interval=2003, interrupts=20)
    first = run(daemon, tmp_path, code, "shift=3,sleep=off")
    monkeypatch.setenv("QEMUD_TWIN", "1")
    assert run(daemon, tmp_path, code, "shift=3,sleep=off") == first


@pytest.mark.differential
@pytest.mark.needs(QEMU)
@pytest.mark.parametrize("shift", [0, 3, 7])
def test_counts_are_those_of_qemu(daemon: Starter, reference: Starter, tmp_path: Path, shift: int) -> None:
    """Also of what traps, and of what reads the time in the middle of what qemud has as one block."""
    code = guest(TRAPS, interval=1 << 40, interrupts=200)
    ours = run(daemon, tmp_path, code, f"shift={shift},sleep=off")
    assert len(ours) > 400
    assert ours == run(reference, tmp_path, code, f"shift={shift},sleep=off")


def test_linux_boots_the_same_way(daemon: Starter, tmp_path: Path) -> None:
    """To the microsecond of each message, once nothing random and no time of day come to it from the host."""
    program = daemon(*kernel("-S"))
    program.qmp.command("dumpdtb", filename=str(tmp_path / "tree"))
    program.terminate()
    tree = fdt.unflatten((tmp_path / "tree").read_bytes())
    chosen, soc = tree.find("/chosen"), tree.find("/soc")
    assert chosen is not None
    assert soc is not None
    del chosen.properties["rng-seed"]
    soc.children = [node for node in soc.children if not node.name.startswith("rtc@")]
    (tmp_path / "tree").write_bytes(fdt.flatten(tree))
    logs = []
    for icount in ("3,sleep=off", "3,sleep=off", "3"):
        program = daemon(*kernel("-dtb", str(tmp_path / "tree"), "-icount", icount), serial=True)
        logs.append(program.serial.expect(PROMPT).splitlines())
        program.terminate()
    assert len(logs[0]) > 100
    assert logs[0] == logs[1] == logs[2]


def test_it_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    serial = tmp_path / "serial"
    code = guest(BUSY, interval=5001, interrupts=1 << 20)  # it never comes to an end
    words = board(tmp_path / "guest", code, "-serial", f"file:{serial}", "-no-shutdown", "-S")
    with embedded(*words, "-icount", "3,sleep=off") as machine:
        counting = machine.vm.instruction_time
        assert counting is not None
        machine.run(machine.vm.cont())
        while counting.instructions < 100_000:
            machine.call(int)
        machine.run(machine.vm.stop())
        saved = machine.save()
        count, time = counting.instructions, machine.vm.clock.now()
        assert (saved.value["icount"], saved.value["clock"]) == (count, time)
        assert time == count << 3
        ends = []
        for _ in range(2):
            machine.run(machine.vm.cont())
            while counting.instructions < count + 500_000:
                machine.call(int)
            machine.run(machine.vm.stop())
            machine.load(saved)
            assert (counting.instructions, machine.vm.clock.now()) == (count, time)
            ends.append(machine.save().value)
        assert ends[0] == ends[1] == saved.value
    with embedded(*words) as machine:
        with pytest.raises(GenericError, match="saved machine counts instructions, this one does not"):
            machine.load(saved)
        plain = machine.save()
    with embedded(*words, "-icount", "3") as machine:
        with pytest.raises(GenericError, match="saved machine does not count instructions, this one does"):
            machine.load(plain)
        machine.load(saved)
        assert machine.vm.instruction_time is not None
        assert machine.vm.instruction_time.instructions == count


def noted(program: Program, folder: Path, least: int) -> list[Note]:
    """What the guest has noted by now, once it has noted that much."""
    while True:
        program.qmp.command("pmemsave", val=NOTES, size=1 << 20, filename=str(folder / "notes"))
        found = [note for note in notes((folder / "notes").read_bytes()) if note[3]]
        if len(found) >= least:
            return found


def test_a_run_goes_on_in_another_process(daemon: Starter, tmp_path: Path) -> None:
    """By `savevm` and `-loadvm`: as if nothing had been."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "disk"), "1M"], check=True)
    disk = f"if=none,format=qcow2,file={tmp_path / 'disk'}"
    code = guest(PLAIN, interval=50_001, interrupts=1 << 20)
    words = board(tmp_path / "guest", code, "-icount", "3,sleep=off", "-drive", disk)
    program = daemon(*words)
    noted(program, tmp_path, 3)
    program.qmp.command("stop")
    program.qmp.command("human-monitor-command", {"command-line": "savevm here"})
    most = len(noted(program, tmp_path, 3)) + 20
    program.qmp.command("cont")
    straight = noted(program, tmp_path, most)[:most]
    program.terminate()
    again = daemon(*words, "-loadvm", "here")
    assert noted(again, tmp_path, most)[:most] == straight
