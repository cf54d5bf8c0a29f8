"""A 64-bit RISC-V hart on the Unicorn engine: `Vcpu` of `qemud.machine.vcpu`, which is where its use is described.

The engine translates and runs code, and does little more.  Here it gets what makes it a processor of a system: traps, interrupts,
time, devices, faults of accesses to nothing, and a state that can be saved.  `native.py` chooses the part below (`_fast.c`, or its
twin in Python), which the engine calls; this module is what the machine calls.

Facts that everything here rests on, each found by experiment:

- `no_exit_request` is set before the first run.  Otherwise the engine may stop in the middle of a block, and then repeats an
  instruction that is done already: AMOs and stores to devices happen twice.
- Registers are read and written in the engine's own state.  Its public interface ignores machine-mode registers while the guest is in
  supervisor mode, and a write of pc in a callback goes wrong later.
- All that is not RAM is mapped as device registers, holes too; which device it is, if any, is found by us.  So nothing of the
  engine's map changes when a device comes or goes.  When RAM does, the engine is replaced by a fresh one in the same state.
- Memory written by anybody but the guest has to be told to the engine, which keeps translated code for ever otherwise.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from qemud.accel.unicorn import layout, library, linkage, saved
from qemud.accel.unicorn.native import create_core
from qemud.accel.unicorn.outside import outside_ram
from qemud.machine.memory import MemoryFault, SectionKind
from qemud.machine.vcpu import Exit
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.cpu_riscv import RiscvCpuState
    from qemud.accel.unicorn.native import Core
    from qemud.machine.memory import AddressSpace, Section

MASK = (1 << 64) - 1
NS_PER_TICK = 100
"""timebase-frequency is 10 MHz, as on QEMU's virt board."""

MIP_SEIP = 1 << 9
INSTRET = frozenset({0xB02, 0xC02})
FS_DIRTY = 3 << 13

# Saved registers whose fields hold any value.
PLAIN = (
    "load_res load_val medeleg mideleg mie mtvec mcounteren mscratch mepc mcause mtval stvec scounteren sscratch sepc "
    "scause stval"
)


def _ignore(*_: object) -> None:
    """What callbacks are before somebody sets them."""


