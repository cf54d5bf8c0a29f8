"""Harts as objects: the CPU types, and the group that holds the harts of a board.

    soc0 = HartArray(RiscvHartArrayOptions(num_harts=1, cpu_type="rv64-riscv-cpu"))
    mtimer.connect(0, soc0.harts[0].interrupt(MIP_MTIP))

The engine's vCPU does the work; the object gives it a place in the tree, input lines (`interrupt`) and a saved state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.cpu_riscv import RiscvCpuState
from qemud._generated.types.hw_riscv import RiscvHartArrayOptions
from qemud.machine.irq import Irq
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device, SysBusDevice
from qemud.qom.types import types

if TYPE_CHECKING:
    from qemud.machine.vcpu import Vcpu

MIP_SSIP = 1
MIP_MSIP = 3
MIP_STIP = 5
MIP_MTIP = 7
MIP_SEIP = 9
MIP_MEIP = 11


class Cpu(Device, type_name="cpu", abstract=True):
    """Any processor."""


class RiscvCpu(Cpu, type_name="riscv-cpu", abstract=True, state=RiscvCpuState):
    """A hart.  `index` is its number among the machine's processors and its hart id."""

    state: RiscvCpuState | None

    def __init__(self, index: int = 0, reset_vector: int = 0x1000) -> None:
        super().__init__()
        self.index = index
        self.reset_vector = reset_vector

    @property
    def vcpu(self) -> Vcpu:
        """The engine's side of it."""
        vcpu: Vcpu = self.machine.vcpus[self.index]
        return vcpu

    def initial_state(self) -> None:
        """The engine has the state; it is fetched when it is to be saved."""

    def realize(self) -> None:
        """Find the vCPU."""
        if self.index >= len(self.machine.vcpus):
            raise GenericError(f"there is no processor {self.index} to run hart {self.index}")

    def reset_enter(self) -> None:
        """To the reset vector, in M-mode."""
        self.vcpu.reset(pc=self.reset_vector, a0=self.index)

    def before_save(self) -> None:
        """Fetch the state."""
        self.state = self.vcpu.save()

    def check_state(self, state: RiscvCpuState) -> None:
        """What the engine says of it."""
        self.vcpu.check(state)

    def after_load(self) -> None:
        """Hand it over."""
        self.vcpu.load(self.state)
        self.state = None

    def interrupt(self, bit: int) -> Irq:
        """The input line that is bit `bit` of mip."""
        return Irq(self._set_interrupt, bit)

    def _set_interrupt(self, bit: int, level: int) -> None:
        self.vcpu.set_interrupt(bit, level)


class Rv64Cpu(RiscvCpu, type_name="rv64-riscv-cpu"):
    """RV64GC with an Sv57 MMU: the plain 64-bit hart."""


class MaxCpu(RiscvCpu, type_name="max-riscv-cpu"):
    """Everything that the engine has, which is what `rv64` has, too."""


class HartArray(SysBusDevice, type_name="riscv.hart_array", options=RiscvHartArrayOptions):
    """A group of harts of one type, its children `harts[N]`."""

    options: RiscvHartArrayOptions

    def __init__(self, options: RiscvHartArrayOptions | None = None) -> None:
        super().__init__(options)
        self.harts: list[RiscvCpu] = []
        kind = types.find(self.options.cpu_type)
        if kind is None or not issubclass(kind, RiscvCpu) or kind.abstract:
            raise GenericError(f"'{self.options.cpu_type}' is no type of hart")
        for number in range(self.options.num_harts):
            hart = kind(self.options.hartid_base + number, self.options.resetvec)
            self.harts.append(self.add_child(f"harts[{number}]", hart))
