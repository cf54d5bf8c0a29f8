"""Functions of the engine's library that are replaced by ours where the library itself calls them.

It calls its exported functions through slots of its procedure linkage table (ELF gABI 4.1 and the x86-64 psABI, "Dynamic linking"),
into which `replace` writes other addresses: for the whole process, once.  What is put there has to do what the
original does for an engine that is not its own.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import TYPE_CHECKING

from qemud.accel.unicorn import layout
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud.accel.unicorn.library import Library

REPLACED = {
    "protect": "tlb_protect_code_riscv64",
    "written": "tb_invalidate_phys_page_fast_riscv64",
    "set dirty": "tlb_set_dirty_riscv64",
}
"""Functions by the hook that replaces them."""

FASTER = {"reset dirty": "tlb_reset_dirty_by_vaddr_riscv64", "lookup": "tb_htable_lookup_riscv64"}
"""Those whose hooks need more than names: they are replaced where `layout.is_known`."""

COUNTING = {"new block": "tcg_tb_alloc_riscv64", "restore": "cpu_restore_state_riscv64"}
"""Those that are replaced where instructions are counted."""

_LINKMAP = 2
_DT_NULL, _DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_JMPREL = 0, 2, 5, 6, 10, 23
_NEEDED = {_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_JMPREL}
_SYMBOL_SIZE = 24


def replace(lib: Library, hooks: Mapping[str, int], *, counting: bool = False) -> None:
    """Have the library call those of `hooks` that replace something. Raises GenericError where there is no slot for one."""
    replaced = COUNTING if counting else REPLACED | FASTER if layout.is_known(lib) else REPLACED
    wanted = {function: hooks[hook] for hook, function in replaced.items() if hook in hooks}
    slots = _slots(lib)
    for function, address in wanted.items():
        if function not in slots:
            raise GenericError(
                f"unicorn 2.1.4 on x86-64 Linux is needed, found one that does not call {function} by its name"
            )
        ctypes.c_uint64.from_address(slots[function]).value = address


@cache
def _slots(lib: Library) -> dict[str, int]:
    """Addresses of the slots of all functions that may be replaced, as far as there are slots."""
    linker = ctypes.CDLL(None)
    where = ctypes.c_void_p()
    linker.dlinfo.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    if linker.dlinfo(lib.handle, _LINKMAP, ctypes.byref(where)) or not where.value:
        return {}
    # struct link_map: the base address, the name, the dynamic section.
    base, _, dynamic = struct.unpack("<3Q", ctypes.string_at(where.value, 24))
    tags: dict[int, int] = {}
    while True:
        tag, value = struct.unpack("<qQ", ctypes.string_at(dynamic, 16))
        if tag == _DT_NULL:
            break
        tags[tag] = value
        dynamic += 16
    if not tags.keys() >= _NEEDED:
        return {}
    strings = ctypes.string_at(tags[_DT_STRTAB], tags[_DT_STRSZ])
    # Symbols name themselves by offsets into the strings; one string may be the end of another.
    names = {}
    for name in (*REPLACED.values(), *FASTER.values(), *COUNTING.values()):
        wanted = name.encode() + b"\0"
        at = strings.find(wanted)
        while at >= 0:
            names[at] = name
            at = strings.find(wanted, at + 1)
    found = {}
    for offset, info, _addend in struct.iter_unpack(
        "<QQq", ctypes.string_at(tags[_DT_JMPREL], tags[_DT_PLTRELSZ])
    ):
        symbol = ctypes.c_uint32.from_address(tags[_DT_SYMTAB] + _SYMBOL_SIZE * (info >> 32)).value
        if symbol in names:
            found[names[symbol]] = base + offset
    return found
