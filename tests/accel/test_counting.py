"""Counted instructions: the count is exact wherever somebody can look, and the limit stops the guest before the very instruction."""

import random
import threading

import pytest

from qemud.accel.unicorn import layout
from qemud.accel.unicorn.riscv import RiscvVcpu
from qemud.machine.memory import RamBlock
from qemud.machine.vcpu import Exit
from qemud.qapi.runtime.errors import GenericError
from tests.accel import asm, fuzz
from tests.accel.asm import A0, A1, A2, A3, A5, MEPC, MTVEC, T0, T1, T2, ZERO
from tests.accel.machines import DEVICE, RAM, Bare

SHIFT = 3
MINSTRET = 0xB02


class Counting(Bare):
    """A bare machine whose hart counts."""

    def _make_vcpu(self) -> RiscvVcpu:
        return RiscvVcpu(self.space, shift=SHIFT)


@pytest.fixture
def counting(native):
    machine = Counting()
    yield machine
    machine.close()


# li, and three times: 2 + a compressed one + branch; then wfi, with more behind it in its block.
LOOP = asm.program(
    asm.li(A0, 3), asm.label("loop"), asm.addi(A0, A0, -1), asm.addi(A1, A1, 1), asm.C_NOP, asm.bnez(A0, "loop"),
    asm.WFI, asm.NOP, asm.NOP, asm.label("end"), asm.WFI, asm.j("end"),
)  # fmt: skip


def test_each_instruction_counts_once(counting):
    assert counting.run(LOOP) is Exit.HALTED
    assert counting.vcpu.instructions == 1 + 3 * 4 + 1
    assert counting.vcpu.csr(MINSTRET) == counting.vcpu.instructions
    assert counting.vcpu.run() is Exit.HALTED
    assert counting.vcpu.instructions == 14 + 3


