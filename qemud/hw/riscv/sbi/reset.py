"""SRST: the machine's end and new beginning. Source: SBI 2.0, chapter 10."""

from __future__ import annotations

from qemud._generated.types.run_state import ShutdownCause
from qemud.hw.riscv.sbi.extension import INVALID_PARAM, NOT_SUPPORTED, Extension, Result, low32


class SystemReset(Extension):
    """Extension "SRST"."""

    eid = 0x5352_5354

    SHUTDOWN = 0
    COLD_REBOOT = 1
    WARM_REBOOT = 2

    NO_REASON = 0
    SYSTEM_FAILURE = 1

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """system_reset(reset_type, reset_reason); a shutdown for a system failure is a crash, with status 1."""
        if fid != 0:
            return NOT_SUPPORTED
        kind, reason = low32(args[0]), low32(args[1])
        if reason not in {self.NO_REASON, self.SYSTEM_FAILURE}:
            return INVALID_PARAM
        machine = self.firmware.machine
        match kind:
            case self.SHUTDOWN if reason == self.NO_REASON:
                machine.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
            case self.SHUTDOWN:
                machine.guest_panicked(1)
            case self.COLD_REBOOT | self.WARM_REBOOT:
                machine.request_reset(ShutdownCause.GUEST_RESET)
            case _:
                return INVALID_PARAM
        return None