class RiscvVcpu:
    """One hart; see the module and `qemud.machine.vcpu.Vcpu`."""

    def __init__(
        self, space: AddressSpace, index: int = 0, code_size: int = 0, shift: int | None = None
    ) -> None:
        self.index = index
        self.failure = ""
        self.on_attention: Callable[[], None] = _ignore
        self.on_failure: Callable[[BaseException], None] = _ignore
        self._on_ecall: Callable[[], bool] | None = None
        self._lib = library.load()
        self._code_size = code_size or library.CODE_SIZE
        self._space = space
        self._clock = (0, 0)
        self._deadline = -1
        self._shift = shift
        self._limit = -1
        self._spans: list[tuple[int, int, int, int]] = []
        """RAM and ROM in the engine: physical base and end, and what the engine counts from (its "ram address")."""
        self._mapped = False
        self._remap = False
        self._closed = False
        self._open()
        self._unlisten = space.add_listener(self)

    # The engine.

    def _open(self) -> None:
        library.check_memory(self._code_size)
        lib = self._lib.quick
        handle = ctypes.c_void_p()
        self._lib.check(
            lib.uc_open(library.ARCH_RISCV, library.MODE_RISCV64, ctypes.byref(handle)), "make a processor"
        )
        assert handle.value is not None
        self._uc = uc = handle.value
        try:
            room = lib.uc_ctl(uc, library.CTL_WRITE_TCG_BUFFER_SIZE, self._code_size)
            self._lib.check(room, "take room for translated code")
            self._fields = fields = layout.find(self._lib, uc)
            ctypes.c_uint8.from_address(uc + layout.UC_NO_EXIT_REQUEST).value = 1
            self._lib.check(lib.uc_ctl(uc, library.CTL_WRITE_USE_EXITS, 1), "do without an end address")
        except BaseException:
            lib.uc_close(uc)
            raise
        self._x = (ctypes.c_uint64 * 32).from_address(fields.env + layout.GPR)
        self._f = (ctypes.c_uint64 * 32).from_address(fields.env + layout.FPR)
        self._pc = self._register("pc")
        self._mip = self._register("mip")
        self._mie = self._register("mie")
        self._priv = self._register("priv")
        self._halted = ctypes.c_uint32.from_address(fields.halted)
        self._core = create_core(self._lib, fields, self, MemoryFault, NS_PER_TICK)
        self._core.set_clock(*self._clock)
        self._core.set_deadline(self._deadline)
        self._core.set_ecalls(self._on_ecall is not None)
        self._hook()
        if self._shift is not None:
            from qemud.accel.unicorn.counting import count_instructions

            count_instructions(self._lib, uc, self._core, self._shift)
            self._core.set_limit(self._limit)
        self._clear()

    def _register(self, name: str) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_address(self._fields.register(name))

    def _hook(self) -> None:
        """Have the engine call us."""
        lib, hooks = self._lib, self._core.hooks()
        for kind, function in (
            (library.HOOK_INTR, hooks["exception"]),
            (library.HOOK_INSN_INVALID, hooks["breakpoint"]),
        ):
            self._add_hook(kind, function, 1, 0)
        ctypes.c_uint64.from_address(self._fields.exec_interrupt_slot).value = hooks["interrupt"]
        if "fill" in hooks:
            ctypes.c_uint64.from_address(self._fields.tlb_fill_slot).value = hooks["fill"]
        lib.quick.riscv_cpu_set_rdtime_fn_riscv64(self._fields.env, hooks["time"])
        linkage.replace(lib, hooks)

    def _add_hook(self, kind: int, function: int, begin: int, end: int) -> None:
        """Call `function` for events of this kind between two addresses, or everywhere when begin > end."""
        handle = ctypes.c_size_t()
        user = self._core.hooks()["user"]
        self._lib.check(
            self._lib.quick.uc_hook_add(self._uc, ctypes.byref(handle), kind, function, user, begin, end),
            "call back",
        )

    def close(self) -> None:
        """Give the engine back."""
        if not self._closed:
            self._closed = True
            self._unlisten()
            self._release(self._core, self._uc)

    def _release(self, core: Core, uc: int) -> None:
        core.close()
        self._lib.quick.uc_close(uc)

    # Memory: a listener of the address space.

    def section_added(self, section: Section) -> None:
        """A section exists now. Raises GenericError for RAM that does not lie on pages."""
        if (
            section.kind is not SectionKind.MMIO
            and (section.base | section.size | section.block_offset) & 0xFFF
        ):
            raise GenericError(
                f"memory region '{section.name}' at {section.base:#x} ({section.size:#x} bytes) "
                "does not begin and end at a page"
            )
        self.section_removed(section)

    def section_removed(self, section: Section) -> None:
        """A section is gone."""
        if section.kind is SectionKind.MMIO:
            self._update_registers()
        else:
            self._remap = True

    def ram_written(self, segments: list[tuple[int, int]]) -> None:
        """Translated code there is stale."""
        self._core.invalidate(segments)

    def invalidate(self, address: int, size: int) -> None:
        """Drop what was translated from physical memory there."""
        self._core.invalidate([(address, size)])

    def _update_registers(self) -> None:
        self._core.set_registers(outside_ram(self._space))

    def _map(self) -> None:
        """Give the engine its memory; a map that has changed since needs a fresh engine."""
        if self._mapped:
            state, core, uc = self.save(), self._core, self._uc
            self._open()
            self._core.set_counted(core.counted())
            self._restore(state)
            self._release(core, uc)
            # Whoever kicked meanwhile may have kicked the old one.
            self._core.kick()
        self._remap = False
        self._mapped = True
        self._spans = []
        self._update_registers()
        position = 0
        for section in self._space:
            if section.kind is SectionKind.MMIO:
                continue
            self._map_gap(position, section.base)
            self._map_ram(section)
            position = section.end
        self._map_gap(position, 1 << 64)
        self._core.set_memory(self._spans)

    def _map_ram(self, section: Section) -> None:
        lib = self._lib
        assert section.block is not None
        host = section.block.address + section.block_offset
        lib.check(
            lib.quick.uc_mem_map_ptr(self._uc, section.base, section.size, library.PROT_ALL, host),
            f"map {section.name}",
        )
        if section.kind is SectionKind.ROM:
            readable = library.PROT_READ | library.PROT_EXEC
            lib.check(
                lib.quick.uc_mem_protect(self._uc, section.base, section.size, readable),
                f"protect {section.name}",
            )
            self._add_hook(
                library.HOOK_MEM_WRITE_PROT, self._core.hooks()["rom"], section.base, section.end - 1
            )
        inside = ctypes.c_uint64()
        region = lib.quick.memory_region_from_host_riscv64(self._uc, host, ctypes.byref(inside))
        ram_address = lib.quick.memory_region_get_ram_addr_riscv64(region) + inside.value
        self._spans.append((section.base, section.end, ram_address, host))

    def _map_gap(self, base: int, end: int) -> None:
        """All between two stretches of RAM; the sizes that the engine takes end below 2**64."""
        while base < end:
            size = min(end - base, 1 << 63)
            load, store, user = callbacks = self._core.gap(base)
            self._lib.check(
                self._lib.quick.uc_mmio_map(self._uc, base, size, load, user, store, user),
                f"map {base:#x} to {base + size - 1:#x}",
            )
            layout.widen(self._lib, self._uc, base, callbacks)
            # Without this a fetch would end the run instead of coming to us.
            self._lib.check(
                self._lib.quick.uc_mem_protect(self._uc, base, size, library.PROT_ALL),
                f"open {base:#x} to {base + size - 1:#x}",
            )
            base += size

    # Running.

    @property
    def on_ecall(self) -> Callable[[], bool] | None:
        """Who answers ecalls of S-mode."""
        return self._on_ecall

    @on_ecall.setter
    def on_ecall(self, handler: Callable[[], bool] | None) -> None:
        self._on_ecall = handler
        self._core.set_ecalls(handler is not None)

    @property
    def halted(self) -> bool:
        """Whether it waits and no enabled interrupt is pending."""
        return bool(self._halted.value) and not self._mip.value & self._mie.value

    def run(self) -> Exit:
        """Run guest code until it waits, somebody says `leave`, or the engine fails."""
        if self._remap:
            self._map()
        error = self._core.run()
        if error not in {library.ERR_OK, library.ERR_EXCEPTION}:
            text = self._lib.quick.uc_strerror(error).decode("ascii", "replace")
            self.failure = f"the engine stopped at pc {self._pc.value:#x}: {text}"
            return Exit.FAILED
        return Exit.HALTED if self._halted.value else Exit.LEFT

    def leave(self) -> None:
        """Let `run` return soon."""
        self._core.leave()

    def halt(self) -> None:
        """Wait for an interrupt from here on, as after a WFI."""
        self._halted.value = 1
        self._core.leave()

    def kick(self) -> None:
        """Have `on_attention` called soon; any thread."""
        self._core.kick()

    # What the part below calls.

    def attention(self) -> None:
        """Between two blocks, after a kick."""
        self.on_attention()

    def ecall(self) -> bool:
        """An ecall in S-mode; pc is behind it."""
        return self._on_ecall is not None and self._on_ecall()

    def failed(self, error: BaseException) -> None:
        """A callback has raised."""
        self.on_failure(error)

    # Interrupts and time.

    def set_interrupt(self, bit: int, level: int) -> None:
        """Set or clear a bit of mip."""
        mask = 1 << bit
        self._core.set_interrupts(mask, mask if level else 0)

    def set_clock(self, offset: int, frozen: int | None) -> None:
        """The guest's time."""
        self._clock = (offset, -1 if frozen is None else frozen)
        self._core.set_clock(*self._clock)

    def set_deadline(self, when: int | None) -> None:
        """Kick at host monotonic time `when` (ns)."""
        self._deadline = -1 if when is None else when
        self._core.set_deadline(self._deadline)

    @property
    def instructions(self) -> int:
        """How many have run, if they are counted."""
        return self._core.counted()

    @instructions.setter
    def instructions(self, count: int) -> None:
        self._core.set_counted(count)

    def set_limit(self, count: int | None) -> None:
        """Call `on_attention` before that instruction."""
        self._limit = -1 if count is None else count
        self._core.set_limit(self._limit)

    # Addresses.

    def flush_tlb(self) -> None:
        """Forget all translations of addresses."""
        self._lib.quick.tlb_flush_riscv64(self._fields.cs)

    def translate(self, address: int) -> int | None:
        """The physical address of a virtual one, as the guest's current mode sees it."""
        return self._core.translate(address & MASK)

    # Registers.

    @property
    def pc(self) -> int:
        """The program counter; exact between blocks."""
        return self._pc.value

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc.value = value & MASK & ~1

    @property
    def mode(self) -> int:
        """See `Vcpu`."""
        return self._priv.value

    def gpr(self, n: int) -> int:
        """x0 to x31."""
        return self._x[n]

    def set_gpr(self, n: int, value: int) -> None:
        """Write x1 to x31."""
        if n:
            self._x[n] = value & MASK

    def csr(self, number: int) -> int:
        """A control and status register, in any mode."""
        if number in INSTRET and self._shift is not None:
            return self.instructions
        value = ctypes.c_uint64()
        self._csr(number, value, 0, 0)
        return value.value

    def set_csr(self, number: int, value: int) -> None:
        """Write a control and status register, with its own rules."""
        self._csr(number, ctypes.c_uint64(), value & MASK, MASK)

    def _csr(self, number: int, old: ctypes.c_uint64, new: int, mask: int) -> None:
        done = -1
        if 0 <= number < 0x1000:
            # Some registers look at the mode themselves (satp, under mstatus.TVM).
            mode, self._priv.value = self._priv.value, 3
            done = self._lib.quick.riscv_csrrw_debug_riscv64(
                self._fields.env, number, ctypes.byref(old), new, mask
            )
            self._priv.value = mode
        if done < 0:
            raise GenericError(f"CSR {number:#x} does not exist or cannot be written")

    # State.

    def reset(self, *, pc: int, a0: int = 0, a1: int = 0, a2: int = 0, mode: int = 3) -> None:
        """The state after power-on, running from `pc`."""
        if mode not in saved.PRIVILEGES:
            raise GenericError(f"privilege mode {mode} does not exist, expected 0, 1 or 3")
        self._clear()
        self._priv.value = mode
        self.pc = pc
        for n, value in ((10, a0), (11, a1), (12, a2)):
            self.set_gpr(n, value)

    def _clear(self) -> None:
        """All registers as after power-on, in M-mode; nothing translated is kept."""
        if self._core.in_device():
            raise RuntimeError("a hart cannot be reset or loaded in the middle of an access to a device")
        fields, lib = self._fields, self._lib.quick
        kept = {name: self._register(name).value for name in ("priv_ver", "misa", "misa_mask", "features")}
        ctypes.memset(fields.env, 0, layout.RDTIME_FN)
        for name, value in kept.items():
            self._register(name).value = value
        self._register("mhartid").value = self.index
        self._priv.value = 3
        self._register("load_res").value = MASK
        # As on QEMU's board, software cannot write the bit that the interrupt controller drives.
        self._register("miclaim").value = MIP_SEIP
        self._register("mstatus").value = 0xA_0000_0000  # UXL and SXL: 64 bits
        lib.riscv_cpu_set_fflags_riscv64(fields.env, 0)
        lib.riscv_cpu_update_mip_riscv64(fields.cs, 0, 0)
        ctypes.c_int32.from_address(fields.exception_index).value = -1
        self._halted.value = 0
        lib.tlb_flush_riscv64(fields.cs)
        lib.tb_flush_riscv64(fields.cs)

    def save(self) -> RiscvCpuState:
        """The whole state, by value."""
        from qemud._generated.types.cpu_riscv import RiscvCpuState

        env = self._fields.env
        entries = [env + layout.PMP + 16 * i for i in range(layout.PMP_ENTRIES)]
        plain = {name: self._register(name).value for name in PLAIN.split()}
        return RiscvCpuState(
            pc=self._pc.value,
            priv=self._priv.value,
            halted=bool(self._halted.value),
            x=list(self._x),
            f=list(self._f),
            fflags=self._lib.quick.riscv_cpu_get_fflags_riscv64(env),
            frm=self._register("frm").value,
            mstatus=self._register("mstatus").value,
            mip=self._mip.value,
            satp=self._register("satp").value,
            pmpcfg=[ctypes.c_uint8.from_address(entry + 8).value for entry in entries],
            pmpaddr=[ctypes.c_uint64.from_address(entry).value for entry in entries],
            **plain,
        )

    def check(self, state: RiscvCpuState) -> None:
        """Raise GenericError for a state that no hart of this kind can be in."""
        saved.check(state)

    def load(self, state: RiscvCpuState) -> None:
        """Take over a saved state, after checks of everything that the engine does not check itself."""
        saved.check(state)
        self._restore(state)

    def _restore(self, state: RiscvCpuState) -> None:
        lib, fields = self._lib.quick, self._fields
        self._clear()
        for name in PLAIN.split():
            self._register(name).value = getattr(state, name)
        for n in range(32):
            self.set_gpr(n, state.x[n])
            self._f[n] = state.f[n]
        self._pc.value = state.pc
        self._priv.value = state.priv
        self._register("frm").value = state.frm
        self._register("mstatus").value = state.mstatus
        self._register("satp").value = state.satp
        lib.riscv_cpu_set_fflags_riscv64(fields.env, state.fflags)
        for i, address in enumerate(state.pmpaddr):
            lib.pmpaddr_csr_write_riscv64(fields.env, i, address)
        for i in (0, 1):
            word = int.from_bytes(bytes(state.pmpcfg[8 * i : 8 * i + 8]), "little")
            lib.pmpcfg_csr_write_riscv64(fields.env, 2 * i, word)
        lib.riscv_cpu_update_mip_riscv64(fields.cs, 0xFFFF_FFFF, state.mip)
        self._halted.value = state.halted
        lib.tlb_flush_riscv64(fields.cs)
