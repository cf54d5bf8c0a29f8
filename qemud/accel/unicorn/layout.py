"""Where the engine keeps what no public interface shows: found or checked anew for every engine, never assumed.

`find` gives the addresses of one engine's fields.  It reads memory through `/proc/self/mem`, which answers a wrong address with an
error where a pointer would crash, and believes a place only after the engine itself has put known values there.  What is not where
version 2.1.4 has it ends in a GenericError that says so, before any guest code runs.

Structures (Unicorn 2.1.4, x86-64 Linux wheel): `uc_struct` (include/uc_priv.h), `CPUState` (hw/core/cpu.h),
`CPURISCVState` (target/riscv/cpu.h).
"""

from __future__ import annotations

import ctypes
import os
import struct
import zlib
from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.accel.unicorn.library import Library

UC_CPU = 440
UC_NO_EXIT_REQUEST = 2034
CPU_CFLAGS_NEXT_TB = 24
CPU_INTERRUPT_REQUEST = 28
CPU_ENV_PTR = 296
CPU_ICOUNT_DECR_PTR = 304
CPU_TB_JMP_CACHE = 312
CPU_AFTER_JMP_CACHE = CPU_TB_JMP_CACHE + 4096 * 8
AFTER_MEM_IO_PC = 64
AFTER_UC = 112

REGION_OPS = 16
REGION_OPAQUE = 24
CALLBACKS_OPS = 32
"""In mmio_cbs, a region's opaque: read, its user, write, its user, and then MemoryRegionOps."""
OPS_IMPL_MAX_ACCESS_SIZE = 68

GPR = 0
FPR = 32 * 8

# 64-bit fields from `pc` on, in their order; those behind "features" and "miclaim" are 32 bits and padding.
_FIELDS = (
    "pc load_res load_val frm badaddr guest_phys_fault_addr priv_ver misa misa_mask features priv virt resetvec mhartid "
    "mstatus mip miclaim mie mideleg sptbr satp stval mtval medeleg stvec sepc scause mtvec mepc mcause unused_mtval "
    "hstatus hedeleg hideleg hcounteren htval htinst hgatp htimedelta vsstatus vstvec vsscratch vsepc vscause vstval vsatp "
    "mtval2 mtinst stvec_hs sscratch_hs sepc_hs scause_hs stval_hs satp_hs mstatus_hs scounteren mcounteren sscratch "
    "mscratch mfromhost mtohost timecmp"
)
ENV = {name: 512 + 8 * i for i, name in enumerate(_FIELDS.split())}
"""Offsets in CPURISCVState by register name; `stval` and `mtval` are the fields that the engine calls sbadaddr and mbadaddr."""
PMP_ENTRIES = 16
PMP = ENV["timecmp"] + 8
"""pmp_table_t: 16 of (addr u64, cfg u8, padding), 16 of (start, end), u32 number of rules."""
PMP_SIZE = PMP_ENTRIES * 32 + 8
RDTIME_FN = PMP + PMP_SIZE

# Each register that is saved, with a value that its own rules leave alone: written through the engine, looked for in ENV.
_PROBES = (
    ("mstatus", 0x300, 0x0014_0000),
    ("medeleg", 0x302, 0xB1FB),
    ("mideleg", 0x303, 0x222),
    ("mie", 0x304, 0xAAA),
    ("mtvec", 0x305, 0x5A5A_1001),
    ("mcounteren", 0x306, 0x1357_9BD7),
    ("mscratch", 0x340, 0x0123_4567_89AB_CD01),
    ("mepc", 0x341, 0x0123_4567_89AB_CD02),
    ("mcause", 0x342, 0x0123_4567_89AB_CD04),
    ("mtval", 0x343, 0x0123_4567_89AB_CD08),
    ("stvec", 0x105, 0x0123_4567_89AB_CD10),
    ("scounteren", 0x106, 0x2468_ACE7),
    ("sscratch", 0x140, 0x0123_4567_89AB_CD20),
    ("sepc", 0x141, 0x0123_4567_89AB_CD40),
    ("scause", 0x142, 0x0123_4567_89AB_CD80),
    ("stval", 0x143, 0x0123_4567_89AB_CE00),
    ("satp", 0x180, 8 << 60 | 0x1234_5678),
)

