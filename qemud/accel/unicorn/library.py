"""The engine's shared library: found without importing its Python package, checked, and called by name.

Only version 2.1.4 for x86-64 Linux is taken: the accelerator uses functions and fields that no public interface promises.
Two handles are kept: one releases the interpreter's lock (for nothing but running guest code in `twin.py`), one does not, since every
other call is shorter than handing the lock over.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from importlib.util import find_spec

from qemud.qapi.runtime.errors import GenericError

VERSION = (2, 1, 4)

# Constants of the public interface (unicorn.h of that version).
ARCH_RISCV = 8
MODE_RISCV64 = 8
HOOK_INTR = 1 << 0
HOOK_BLOCK = 1 << 3
HOOK_MEM_WRITE_PROT = 1 << 8
HOOK_INSN_INVALID = 1 << 14
PROT_READ = 1
PROT_EXEC = 4
PROT_ALL = 7
CTL_WRITE_USE_EXITS = 1 << 30 | 1 << 26 | 4
CTL_WRITE_TCG_BUFFER_SIZE = 1 << 30 | 1 << 26 | 13
CODE_SIZE = 256 << 20
"""Room for translated code by default: filled as it goes, and emptied when it is full."""
ERR_OK = 0
ERR_EXCEPTION = 21

u64 = ctypes.c_uint64
u32 = ctypes.c_uint32
pointer = ctypes.c_void_p
integer = ctypes.c_int

PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "uc_version": (ctypes.c_uint, (pointer, pointer)),
    "uc_open": (integer, (integer, integer, pointer)),
    "uc_close": (integer, (pointer,)),
    "uc_strerror": (ctypes.c_char_p, (integer,)),
    "uc_reg_write": (integer, (pointer, integer, pointer)),
    "uc_emu_start": (integer, (pointer, u64, u64, u64, ctypes.c_size_t)),
    "uc_emu_stop": (integer, (pointer,)),
    # Variadic; all arguments are given, and are integers or pointers.
    "uc_ctl": (integer, (pointer, u32, integer)),
    "uc_hook_add": (integer, (pointer, pointer, integer, pointer, pointer, u64, u64)),
    "uc_mem_map_ptr": (integer, (pointer, u64, u64, u32, pointer)),
    "uc_mem_protect": (integer, (pointer, u64, u64, u32)),
    "uc_mmio_map": (integer, (pointer, u64, u64, pointer, pointer, pointer, pointer)),
    "riscv_cpu_do_interrupt_riscv64": (None, (pointer,)),
    "riscv_cpu_exec_interrupt_riscv64": (ctypes.c_bool, (pointer, integer)),
    "riscv_cpu_get_phys_page_debug_riscv64": (u64, (pointer, u64)),
    "riscv_cpu_get_fflags_riscv64": (u64, (pointer,)),
    "riscv_cpu_set_fflags_riscv64": (None, (pointer, u64)),
    "riscv_cpu_set_rdtime_fn_riscv64": (None, (pointer, pointer)),
    "riscv_cpu_update_mip_riscv64": (u32, (pointer, u32, u32)),
    "riscv_csrrw_debug_riscv64": (integer, (pointer, integer, pointer, u64, u64)),
    "riscv_cpu_tlb_fill_riscv64": (
        ctypes.c_bool,
        (pointer, u64, integer, integer, integer, ctypes.c_bool, ctypes.c_size_t),
    ),
    "riscv_get_csr_ops_riscv64": (None, (integer, pointer)),
    "riscv_set_csr_ops_riscv64": (None, (integer, pointer)),
    "riscv_raise_exception_riscv64": (None, (pointer, u32, ctypes.c_size_t)),
    "pmpaddr_csr_write_riscv64": (None, (pointer, u32, u64)),
    "pmpcfg_csr_write_riscv64": (None, (pointer, u32, u64)),
    "tb_flush_riscv64": (None, (pointer,)),
    "tb_invalidate_phys_range_riscv64": (None, (pointer, u64, u64)),
    "tlb_flush_riscv64": (None, (pointer,)),
    "tlb_flush_by_mmuidx_riscv64": (None, (pointer, ctypes.c_uint16)),
    "tlb_flush_page_by_mmuidx_riscv64": (None, (pointer, u64, ctypes.c_uint16)),
    "tlb_vaddr_to_host_riscv64": (pointer, (pointer, u64, integer, integer)),
    "cpu_restore_state_riscv64": (ctypes.c_bool, (pointer, ctypes.c_size_t, ctypes.c_bool)),
    "cpu_loop_exit_riscv64": (None, (pointer,)),
    "tcg_tb_alloc_riscv64": (pointer, (pointer,)),
    "find_memory_mapping_riscv64": (pointer, (pointer, u64)),
    "memory_region_from_host_riscv64": (pointer, (pointer, pointer, pointer)),
    "memory_region_get_ram_addr_riscv64": (u64, (pointer,)),
    "check_exit_request_riscv64": (None, (pointer,)),
    "tlb_reset_dirty_riscv64": (None, (pointer, u64, u64)),
    "tlb_protect_code_riscv64": (None, (pointer, u64)),
    "tlb_set_dirty_riscv64": (None, (pointer, u64)),
    "tb_invalidate_phys_page_fast_riscv64": (None, (pointer, pointer, u64, integer, ctypes.c_size_t)),
    "helper_lookup_tb_ptr_riscv64": (pointer, (pointer,)),
    "tb_htable_lookup_riscv64": (pointer, (pointer, u64, u64, u32, u32)),
    "tlb_reset_dirty_by_vaddr_riscv64": (None, (pointer, u64, u64)),
}


class Library:
    """The library with the prototypes above; `lib.name(...)` calls, `address(name)` gives the function's address."""

    def __init__(self, path: str) -> None:
        try:
            self.quick = ctypes.PyDLL(path)
            self.slow = ctypes.CDLL(path)
        except OSError as error:
            raise GenericError(
                f"unicorn 2.1.4 on x86-64 Linux is needed, found none that loads: {error}"
            ) from None
        found = "?"
        try:
            version = self.quick.uc_version(None, None)
            found = ".".join(str(version >> shift & 0xFF) for shift in (24, 16, 8))
            for handle in (self.quick, self.slow):
                for name, (result, arguments) in PROTOTYPES.items():
                    function = getattr(handle, name)
                    function.restype = result
                    function.argtypes = arguments
        except AttributeError as error:
            raise GenericError(
                f"unicorn 2.1.4 on x86-64 Linux is needed, found {found} without {str(error).rpartition(' ')[2]}"
            ) from None
        if found != ".".join(map(str, VERSION)):
            raise GenericError(f"unicorn 2.1.4 on x86-64 Linux is needed, found {found}")

    @property
    def handle(self) -> int:
        """What the dynamic linker calls it."""
        return int(self.quick._handle)  # noqa: SLF001 - there is no public name for it

    def address(self, name: str) -> int:
        """Where the function `name` lies in this process."""
        return ctypes.cast(getattr(self.quick, name), ctypes.c_void_p).value or 0

    def check(self, error: int, what: str) -> None:
        """Raise GenericError when a call of the public interface has failed."""
        if error:
            text = self.quick.uc_strerror(error).decode("ascii", "replace")
            raise GenericError(f"the engine refuses to {what}: {text}")


def check_memory(size: int) -> None:
    """Raise GenericError where the engine could not have `size` bytes for translated code: it would end the process."""
    import mmap

    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection).close()
    except OSError as error:
        raise GenericError(
            f"the engine needs {size >> 20} MiB of address space that is writable and executable: {error.strerror}"
        ) from None


@cache
def load() -> Library:
    """The library, loaded once. Raises GenericError with the version that is needed where it cannot be."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise GenericError(
            f"unicorn 2.1.4 on x86-64 Linux is needed, found a host of {platform.machine()} {platform.system()}"
        )
    package = find_spec("unicorn")
    if package is None or package.origin is None:
        raise GenericError("unicorn 2.1.4 on x86-64 Linux is needed, found no package 'unicorn'")
    return Library(os.path.join(os.path.dirname(package.origin), "lib", "libunicorn.so.2"))
