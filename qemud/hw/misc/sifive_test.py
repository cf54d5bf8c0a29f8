"""SiFive's test finisher (`riscv.sifive.test`): the guest's way to switch itself off.

    offset 0, write: bits 0 to 15 the verdict, bits 16 to 31 a status

PASS is a power-off, FAIL one after a crash, RESET a reset; everything else is logged as the guest's error.

Source: Linux 6.12, Documentation/devicetree/bindings/mfd/syscon.yaml ("sifive,test1") and its drivers syscon-poweroff, syscon-reboot.
"""

from __future__ import annotations

from qemud._generated.types.run_state import ShutdownCause
from qemud.logs import guest_error
from qemud.qom.device import SysBusDevice

SIZE = 0x1000


class Finisher:
    """The verdicts."""

    FAIL = 0x3333
    PASS = 0x5555
    RESET = 0x7777


class SifiveTest(SysBusDevice, type_name="riscv.sifive.test"):
    """See the module.  It has no state."""

    def realize(self) -> None:
        """Claim the register."""
        self.mmio.clear()
        self.init_mmio("riscv.sifive.test", SIZE, min_access=2, max_access=4)

    def read(self, offset: int, size: int) -> int:
        """Nothing to be read."""
        del offset, size
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """Do what the verdict says, with the upper half as the exit status."""
        del size
        if offset != 0:
            guest_error("riscv.sifive.test", "store to no register", offset=f"{offset:#x}")
            return
        status = value >> 16
        match value & 0xFFFF:
            case Finisher.PASS:
                self.machine.request_shutdown(ShutdownCause.GUEST_SHUTDOWN, status)
            case Finisher.FAIL:
                self.machine.guest_panicked(status)
            case Finisher.RESET:
                self.machine.request_reset(ShutdownCause.GUEST_RESET)
            case verdict:
                guest_error("riscv.sifive.test", "unknown verdict", verdict=f"{verdict:#x}")