# Functions by name: where their code and what belongs to it begins, its length, and its checksum (CRC-32).
_CODE = {
    "helper_lookup_tb_ptr_riscv64": (0, 256, 0xE0E6D2CE),
    "tb_htable_lookup_riscv64": (-128, 527, 0xAD95A14C),
    "tlb_reset_dirty_by_vaddr_riscv64": (0, 451, 0x139FEE85),
    "tb_flush_riscv64": (0, 310, 0x16284094),
}

_COUNTING = {
    "cpu_restore_state_riscv64": (-8432, 318, 0x051010DF),
    "tcg_tb_alloc_riscv64": (0, 311, 0x26821E77),
}
"""The same for what `counting.py` takes the place of, and whose offsets it uses."""


class Fields:
    """Addresses of one engine's fields, all checked."""

    __slots__ = (
        "cs",
        "env",
        "exception_index",
        "exec_interrupt_slot",
        "halted",
        "icount_high",
        "interrupt_request",
        "mem_io_pc",
        "next_block",
        "tlb_fill_slot",
        "uc",
    )

    uc: int
    cs: int
    env: int
    interrupt_request: int
    icount_high: int
    next_block: int
    """Flags of the next block only: its most number of instructions, or all ones for none."""
    mem_io_pc: int
    halted: int
    exception_index: int
    exec_interrupt_slot: int
    """Where the CPU class points to its interrupt check."""
    tlb_fill_slot: int
    """Where it points to what makes a TLB entry."""

    def register(self, name: str) -> int:
        """Address of an `ENV` register."""
        return self.env + ENV[name]


def _wrong(what: str) -> GenericError:
    return GenericError(f"unicorn 2.1.4 on x86-64 Linux is needed, found one whose {what} is elsewhere")


