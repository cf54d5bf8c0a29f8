"""What concerns the machine as a whole: BASE, TIME, SRST and DBCN.

Source: SBI 2.0, chapters 4 (base), 6 (timer), 10 (system reset) and 12 (debug console).
"""

from __future__ import annotations

from qemud import __version__
from qemud._generated.types.run_state import ShutdownCause
from qemud.hw.riscv.sbi.extension import INVALID_PARAM, NOT_SUPPORTED, SUCCESS, Extension, Result, low32

SPEC_VERSION = 2 << 24 | 0
IMPLEMENTATION_ID = 0x7165_6D64
"""The characters "qemd": outside the ids that the specification has given away."""
_MOST_AT_ONCE = 4096
"""A call may write fewer bytes than asked; this keeps the machine thread from being held by one."""


def implementation_version() -> int:
    """The release as two 16-bit numbers."""
    major, minor, *_ = __version__.split(".")
    return int(major) << 16 | int(minor)


class Base(Extension):
    """Extension 0x10. Its functions cannot fail."""

    eid = 0x10

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """Answer from constants and from the hart's identification CSRs."""
        match fid:
            case 0:
                return Result(0, SPEC_VERSION)
            case 1:
                return Result(0, IMPLEMENTATION_ID)
            case 2:
                return Result(0, implementation_version())
            case 3:
                return Result(0, int(self.firmware.has_extension(args[0])))
            case 4 | 5 | 6:
                return Result(0, self.firmware.machine_id(fid - 4))
            case _:
                return NOT_SUPPORTED


class Time(Extension):
    """Extension "TIME"."""

    eid = 0x5449_4D45

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """set_timer: interrupt at an absolute time in ticks; the one pending now is cleared."""
        if fid != 0:
            return NOT_SUPPORTED
        self.firmware.set_timer(args[0])
        return SUCCESS


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


class DebugConsole(Extension):
    """Extension "DBCN"."""

    eid = 0x4442_434E

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """console_write, console_read and console_write_byte."""
        console = self.firmware.console
        match fid:
            case 0 | 1:
                size, low, high = args[:3]
                if size == 0:
                    return SUCCESS
                memory = self.firmware.guest_memory(low, size) if high == 0 else None
                if memory is None:
                    return INVALID_PARAM
                if fid == 0:
                    return Result(0, console.console_write(bytes(memory[:_MOST_AT_ONCE])))
                data = console.console_read(min(size, _MOST_AT_ONCE))
                memory[: len(data)] = data
                self.firmware.machine.memory.written(low, len(data))
                return Result(0, len(data))
            case 2:
                if not console.console_write(bytes((args[0] & 0xFF,))):
                    self.firmware.call_again()
                    return None
                return SUCCESS
            case _:
                return NOT_SUPPORTED
