"""Running, stopping and kicking a hart; devices, ROM, and code that somebody else writes."""

import threading
import time

import pytest

from qemud.machine.memory import RamBlock
from qemud.machine.vcpu import Exit
from qemud.qapi.runtime.errors import GenericError
from tests.accel import asm
from tests.accel.asm import A0, A1, A2, A3, A4, A5, S0, S1, S2, T0, T1, T2, ZERO
from tests.accel.machines import DEVICE, RAM, Bare

DATA = RAM + 0x8000
HALT = [asm.label("halt"), asm.WFI, asm.j("halt")]
SPIN = asm.program(asm.label("spin"), asm.addi(A0, A0, 1), asm.j("spin"))


def test_a_kick_from_another_thread_calls_back_between_blocks(bare):
    seen = []

    def attention():
        seen.append((threading.get_ident(), bare.vcpu.pc))
        bare.vcpu.leave()

    bare.vcpu.on_attention = attention
    bare.start(SPIN)
    threading.Timer(0.01, bare.vcpu.kick).start()
    assert bare.vcpu.run() is Exit.LEFT
    assert seen == [(threading.get_ident(), RAM)]


def test_a_kick_before_the_run_is_not_lost(bare):
    bare.vcpu.on_attention = bare.vcpu.leave
    bare.start(SPIN)
    bare.vcpu.kick()
    bare.vcpu.reset(pc=RAM)
    assert bare.vcpu.run() is Exit.LEFT


def test_a_deadline_kicks(bare):
    fired = []

    def attention():
        fired.append(time.monotonic_ns())
        bare.vcpu.leave()

    bare.vcpu.on_attention = attention
    bare.start(SPIN)
    due = time.monotonic_ns() + 5_000_000
    bare.vcpu.set_deadline(due)
    assert bare.vcpu.run() is Exit.LEFT
    assert fired[0] >= due


def test_a_deadline_can_be_moved_from_within(bare):
    fired = []

    def attention():
        fired.append(time.monotonic_ns())
        if len(fired) == 20:
            bare.vcpu.leave()
        bare.vcpu.set_deadline(time.monotonic_ns() + 100_000)

    bare.vcpu.on_attention = attention
    bare.start(SPIN)
    bare.vcpu.set_deadline(0)
    assert bare.vcpu.run() is Exit.LEFT
    assert len(fired) == 20


def test_no_instruction_is_done_twice_however_often_it_stops(bare):
    """Atomics and stores to a device, counted on both sides, over hundreds of stops at any place."""
    stops = []

    def attention():
        stops.append(1)
        bare.vcpu.leave()

    rounds = 60_000
    code = asm.program(
        asm.li(T0, DATA), asm.li(T1, DEVICE), asm.li(A1, rounds), asm.li(A2, 1),
        asm.label("loop"), asm.amoadd_d(A3, A2, T0), asm.addi(A0, A0, 1), asm.store(4, A0, T1), asm.load(4, A4, T1, 8),
        asm.lr_d(S0, T0), asm.addi(S1, S1, 1), asm.bne(A0, A1, "loop"), HALT,
    )  # fmt: skip
    bare.vcpu.on_attention = attention
    bare.device.value = 0
    bare.start(code)
    ending = threading.Event()

    def kicker():
        while not ending.is_set():
            bare.vcpu.kick()
            ending.wait(0.0002)

    thread = threading.Thread(target=kicker)
    thread.start()
    try:
        while not bare.vcpu.halted:
            assert bare.vcpu.run() is not Exit.FAILED
    finally:
        ending.set()
        thread.join()
    assert len(stops) > 50
    assert bare.u64(DATA) == rounds
    assert bare.vcpu.gpr(S1) == rounds
    writes = [value for kind, *rest in bare.device.log if kind == "write" for value in rest[1:2]]
    assert writes == list(range(1, rounds + 1))


def test_registers_do_not_change_while_it_is_stopped(bare):
    bare.vcpu.on_attention = bare.vcpu.leave
    bare.start(SPIN)
    bare.vcpu.kick()
    bare.vcpu.run()
    before = bare.vcpu.save()
    time.sleep(0.01)
    assert bare.vcpu.save() == before


