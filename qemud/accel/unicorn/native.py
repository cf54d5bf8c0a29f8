"""Chooses what the engine calls: the C extension where it was built, else its twin in Python.

Both offer `Core` (see `Core` below).  `QEMUD_TWIN=1` in the environment asks for the twin, which is how tests run everything on both.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from qemud.logs import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.accel.unicorn.layout import Fields
    from qemud.accel.unicorn.library import Library

FUNCTIONS = {
    "emu_start": "uc_emu_start",
    "emu_stop": "uc_emu_stop",
    "do_interrupt": "riscv_cpu_do_interrupt_riscv64",
    "exec_interrupt": "riscv_cpu_exec_interrupt_riscv64",
    "raise_exception": "riscv_raise_exception_riscv64",
    "restore_state": "cpu_restore_state_riscv64",
    "loop_exit": "cpu_loop_exit_riscv64",
    "update_mip": "riscv_cpu_update_mip_riscv64",
    "physical": "riscv_cpu_get_phys_page_debug_riscv64",
    "tlb_fill": "riscv_cpu_tlb_fill_riscv64",
    "flush_page": "tlb_flush_page_by_mmuidx_riscv64",
    "flush_modes": "tlb_flush_by_mmuidx_riscv64",
    "get_csr_ops": "riscv_get_csr_ops_riscv64",
    "set_csr_ops": "riscv_set_csr_ops_riscv64",
    "code_at": "tlb_vaddr_to_host_riscv64",
    "invalidate": "tb_invalidate_phys_range_riscv64",
    "reset_dirty_host": "tlb_reset_dirty_riscv64",
    "protect_code": "tlb_protect_code_riscv64",
    "written_code": "tb_invalidate_phys_page_fast_riscv64",
    "set_dirty": "tlb_set_dirty_riscv64",
    "reset_dirty": "tlb_reset_dirty_by_vaddr_riscv64",
    "find_block": "tb_htable_lookup_riscv64",
    "new_block": "tcg_tb_alloc_riscv64",
}

log = Logger("accel")


class Handler(Protocol):
    """Who is called, always in the thread that runs the engine."""

    def attention(self) -> None:
        """Between two blocks of guest code, after a kick."""

    def ecall(self) -> bool:
        """An ecall in S-mode, with pc behind it; True when it is done."""

    def failed(self, error: BaseException) -> None:
        """A callback has raised something that is no access fault."""


class Core(Protocol):
    """The glue of one engine; `_fast.c` documents the details."""

    def run(self) -> int:
        """Run guest code until a halt, `leave`, or an error of the engine; the engine's error number."""

    def kick(self) -> None:
        """Call `Handler.attention` at the next block boundary; any thread."""

    def leave(self) -> None:
        """Let `run` return at the next block boundary."""

    def set_interrupts(self, mask: int, value: int) -> None:
        """Change the bits `mask` of mip to those of `value`."""

    def in_device(self) -> bool:
        """Whether a device's callback is being called: the guest is in the middle of a block."""

    def translate(self, address: int) -> int | None:
        """The physical address of a virtual one in the current mode; None where nothing is mapped."""

    def set_clock(self, offset: int, frozen: int) -> None:
        """Guest time is host time, or that of counted instructions, + `offset`, or `frozen` when that is not negative (ns)."""

    def set_deadline(self, when: int) -> None:
        """Kick at host monotonic time `when` (ns); negative for never."""

    def count(self, shift: int, user: int) -> None:
        """Count instructions from now on, each of `1 << shift` ns; `user` is where the hook "block" has its datum."""

    def counted(self) -> int:
        """How many instructions there were."""

    def set_counted(self, count: int) -> None:
        """As if there had been that many."""

    def set_limit(self, count: int) -> None:
        """Call `Handler.attention` before that instruction; negative for none."""

    def set_ecalls(self, on: bool) -> None:
        """Whether ecalls of S-mode go to `Handler.ecall`."""

    def set_registers(
        self,
        registers: list[tuple[int, int, Callable[[int, int], int], Callable[[int, int, int], None]]],
    ) -> None:
        """The devices: (base, end, read(offset, size), write(offset, value, size)), sorted and disjoint."""

    def set_memory(self, spans: list[tuple[int, int, int, int]]) -> None:
        """Where there is RAM and ROM: (base, end, what the engine counts from, where the host has it)."""

    def invalidate(self, segments: list[tuple[int, int]]) -> None:
        """Drop what was translated from physical memory at (address, length)."""

    def gap(self, base: int) -> tuple[int, int, int]:
        """(load, store, user) for `uc_mmio_map` of a stretch without RAM that begins at `base`."""

    def hooks(self) -> dict[str, int]:
        """Addresses of the functions that the engine calls, and of their "user" datum."""

    def close(self) -> None:
        """End the watchdog; the engine may not run any more."""


def addresses(lib: Library, fields: Fields) -> dict[str, int]:
    """All that a core has to know of its engine."""
    found = {name: lib.address(function) for name, function in FUNCTIONS.items()}
    for name in (
        "uc",
        "cs",
        "env",
        "interrupt_request",
        "next_block",
        "icount_high",
        "exception_index",
        "mem_io_pc",
    ):
        found[name] = getattr(fields, name)
    for name in ("pc", "badaddr", "priv", "mip", "mstatus"):
        found[name] = fields.register(name)
    found["gpr"] = fields.env
    return found


def create_core(
    lib: Library, fields: Fields, handler: Handler, fault: type[Exception], ns_per_tick: int
) -> Core:
    """The glue of the engine at `fields`; `fault` is what a device raises to refuse an access."""
    found = addresses(lib, fields)
    if not os.environ.get("QEMUD_TWIN"):
        try:
            from qemud.accel.unicorn._fast import Core as Fast
        except ImportError:
            from qemud.accel.unicorn.twin import LACKS

            log.warning("built without the C extension", lacks=LACKS)
        else:
            return Fast(found, handler, fault, ns_per_tick)
    from qemud.accel.unicorn.twin import Core as Twin

    return Twin(lib, found, handler, fault, ns_per_tick)
