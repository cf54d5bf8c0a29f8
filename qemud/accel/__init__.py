"""Accelerators: what runs guest code.  The machine knows them by the protocol `Vcpu` of `qemud.machine.vcpu` only.

    vcpu = create_vcpu(space)

There is one, `tcg` by its QEMU name (a translator): the Unicorn engine, in `qemud.accel.unicorn`.  It is imported when a machine
with a processor is made, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud.machine.memory import AddressSpace
    from qemud.machine.vcpu import Vcpu


def create_vcpu(space: AddressSpace, index: int = 0, *, code_size: int = 0, shift: int | None = None) -> Vcpu:
    """A 64-bit RISC-V hart over this memory, in the state after power-on.

    `code_size` is the room for translated code in bytes, 0 for the default.  With a `shift` it counts instructions, and each
    takes `1 << shift` ns of the guest's time.

    Raises GenericError with the version and host that are needed where the engine cannot run.
    """
    from qemud.accel.unicorn.riscv import RiscvVcpu

    return RiscvVcpu(space, index, code_size, shift)