@pytest.mark.parametrize("store", [asm.store(4, A0, T1), asm.c_sw(A0, asm.S0)])
def test_leaving_in_a_store_to_a_device_runs_nothing_behind_it(fast, store):
    fast.device.on_write = lambda offset, value, size: fast.vcpu.leave()
    code = asm.program(
        asm.li(T1, DEVICE), asm.li(S0, DEVICE), asm.li(T2, DATA), asm.li(A0, 7), store, asm.addi(A0, A0, 1),
        asm.store(8, T2, T2), HALT,
    )  # fmt: skip
    assert fast.run(code) is Exit.LEFT
    assert fast.vcpu.gpr(A0) == 7
    assert fast.u64(DATA) == 0
    fast.device.on_write = None
    fast.run_until_halt()
    assert fast.vcpu.gpr(A0) == 8
    assert fast.u64(DATA) == DATA
    assert fast.device.log == [("write", 0, 7, 4)], "the store is not repeated"


def test_leaving_in_a_load_from_a_device_ends_with_the_block(bare):
    bare.device.on_read = lambda offset, size: bare.vcpu.leave()
    code = asm.program(
        asm.li(T1, DEVICE), asm.load(8, A0, T1), asm.label("x"), asm.addi(A1, A1, 1), asm.j("x")
    )
    assert bare.run(code) is Exit.LEFT
    assert bare.vcpu.gpr(A0) == bare.device.value
    assert bare.vcpu.gpr(A1) <= 1
    assert bare.device.log == [("read", 0, 8)]


def test_leaving_survives_the_guests_own_clearing_of_interrupts(bare):
    """The guest's write to mip takes the engine's mark away; the stop comes all the same."""
    bare.device.on_read = lambda offset, size: bare.vcpu.leave()
    code = asm.program(
        asm.li(T1, DEVICE), asm.li(T0, 2), asm.load(8, A0, T1), asm.csrs(asm.MIP, T0), asm.csrc(asm.MIP, T0),
        asm.label("x"), asm.addi(A1, A1, 1), asm.j("x"),
    )  # fmt: skip
    assert bare.run(code) is Exit.LEFT
    assert not bare.failures


def test_accesses_to_devices_keep_their_size(bare):
    code = asm.program(
        asm.li(T1, DEVICE), asm.li(A0, 0x1122_3344_5566_7788),
        [asm.store(size, A0, T1, 16) for size in (1, 2, 4, 8)],
        [asm.load(size, A1 + n, T1, 24, unsigned=size < 8) for n, size in enumerate((1, 2, 4, 8))],
        asm.load(4, S2, T1, 24), HALT,
    )  # fmt: skip
    bare.run(code)
    assert bare.device.log == [
        ("write", 16, 0x88, 1), ("write", 16, 0x7788, 2), ("write", 16, 0x5566_7788, 4), ("write", 16, 0x1122_3344_5566_7788, 8),
        ("read", 24, 1), ("read", 24, 2), ("read", 24, 4), ("read", 24, 8), ("read", 24, 4),
    ]  # fmt: skip
    assert [bare.vcpu.gpr(A1 + n) for n in range(4)] == [0x11, 0x2211, 0x4433_2211, 0x8877_6655_4433_2211]


def test_a_misaligned_access_to_a_device_is_cut_up_and_whole(bare):
    values = {offset: offset + 1 for offset in range(64)}
    bare.device.read = lambda offset, size: int.from_bytes(
        bytes(values[offset + i] for i in range(size)), "little"
    )
    written = {}

    def write(offset, value, size):
        written.update({offset + i: value >> 8 * i & 0xFF for i in range(size)})

    bare.device.write = write
    bare.space.remove("device")
    bare.space.add_mmio("device", DEVICE, 0x100, bare.device)
    code = asm.program(
        asm.li(T1, DEVICE),
        asm.load(4, A0, T1, 3),
        asm.li(A1, 0x0102_0304_0506_0708),
        asm.store(8, A1, T1, 21),
        HALT,
    )
    bare.run(code)
    assert bare.vcpu.gpr(A0) == 0x0706_0504
    assert written == {21 + i: 8 - i for i in range(8)}


def test_a_failing_device_is_reported_and_reads_as_zero(bare):
    code = asm.program(asm.li(T1, DEVICE), asm.li(A0, 9), asm.load(4, A0, T1, 0xF8), HALT)
    assert bare.run(code) in {Exit.LEFT, Exit.HALTED}
    assert [type(error) for error in bare.failures] == [ZeroDivisionError]
    assert bare.failures[0].__traceback__ is not None
    assert bare.vcpu.gpr(A0) == 0
    bare.failures.clear()
    bare.run(asm.program(asm.li(T1, DEVICE), asm.store(4, A0, T1, 0xF8), HALT))
    assert [type(error) for error in bare.failures] == [ZeroDivisionError]


