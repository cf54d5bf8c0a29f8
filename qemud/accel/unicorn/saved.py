"""What a saved state of a hart must be like, as far as the engine does not look itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.accel.unicorn import layout
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.cpu_riscv import RiscvCpuState

PRIVILEGES = frozenset({0, 1, 3})
SATP_MODES = frozenset({0, 8, 9, 10})  # Bare, Sv39, Sv48, Sv57: for any other the engine ends the process


def check(state: RiscvCpuState) -> None:
    """Raise GenericError for a state that no hart of this kind can be in."""
    for name, values, count in (
        ("x", state.x, 32),
        ("f", state.f, 32),
        ("pmpcfg", state.pmpcfg, layout.PMP_ENTRIES),
        ("pmpaddr", state.pmpaddr, layout.PMP_ENTRIES),
    ):
        if len(values) != count:
            raise GenericError(f"saved CPU state: '{name}' has {len(values)} registers, expected {count}")
    checks: list[tuple[str, int, bool]] = [
        ("x0", state.x[0], state.x[0] == 0),
        ("priv", state.priv, state.priv in PRIVILEGES),
        ("satp", state.satp, state.satp >> 60 in SATP_MODES),
        ("fflags", state.fflags, state.fflags < 32),
        ("frm", state.frm, state.frm < 8),
        ("mip", state.mip, state.mip < 1 << 16),
    ]
    for name, value, good in checks:
        if not good:
            raise GenericError(f"saved CPU state: '{name}' is {value:#x}, which no processor has")
