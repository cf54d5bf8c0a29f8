"""`_fast.c` in Python, for hosts without a compiler; the tests hold the one to the other.

It lacks what cannot be done from Python (`LACKS`), and every event of the guest costs some microseconds more.  The functions that
the engine calls are ctypes callbacks; no exception may leave them, and they must not longjmp.
"""

from __future__ import annotations

import ctypes
import threading
import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from qemud.accel.unicorn.counting import CountingCore
from qemud.accel.unicorn.library import load
from qemud.accel.unicorn.prototypes import (
    BlockHook,
    BreakpointHook,
    CounterHook,
    ExceptionHook,
    InterruptHook,
    LoadHook,
    NewBlockHook,
    ProtectHook,
    RestoreHook,
    RomHook,
    StoreHook,
    TimeHook,
    WrittenHook,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.accel.unicorn.library import Library
    from qemud.accel.unicorn.native import Handler

LACKS = (
    "an access to nothing is a fault only behind its block of code, page tables outside RAM read as zero, "
    "and every trap costs some microseconds"
)

FETCH_FAULT, BREAKPOINT, LOAD_FAULT, STORE_FAULT, ECALL, FETCH_PAGE_FAULT = 1, 3, 5, 7, 8, 12
NO_ACCESS = 1
TICK = 0.002
RETRY = 0.0002

CYCLES, INSTRUCTIONS = (0xB00, 0xC00), (0xB02, 0xC02)  # mcycle, cycle; minstret, instret


class Running(threading.local):
    """The core whose guest code the thread runs."""

    core: Core | None = None


running = Running()


def _read_cycle(_env: int, _number: int, value: Any) -> int:
    """Cycle and instret count nanoseconds of the guest's time."""
    value[0] = running.core.now() if running.core else 0
    return 0


def _read_instret(env: int, number: int, value: Any) -> int:
    """Unless instructions are counted."""
    if running.core and running.core.counter.on:
        value[0] = running.core.counter.total
        return 0
    return _read_cycle(env, number, value)


def _new_block(context: int) -> int | None:
    block: int | None = load().quick.tcg_tb_alloc_riscv64(context)
    if running.core and block:
        running.core.counter.translated(block)
    return block


def _restore(cs: int, host_pc: int, will_exit: bool) -> bool:
    found: bool = load().quick.cpu_restore_state_riscv64(cs, host_pc, will_exit)
    if found and will_exit and running.core:
        running.core.counter.leave()
    return found


def _block(_uc: int, _address: int, _size: int, block: int) -> None:
    if running.core:
        running.core.begin_block(block)


def _protect(uc: int, ram_address: int) -> None:
    if running.core and running.core.serves(uc):
        running.core.protect(ram_address)
    load().quick.tlb_protect_code_riscv64(uc, ram_address)


def _written(uc: int, pages: int | None, ram_address: int, size: int, host_pc: int) -> None:
    if running.core and running.core.serves(uc):
        running.core.written(ram_address)
    else:
        load().quick.tb_invalidate_phys_page_fast_riscv64(uc, pages, ram_address, size, host_pc)


# For all engines of the process, and as long as it lives.
READ_CYCLE, READ_INSTRET = CounterHook(_read_cycle), CounterHook(_read_instret)
NEW_BLOCK, RESTORE, BLOCK = NewBlockHook(_new_block), RestoreHook(_restore), BlockHook(_block)
PROTECT, WRITTEN = ProtectHook(_protect), WrittenHook(_written)


class Core(CountingCore):
    """The glue of one engine; see `qemud.accel.unicorn.native.Core`."""

    def __init__(
        self,
        lib: Library,
        addresses: dict[str, int],
        handler: Handler,
        fault: type[Exception],
        ns_per_tick: int,
    ) -> None:
        self._lib = lib
        self._handler = handler
        self._fault = fault
        self._ns_per_tick = ns_per_tick
        self._uc = addresses["uc"]
        self._spans: list[tuple[int, int, int, int]] = []
        self._code: set[int] = set()
        self._cs = addresses["cs"]
        self._env = addresses["env"]
        self._interrupt_request = ctypes.c_uint32.from_address(addresses["interrupt_request"])
        self._next_block = ctypes.c_uint32.from_address(addresses["next_block"])
        self._icount_high = ctypes.c_uint16.from_address(addresses["icount_high"])
        self._exception_index = ctypes.c_int32.from_address(addresses["exception_index"])
        self._mem_io_pc = ctypes.c_uint64.from_address(addresses["mem_io_pc"])
        self._pc = ctypes.c_uint64.from_address(addresses["pc"])
        self._badaddr = ctypes.c_uint64.from_address(addresses["badaddr"])
        self._priv = ctypes.c_uint64.from_address(addresses["priv"])
        self._mip = ctypes.c_uint64.from_address(addresses["mip"])
        super().__init__(self._pc)
        self._offset = 0
        self._frozen = 0
        self._attention = False
        self._leaving = False
        self._ecalls = False
        self._pending_fault: tuple[int, int, int] | None = None
        self._registers: list[tuple[int, int, Callable[..., int], Callable[..., None]]] = []
        self._ends: list[int] = []
        self._deadline = -1
        self._in_device = 0
        self._in_guest = False
        self._closing = False
        self._callbacks: dict[str, Any] = {
            "interrupt": InterruptHook(self._interrupt),
            "exception": ExceptionHook(self._exception),
            "breakpoint": BreakpointHook(self._breakpoint),
            "rom": RomHook(lambda *_: True),
            "time": TimeHook(self._time),
            "protect": PROTECT,
            "written": WRITTEN,
            "block": BLOCK,
            "new block": NEW_BLOCK,
            "restore": RESTORE,
        }
        for number in (*CYCLES, *INSTRUCTIONS):
            # Of the four operations of a register, the second reads it.
            operations = (ctypes.c_void_p * 4)()
            lib.quick.riscv_get_csr_ops_riscv64(number, operations)
            operations[1] = _address(READ_CYCLE if number in CYCLES else READ_INSTRET)
            lib.quick.riscv_set_csr_ops_riscv64(number, operations)
        self._gaps: list[tuple[Any, Any]] = []
        self._mem_io_pc.value = NO_ACCESS
        self._changed = threading.Condition()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    # What the accelerator calls.

    def run(self) -> int:
        """Run guest code; the engine's error number."""
        if self._in_guest or self._closing:
            raise RuntimeError("the engine is closed" if self._closing else "the vCPU runs already")
        self._leaving = False
        if self._attention:
            self._interrupt_soon()
        with self._changed:
            self._in_guest = True
            self._changed.notify()
        running.core = self
        try:
            while True:
                error = int(self._lib.slow.uc_emu_start(self._uc, self._pc.value, 0, 0, 0))
                self.counter.leave()  # WFI leaves its block with pc behind it
                if not self._deliver_fault() or self._leaving:
                    return error
        finally:
            running.core = None
            self._in_guest = False

    def kick(self) -> None:
        """Call the handler at the next block boundary."""
        self._attention = True
        self._nudge()

    def _interrupt_soon(self) -> None:
        """Have `_interrupt` called at the next block boundary. In the machine thread, unless nothing is counted."""
        if self._closing:
            return
        self._interrupt_request.value |= 2
        self._icount_high.value = 0xFFFF

    def _nudge(self) -> None:
        """The same from any thread; where blocks are counted, `begin_block` looks what there is."""
        if not self.counter.on:
            self._interrupt_soon()
        elif not self._closing:
            self._interrupt_request.value |= 2

    def leave(self) -> None:
        """Let `run` return at the next block boundary."""
        self._leaving = True
        self._interrupt_soon()

    def set_interrupts(self, mask: int, value: int) -> None:
        """Change bits of mip."""
        self._lib.quick.riscv_cpu_update_mip_riscv64(self._cs, mask, value)
        if value or self._attention or self._leaving:
            self._interrupt_soon()

    def set_memory(self, spans: list[tuple[int, int, int, int]]) -> None:
        """Where there is RAM and ROM."""
        self._spans = spans

    def invalidate(self, segments: list[tuple[int, int]]) -> None:
        """Drop translated code."""
        for address, size in segments:
            end = address + size
            for low, high, ram_address, _host in self._spans:
                if address < high and low < end:
                    start = ram_address + max(address, low) - low
                    self._lib.quick.tb_invalidate_phys_range_riscv64(
                        self._uc, start, start + min(end, high) - max(address, low)
                    )

    # Code that is written to: see `_fast.c`.  Here any store that the engine notices drops all that was translated from its page.

    def protect(self, ram_address: int) -> None:
        """Something has been translated from this page for the first time."""
        page = ram_address & ~0xFFF
        self._code.add(page)
        for low, high, first, host in self._spans:
            if 0 <= page - first < high - low:
                self._lib.quick.tlb_reset_dirty_riscv64(self._cs, host + page - first, 0x1000)

    def written(self, ram_address: int) -> None:
        """The guest stores there."""
        page = ram_address & ~0xFFF
        if page in self._code:
            self._code.discard(page)
            self._lib.quick.tb_invalidate_phys_range_riscv64(self._uc, page, page + 0x1000)

    def serves(self, uc: int) -> bool:
        """Whether that is this core's engine."""
        return uc == self._uc

    def in_device(self) -> bool:
        """Whether a device's callback is being called."""
        return self._in_device > 0

    def translate(self, address: int) -> int | None:
        """The physical address, or None."""
        page = self._lib.quick.riscv_cpu_get_phys_page_debug_riscv64(self._cs, address & ~0xFFF)
        return None if page == (1 << 64) - 1 else page | address & 0xFFF

    def set_clock(self, offset: int, frozen: int) -> None:
        """The guest's time."""
        self._offset, self._frozen = offset, frozen

    def set_deadline(self, when: int) -> None:
        """Kick at that host time."""
        with self._changed:
            self._deadline = when
            if self._in_guest:
                self._changed.notify()

    def set_ecalls(self, on: bool) -> None:
        """Whether ecalls of S-mode go to the handler."""
        self._ecalls = on

    def set_registers(
        self,
        registers: list[tuple[int, int, Callable[[int, int], int], Callable[[int, int, int], None]]],
    ) -> None:
        """The devices."""
        self._ends = [end for _, end, _, _ in registers]
        self._registers = list(registers)

    def gap(self, base: int) -> tuple[int, int, int]:
        """Callbacks for a stretch without RAM."""
        load = LoadHook(lambda _uc, offset, size, _user: self._load(base + offset, size))
        store = StoreHook(lambda _uc, offset, size, value, _user: self._store(base + offset, size, value))
        self._gaps.append((load, store))
        return _address(load), _address(store), 0

    def hooks(self) -> dict[str, int]:
        """Addresses of the callbacks."""
        return {name: _address(callback) for name, callback in self._callbacks.items()} | {"user": 0}

    def close(self) -> None:
        """End the watchdog."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._watchdog.join()

    # What the engine calls.

    def begin_block(self, block: int) -> None:
        """A block of code begins: see `hook_block` of `_fast.c`."""
        counter = self.counter
        counter.between()
        if self._icount_high.value:
            return
        if counter.due():
            self._attention = True
        if self._attention or self._leaving:
            self._interrupt_soon()
        elif left := counter.enter(block):
            self._next_block.value = left
            self._icount_high.value = 0xFFFF

    def _interrupt(self, cs: int, request: int) -> bool:
        try:
            return self._interrupt_check(cs, request)
        except Exception as error:  # noqa: BLE001 - nothing may pass through the engine
            self._handler.failed(error)
            return True

    def _interrupt_check(self, cs: int, request: int) -> bool:
        self.counter.between()
        if self.counter.due():
            self._attention = True
        entered = self._attention
        if entered:
            self._attention = False
            self._handler.attention()
        if self._leaving:
            self._lib.quick.uc_emu_stop(self._uc)
            return True
        if self._deliver_fault():
            return True
        taken = bool(self._lib.quick.riscv_cpu_exec_interrupt_riscv64(cs, request | 2))
        if not taken and not self._mip.value:
            self._interrupt_request.value &= ~2
            if self._attention:
                self._interrupt_request.value |= 2
        return taken or entered

    def _deliver_fault(self) -> bool:
        """Between blocks: the fault that was noted, if any."""
        if self._pending_fault is None:
            return False
        number, self._pc.value, self._badaddr.value = self._pending_fault
        self._pending_fault = None
        self._exception_index.value = number
        self._lib.quick.riscv_cpu_do_interrupt_riscv64(self._cs)
        return True

    def _exception(self, _uc: int, number: int, _user: int) -> None:
        self.counter.between()
        try:
            if number == ECALL and self._ecalls and self._priv.value == 1 and self._handler.ecall():
                return
        except Exception as error:  # noqa: BLE001 - nothing may pass through the engine
            self._handler.failed(error)
            return
        self._pc.value -= 4
        if number in {FETCH_FAULT, FETCH_PAGE_FAULT} and self._badaddr.value - self._pc.value > 2:
            self._next_block.value = 1
            return
        self._exception_index.value = number
        self._lib.quick.riscv_cpu_do_interrupt_riscv64(self._cs)

    def _breakpoint(self, _uc: int, _user: int) -> bool:
        if self._exception_index.value != BREAKPOINT:
            return False
        self._lib.quick.riscv_cpu_do_interrupt_riscv64(self._cs)
        return True

    def now(self) -> int:
        """The guest's time, ns."""
        if self._frozen >= 0:
            return self._frozen
        counter = self.counter
        return self._offset + (counter.total << counter.shift if counter.on else time.monotonic_ns())

    def _time(self) -> int:
        return self.now() // self._ns_per_tick

    # Accesses outside RAM.

    def _find(
        self, address: int, size: int
    ) -> tuple[int, int, Callable[..., int], Callable[..., None]] | None:
        index = bisect_right(self._ends, address)
        if index < len(self._registers):
            found = self._registers[index]
            if found[0] <= address and address + size <= found[1]:
                return found
        return None

    def _note_fault(self, number: int, address: int, host_pc: int) -> None:
        """Remember the first fault; `_interrupt_check` delivers it behind the block."""
        if self._pending_fault is None:
            block = self._pc.value
            if host_pc:
                self._lib.quick.cpu_restore_state_riscv64(self._cs, host_pc, False)
                self.counter.leave()
            self._pending_fault = (number, self._pc.value, address)
            self._pc.value = block
        self._interrupt_soon()

    def _enter_device(self, host_pc: int) -> None:
        self._in_device += 1
        if self.counter.on and host_pc:
            pc = self._pc.value
            self._lib.quick.cpu_restore_state_riscv64(self._cs, host_pc, False)
            self.counter.enter_device()
            self._pc.value = pc

    def _leave_device(self) -> None:
        self._in_device -= 1
        self.counter.leave_device()

    def _load(self, address: int, size: int) -> int:
        host_pc = self._mem_io_pc.value
        self._mem_io_pc.value = NO_ACCESS
        if host_pc == NO_ACCESS:
            return 0
        self._enter_device(host_pc)
        try:
            found = self._find(address, size) if host_pc else None
            if found is not None:
                return found[2](address - found[0], size) & ((1 << 64) - 1)
            self._note_fault(LOAD_FAULT if host_pc else FETCH_FAULT, address, host_pc)
        except self._fault:
            self._note_fault(LOAD_FAULT, address, host_pc)
        except Exception as error:  # noqa: BLE001 - nothing may pass through the engine
            self._handler.failed(error)
        finally:
            self._leave_device()
        return 0

    def _store(self, address: int, size: int, value: int) -> None:
        host_pc = self._mem_io_pc.value
        self._mem_io_pc.value = NO_ACCESS
        self._enter_device(host_pc)
        try:
            found = self._find(address, size)
            if found is not None:
                found[3](address - found[0], value, size)
            else:
                self._note_fault(STORE_FAULT, address, host_pc)
        except self._fault:
            self._note_fault(STORE_FAULT, address, host_pc)
        except Exception as error:  # noqa: BLE001 - nothing may pass through the engine
            self._handler.failed(error)
        finally:
            self._leave_device()

    # The watchdog: kicks when a timer is due, and again when a kick was lost.

    def _watch(self) -> None:
        with self._changed:
            while not self._closing:
                if not self._in_guest:
                    self._changed.wait()
                    continue
                now = time.monotonic_ns()
                if 0 <= self._deadline <= now:
                    self._deadline = -1
                    self._attention = True
                pending = self._attention or self._leaving
                if pending:
                    self._nudge()
                left = RETRY if pending else TICK
                if self._deadline >= 0:
                    left = min(left, max(self._deadline - now, 0) / 1e9)
                self._changed.wait(left)


def _address(callback: Any) -> int:
    return ctypes.cast(callback, ctypes.c_void_p).value or 0