def test_a_device_that_comes_and_goes_while_the_guest_runs(bare):
    class Other:
        def read(self, _offset, _size):
            return 0x77

        def write(self, _offset, _value, _size):
            bare.space.remove("other")

    bare.device.on_write = lambda offset, value, size: bare.space.add_mmio(
        "other", DEVICE + 0x200, 8, Other()
    )
    code = asm.program(
        asm.la(T0, "trap"), asm.csrw(asm.MTVEC, T0), asm.li(T1, DEVICE), asm.store(4, T1, T1),
        asm.load(4, A0, T1, 0x200), asm.store(4, T1, T1, 0x200), asm.load(4, A0, T1, 0x200), asm.j("halt"),
        asm.Align(4), asm.label("trap"), asm.csrr(A5, asm.MCAUSE), HALT,
    )  # fmt: skip
    bare.start(code)
    bare.run_until_halt()
    assert bare.vcpu.gpr(A5) == 5
    if bare.vcpu._core.__class__.__module__.endswith("_fast"):
        assert bare.vcpu.gpr(A0) == 0x77


def test_reset_in_the_middle_of_an_access_is_refused(bare):
    errors = []

    def write(_offset, _value, _size):
        try:
            bare.vcpu.reset(pc=RAM)
        except RuntimeError as error:
            errors.append(str(error))

    bare.device.on_write = write
    bare.run(asm.program(asm.li(T1, DEVICE), asm.store(4, T1, T1), asm.li(A0, 3), HALT))
    assert errors == ["a hart cannot be reset or loaded in the middle of an access to a device"]
    assert bare.vcpu.gpr(A0) == 3


def test_a_run_within_a_run_is_refused(bare):
    errors = []

    def write(_offset, _value, _size):
        try:
            bare.vcpu.run()
        except RuntimeError as error:
            errors.append(str(error))

    bare.device.on_write = write
    bare.run(asm.program(asm.li(T1, DEVICE), asm.store(4, T1, T1), asm.li(A0, 3), HALT))
    assert errors == ["the vCPU runs already"]


def test_reset_between_blocks_takes_effect_at_once(bare):
    bare.space.write_physical(RAM + 0x1000, asm.program(asm.li(A1, 5), HALT))
    bare.vcpu.on_attention = lambda: bare.vcpu.reset(pc=RAM + 0x1000, a0=3)
    bare.start(SPIN)
    bare.vcpu.kick()
    assert bare.vcpu.run() is Exit.HALTED
    assert (bare.vcpu.gpr(A0), bare.vcpu.gpr(A1)) == (3, 5)


# Code that somebody else than the guest writes.


def call_and_count():
    """Call the code at DATA, tell the device what it returned, for ever."""
    return asm.program(
        asm.li(T0, DATA), asm.li(T1, DEVICE), asm.label("again"), asm.jalr(asm.RA, T0), asm.store(4, A0, T1),
        asm.FENCE_I, asm.j("again"),
    )  # fmt: skip


def function(value):
    return asm.program(asm.li(A0, value), asm.jalr(ZERO, asm.RA))


def test_code_written_by_a_device_is_what_runs_next(bare):
    """DMA over code that has run already, a hundred times, from within the guest's own store."""
    results = []

    def write(_offset, value, _size):
        results.append(value)
        if len(results) == 100:
            bare.vcpu.leave()
        bare.space.write_physical(DATA, function(len(results)))

    bare.device.on_write = write
    bare.space.write_physical(DATA, function(0))
    bare.run(call_and_count())
    assert results == list(range(100))


def test_the_guests_own_code_writing_is_seen(bare):
    code = asm.program(
        asm.li(T0, DATA), asm.li(T1, DEVICE), asm.li(S0, 0), asm.li(S1, 50), asm.li(S2, 1 << 20),
        asm.label("again"), asm.jalr(asm.RA, T0), asm.store(4, A0, T1), asm.load(4, T2, T0), asm.add(T2, T2, S2),
        asm.store(4, T2, T0), asm.FENCE_I, asm.addi(S0, S0, 1), asm.bne(S0, S1, "again"), HALT,
    )  # fmt: skip
    bare.space.write_physical(DATA, function(0))
    bare.run(code)
    assert [value for _, _, value, _ in bare.device.log] == list(range(50))