def test_the_limit_is_before_any_instruction(counting):
    """Whatever block it is in, and whatever was there before."""
    where = {}

    def attention():
        where[counting.vcpu.instructions] = counting.vcpu.pc
        counting.vcpu.set_limit(counting.vcpu.instructions + 1)

    counting.vcpu.on_attention = attention
    counting.vcpu.set_limit(0)
    assert counting.run(LOOP) is Exit.HALTED
    offsets = {count: pc - RAM for count, pc in where.items()}
    assert offsets == dict(enumerate([0, *[4, 8, 12, 14] * 3, 18]))
    assert counting.vcpu.instructions == 14


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1001, 1999])
def test_a_limit_in_the_middle(counting, limit):
    code = asm.program(asm.li(A0, 1000), asm.label("l"), asm.addi(A0, A0, -1), asm.bnez(A0, "l"), asm.WFI)
    seen = []
    counting.vcpu.on_attention = lambda: seen.append((counting.vcpu.instructions, counting.vcpu.gpr(A0)))
    counting.vcpu.set_limit(limit)
    assert counting.run(code) is Exit.HALTED
    assert seen == [(limit, 1000 - limit // 2)]
    assert counting.vcpu.instructions == 2002


def test_a_limit_that_is_always_reached_lets_the_guest_go_on(counting):
    calls = []

    def attention():
        calls.append(counting.vcpu.instructions)
        counting.vcpu.set_limit(0)

    counting.vcpu.on_attention = attention
    counting.vcpu.set_limit(0)
    assert counting.run(LOOP) is Exit.HALTED
    assert calls == list(range(14))


def test_what_traps_and_what_does_not(counting):
    """As in QEMU: ecall and what does not exist are counted, a load that fails is not, whatever was behind it in its block."""
    code = asm.program(
        asm.la(T1, "trap"), asm.csrw(MTVEC, T1), asm.li(A2, RAM + 0x1000),
        asm.ECALL, asm.NOP, asm.ILLEGAL, asm.li(T0, DEVICE + 0xF0), asm.load(4, A3, T0), asm.NOP, asm.NOP, asm.WFI,
        asm.Align(4), asm.label("trap"), asm.csrr(A5, MINSTRET), asm.store(8, A5, A2), asm.addi(A2, A2, 8),
        asm.csrr(T2, MEPC), asm.addi(T2, T2, 4), asm.csrw(MEPC, T2), asm.MRET,
    )  # fmt: skip
    assert counting.run(code) is Exit.HALTED
    first, second, third = (counting.u64(RAM + 0x1000 + 8 * n) for n in range(3))
    handler = 7
    assert second - first == handler + 2  # nop, and what does not exist
    assert third - second == handler + len(asm.program(asm.li(T0, DEVICE + 0xF0))) // 4
    assert counting.vcpu.instructions == third - 1 + handler + 3


def test_a_device_sees_the_count_of_its_instruction(counting):
    """In the middle of a block, behind which the block's other instructions have not run yet."""
    seen = []
    counting.device.on_read = lambda *_: seen.append(counting.vcpu.instructions)
    counting.device.on_write = lambda *_: seen.append(counting.vcpu.instructions)
    base = asm.li(T0, DEVICE)
    setup = len(asm.program(base)) // 4
    code = asm.program(
        base, asm.C_NOP, asm.load(4, A0, T0), asm.NOP, asm.C_NOP, asm.store(4, A0, T0), asm.store(8, A0, T0), asm.NOP, asm.WFI
    )  # fmt: skip
    assert counting.run(code) is Exit.HALTED
    assert seen == [setup + 2, setup + 5, setup + 6]
    assert counting.vcpu.instructions == setup + 8


def test_time_is_the_count(counting):
    counting.vcpu.set_clock(1_000_000, None)
    counting.vcpu.instructions = 1000
    code = asm.program(asm.NOP, asm.rdtime(A0), asm.csrr(A1, MINSTRET), asm.csrr(A2, 0xB00), asm.WFI)
    assert counting.run(code) is Exit.HALTED
    assert counting.vcpu.gpr(A0) == (1_000_000 + (1002 << SHIFT)) // 100
    assert counting.vcpu.gpr(A1) == 1003
    assert counting.vcpu.gpr(A2) == 1_000_000 + (1004 << SHIFT)


def test_kicks_change_nothing(counting):
    """They come at any time, and stop the guest before a block that must not be counted twice."""
    code = asm.program(
        asm.li(A0, 100_000), asm.label("l"), asm.addi(A0, A0, -1), asm.beq(A0, ZERO, "end"), asm.NOP, asm.j("l"),
        asm.label("end"), asm.WFI,
    )  # fmt: skip
    kicked, done = [], threading.Event()

    def attention():
        kicked.append(counting.vcpu.instructions)

    def kick():
        while not done.is_set():
            counting.vcpu.kick()

    counting.vcpu.on_attention = attention
    thread = threading.Thread(target=kick)
    counting.start(code)
    setup = len(asm.program(asm.li(A0, 100_000))) // 4
    thread.start()
    try:
        assert counting.vcpu.run() is Exit.HALTED
    finally:
        done.set()
        thread.join()
    assert counting.vcpu.instructions == setup + 99_999 * 4 + 2 + 1
    assert kicked == sorted(kicked)


def test_a_fresh_engine_goes_on_counting(counting):
    """A change of RAM takes one."""
    assert counting.run(LOOP) is Exit.HALTED
    more = RamBlock("more", 1 << 16)
    counting.space.add_ram("more", 0x9000_0000, more)
    counting.vcpu.set_limit(16)
    seen = []
    counting.vcpu.on_attention = lambda: seen.append(counting.vcpu.instructions)
    assert counting.vcpu.run() is Exit.HALTED
    assert counting.vcpu.instructions == 17
    assert 16 in seen
    counting.space.remove("more")
    more.close()


def three_hundred(seed, step):
    """What a random guest has come to with its 300th instruction, when it is stopped every now and then on its way there."""
    machine = Counting()
    vcpu = machine.vcpu
    try:
        fuzz.prepare(machine, random.Random(f"x{seed}"))

        def go_on():
            if vcpu.instructions >= 300:
                vcpu.leave()
            vcpu.set_limit(min(300, vcpu.instructions + step()))

        vcpu.on_attention, vcpu.on_failure = (
            go_on,
            lambda _error: None,
        )  # defects of the device are part of it
        vcpu.set_deadline(None)
        vcpu.set_clock(0, None)
        go_on()
        while vcpu.instructions < 300 and not vcpu.halted:
            assert vcpu.run() is not Exit.FAILED
        return vcpu.instructions, vcpu.save(), bytes(machine.ram.view), machine.device.log
    finally:
        machine.close()


# Those of the first hundred that neither wait nor trap for ever.
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 7, 11, 14, 22, 28, 33, 42, 50, 61, 73, 88, 95])
def test_where_it_is_stopped_changes_nothing(fast, seed):
    """In whatever pieces its blocks are run: the same instructions, the same state."""
    del fast  # the twin runs on behind a fault
    straight = three_hundred(seed, lambda: 300)
    assert straight[0] == 300
    assert three_hundred(seed, lambda: 1) == straight
    steps = random.Random(seed)
    assert three_hundred(seed, lambda: steps.choice([1, 2, 3, 7, 20])) == straight


def test_others_are_not_counted(bare):
    assert bare.run(LOOP) is Exit.HALTED
    assert bare.vcpu.instructions == 0


def test_one_of_two_counts(counting, native):
    """What is replaced in the engine's library is so for all its engines."""
    other = Bare()
    try:
        assert other.run(LOOP) is Exit.HALTED
        assert counting.run(LOOP) is Exit.HALTED
        assert (counting.vcpu.instructions, other.vcpu.instructions) == (14, 0)
    finally:
        other.close()


def test_another_engine_is_refused(monkeypatch, native):
    monkeypatch.setattr(layout, "is_countable", lambda _lib: False)
    with pytest.raises(GenericError, match="needed to count instructions"):
        Counting()