class _Memory:
    """The memory of this process, read without the risk of a crash."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def bytes(self, address: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, address) if 0 < address < 1 << 47 else b""
        except (OSError, OverflowError):
            data = b""
        return data

    def u64(self, address: int) -> int:
        data = self.bytes(address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else 0

    def u32(self, address: int) -> int:
        return self.u64(address) & 0xFFFF_FFFF


def find(lib: Library, uc: int) -> Fields:
    """The fields of the fresh engine `uc` of 64-bit RISC-V. Leaves its registers changed; reset it afterwards.

    Raises GenericError when something is not where it should be.
    """
    memory = _Memory()
    try:
        return _find(lib, uc, memory)
    finally:
        memory.close()


def _find(lib: Library, uc: int, memory: _Memory) -> Fields:
    magic = {5: 0x51C5_A11E_0DD5_1DE5, 6: 0x6B0A_7D1D_E5C1_D1E6}
    for n, value in magic.items():
        # The first call of any kind also makes the engine build its processor.
        word = ctypes.c_uint64(value)
        lib.check(lib.quick.uc_reg_write(uc, 1 + n, ctypes.byref(word)), f"write x{n}")

    fields = Fields()
    fields.uc = uc
    fields.cs = cs = memory.u64(uc + UC_CPU)
    fields.env = env = memory.u64(cs + CPU_ENV_PTR)
    if any(memory.u64(env + GPR + 8 * n) != value for n, value in magic.items()):
        raise _wrong("processor state")
    icount = memory.u64(cs + CPU_ICOUNT_DECR_PTR)
    if not cs < icount < env or env - icount > 64 or memory.u32(icount) != 0:
        raise _wrong("block counter")
    fields.icount_high = icount + 2
    fields.interrupt_request = cs + CPU_INTERRUPT_REQUEST
    fields.next_block = cs + CPU_CFLAGS_NEXT_TB
    if memory.u32(fields.interrupt_request) != 0 or memory.u32(fields.next_block) != 0xFFFF_FFFF:
        raise _wrong("interrupt request")

    # Behind the cache of jumps: two empty lists, which point to themselves, and mem_io_pc.
    after = cs + CPU_AFTER_JMP_CACHE
    fields.mem_io_pc = after + AFTER_MEM_IO_PC
    if (memory.u64(after + 24), memory.u64(after + 40)) != (after + 16, after + 32):
        raise _wrong("jump cache")
    if memory.u64(fields.mem_io_pc) != 0 or memory.u64(after + AFTER_UC) != uc:
        raise _wrong("exception index")
    tail_address = after + AFTER_UC
    fields.exception_index = tail_address - 8
    fields.halted = tail_address - 16
    if memory.u32(fields.halted) != 0 or memory.u32(fields.exception_index) != 0xFFFF_FFFF:
        raise _wrong("exception index")
    cpu_class = memory.u64(tail_address + 8)
    methods = memory.bytes(cpu_class, 512)
    check = methods.find(struct.pack("<Q", lib.address("riscv_cpu_exec_interrupt_riscv64")))
    fill = struct.pack("<Q", lib.address("riscv_cpu_tlb_fill_riscv64"))
    # The class has it twice: what is called, and behind it what can be chosen to be.
    if check < 0 or fill + fill not in methods:
        raise _wrong("interrupt check")
    fields.exec_interrupt_slot = cpu_class + check
    fields.tlb_fill_slot = cpu_class + methods.find(fill)

    # The function that obeys the switch names its place: `cmp byte [reg + offset], 0`.
    code = memory.bytes(lib.address("check_exit_request_riscv64"), 64)
    if struct.pack("<I", UC_NO_EXIT_REQUEST) not in code or memory.bytes(uc + UC_NO_EXIT_REQUEST, 1) != b"\0":
        raise _wrong("no_exit_request")

    _check_registers(lib, fields, memory)
    return fields


def _check_registers(lib: Library, fields: Fields, memory: _Memory) -> None:
    """Have the engine write each register, and look whether that is the field we take for it."""
    env = fields.env
    if memory.u64(env + ENV["priv"]) != 3:
        raise _wrong("privilege mode")
    for name, number, value in _PROBES:
        lib.quick.riscv_csrrw_debug_riscv64(env, number, None, value, (1 << 64) - 1)
        if memory.u64(env + ENV[name]) & value != value:
            raise _wrong(f"register {name}")
    lib.quick.riscv_cpu_set_rdtime_fn_riscv64(env, 0x7D7E_0000_1234)
    if memory.u64(env + RDTIME_FN) != 0x7D7E_0000_1234:
        raise _wrong("time function")
    lib.quick.riscv_cpu_set_rdtime_fn_riscv64(env, None)
    lib.quick.pmpaddr_csr_write_riscv64(env, 3, 0x1234_5677)
    lib.quick.pmpcfg_csr_write_riscv64(env, 0, 0x1F << 24)
    if (
        memory.u64(env + PMP + 48) != 0x1234_5677
        or memory.bytes(env + PMP + 56, 1) != b"\x1f"
        or memory.u32(env + RDTIME_FN - 8) != 1
    ):
        raise _wrong("physical memory protection")
    lib.quick.pmpcfg_csr_write_riscv64(env, 0, 0)
    lib.quick.riscv_csrrw_debug_riscv64(env, 0x180, None, 0, (1 << 64) - 1)
    lib.quick.riscv_cpu_update_mip_riscv64(fields.cs, 1 << 7, 1 << 7)
    if memory.u64(env + ENV["mip"]) != 1 << 7 or memory.u32(fields.interrupt_request) & 2 == 0:
        raise _wrong("interrupt request")
    lib.quick.riscv_cpu_update_mip_riscv64(fields.cs, 1 << 7, 0)


def is_known(lib: Library) -> bool:
    """Whether the engine's code for finding blocks is, byte for byte, that which the offsets in `_fast.c` are from.

    It always is in the wheel; a library that somebody else has compiled is as right, and a little slower.
    """
    return _has(lib, _CODE)


def is_countable(lib: Library) -> bool:
    """Whether that is so of the code that knows how many instructions a block has."""
    return _has(lib, _COUNTING)


def _has(lib: Library, code: dict[str, tuple[int, int, int]]) -> bool:
    return all(
        zlib.crc32(ctypes.string_at(lib.address(name) + start, size)) == checksum
        for name, (start, size, checksum) in code.items()
    )


def widen(lib: Library, uc: int, base: int, callbacks: tuple[int, int, int]) -> None:
    """Let the registers mapped at `base` with these (load, store, user) take 8 bytes at once.

    The engine cuts an access of 8 bytes in two otherwise, which is wrong for registers that must change as a whole.
    """
    load, store, user = callbacks
    memory = _Memory()
    try:
        region = lib.quick.find_memory_mapping_riscv64(uc, base) or 0
        opaque = memory.u64(region + REGION_OPAQUE)
        place = opaque + CALLBACKS_OPS + OPS_IMPL_MAX_ACCESS_SIZE
        if (
            memory.bytes(opaque, 32) != struct.pack("<4Q", load, user, store, user)
            or memory.u64(region + REGION_OPS) != opaque + CALLBACKS_OPS
            or memory.u32(place) != 0
        ):
            raise _wrong("device region")
    finally:
        memory.close()
    ctypes.c_uint32.from_address(place).value = 8