def test_code_at_the_end_of_one_block_and_the_start_of_another(native):
    """Invalidation goes by the engine's own numbering of RAM, which must be right for every block."""
    machine = Bare()
    try:
        blocks = [RamBlock(f"extra{n}", 0x3000) for n in range(3)]
        for n, block in enumerate(blocks):
            machine.space.add_ram(f"extra{n}", 0x9000_0000 + n * 0x10_0000, block)
        for n in range(3):
            where = 0x9000_0000 + n * 0x10_0000 + 0x2FF0
            for value in (1, 2, 3):
                machine.space.write_physical(where, function(value))
                code = asm.program(asm.li(T0, where), asm.jalr(asm.RA, T0), HALT)
                machine.run(code)
                assert machine.vcpu.gpr(A0) == value
    finally:
        machine.close()
        for block in blocks:
            block.close()


def test_room_for_translated_code_that_is_full_is_emptied(native, monkeypatch):
    """More code than fits, run twice over: all of it does what it says."""
    from qemud.accel.unicorn import library

    monkeypatch.setattr(library, "CODE_SIZE", 2 << 20)
    machine = Bare()
    try:
        functions, size = 0x2_0000 // 8, 8
        body = b"".join(asm.program(asm.addi(A0, A0, 1), asm.jalr(ZERO, asm.RA)) for _ in range(functions))
        machine.space.write_physical(RAM + 0x4_0000, body)
        code = asm.program(
            asm.li(S0, RAM + 0x4_0000), asm.li(S1, RAM + 0x4_0000 + functions * size), asm.label("next"),
            asm.jalr(asm.RA, S0), asm.addi(S0, S0, size), asm.bltu(S0, S1, "next"), HALT,
        )  # fmt: skip
        for _ in range(2):
            machine.run(code)
            assert machine.vcpu.gpr(A0) == functions
    finally:
        machine.close()


# The memory map.


def test_writes_to_rom_are_dropped_and_the_block_goes_on(bare):
    rom = RamBlock("rom", 0x1000)
    rom.view[:8] = bytes(range(8))
    bare.space.add_ram("rom", 0x1000, rom, readonly=True)
    rom.view[0x800:0x808] = function(77)
    code = asm.program(
        asm.li(T0, 0x1000), asm.li(A1, -1), asm.store(8, A1, T0), asm.load(8, A2, T0), asm.store(1, A1, T0, 0x7FF),
        asm.li(T1, 0x1800), asm.jalr(asm.RA, T1), asm.addi(A0, A0, 1), HALT,
    )  # fmt: skip
    assert bare.run(code) is Exit.HALTED
    assert bare.vcpu.gpr(A2) == 0x0706_0504_0302_0100
    assert bytes(rom.view[:8]) == bytes(range(8))
    assert bare.vcpu.gpr(A0) == 78
    bare.space.remove("rom")
    bare.run(asm.program(HALT))
    rom.close()


def test_ram_that_comes_and_goes_between_runs(bare):
    code = asm.program(
        asm.la(T0, "trap"), asm.csrw(asm.MTVEC, T0), asm.li(T1, 0x9000_0000), asm.label("again"), asm.store(8, T1, T1),
        asm.load(8, A0, T1), asm.WFI, asm.j("again"), asm.Align(4), asm.label("trap"), asm.csrr(A5, asm.MCAUSE), HALT,
    )  # fmt: skip
    bare.start(code)
    block = RamBlock("more", 0x2000)
    bare.space.add_ram("more", 0x9000_0000, block)
    assert bare.vcpu.run() is Exit.HALTED
    assert bare.vcpu.gpr(A0) == 0x9000_0000
    bare.space.remove("more")
    bare.vcpu.run()
    bare.run_until_halt()
    assert bare.vcpu.gpr(A5) == 7
    assert bare.vcpu.gpr(T1) == 0x9000_0000, "a fresh engine is in the same state"
    block.close()


def test_ram_off_a_page_is_refused_with_its_name(bare):
    block = RamBlock("odd", 0x1000)
    with pytest.raises(
        GenericError, match=r"memory region 'odd' at 0x90000800 .* does not begin and end at a page"
    ):
        bare.space.add_ram("odd", 0x9000_0800, block)
    bare.space.remove("odd")
    block.close()


def test_two_harts_of_two_machines_do_not_meet(native):
    machines = [Bare(), Bare()]
    try:
        for n, machine in enumerate(machines):
            machine.vcpu.set_clock(0, (n + 1) * 1000)
            machine.run(asm.program(asm.li(T0, DEVICE), asm.rdtime(A0), asm.store(4, A0, T0), HALT))
        assert [machine.vcpu.gpr(A0) for machine in machines] == [10, 20]
        assert [machine.device.log for machine in machines] == [[("write", 0, 10, 4)], [("write", 0, 20, 4)]]
    finally:
        for machine in machines:
            machine.close()
