"""A hart's registers by name, in the order of QEMU's `info registers`.

Source: RISC-V psABI 1.0 for the names of x and f; privileged architecture, version 20240411, chapter 2, for those of the control and
status registers; QEMU 10.0, target/riscv/cpu.c, for which are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.machine.vcpu import Vcpu

_X_NAMES = (
    "zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
)
_F_NAMES = (
    "ft0 ft1 ft2 ft3 ft4 ft5 ft6 ft7 fs0 fs1 fa0 fa1 fa2 fa3 fa4 fa5 fa6 fa7 "
    "fs2 fs3 fs4 fs5 fs6 fs7 fs8 fs9 fs10 fs11 ft8 ft9 ft10 ft11"
)
_CSRS = {
    "mhartid": 0xF14,
    "mstatus": 0x300,
    "mip": 0x344,
    "mie": 0x304,
    "mideleg": 0x303,
    "medeleg": 0x302,
    "mtvec": 0x305,
    "stvec": 0x105,
    "mepc": 0x341,
    "sepc": 0x141,
    "mcause": 0x342,
    "scause": 0x142,
    "mtval": 0x343,
    "stval": 0x143,
    "mscratch": 0x340,
    "sscratch": 0x140,
    "satp": 0x180,
}
_FCSR = 0x003


def registers(vcpu: Vcpu) -> list[tuple[str, int]]:
    """Names and values; what the hart does not have is left out.  Machine thread."""
    found = [("pc", vcpu.pc)]
    found += _csrs(vcpu, _CSRS)
    state = vcpu.save()
    found += _numbered("x", _X_NAMES, state.x)
    found += _csrs(vcpu, {"fcsr": _FCSR})
    found += _numbered("f", _F_NAMES, state.f)
    return found


def _csrs(vcpu: Vcpu, numbers: dict[str, int]) -> list[tuple[str, int]]:
    found = []
    for name, number in numbers.items():
        try:
            found.append((name, vcpu.csr(number)))
        except GenericError:
            continue
    return found


def _numbered(letter: str, names: str, values: list[int]) -> list[tuple[str, int]]:
    pairs = enumerate(zip(names.split(), values, strict=True))
    return [(f"{letter}{number}/{name}", value) for number, (name, value) in pairs]
