"""DBCN: the debug console, which is the first serial port. Source: SBI 2.0, chapter 12."""

from __future__ import annotations

from qemud.hw.riscv.sbi.extension import INVALID_PARAM, NOT_SUPPORTED, SUCCESS, Extension, Result

_MOST_AT_ONCE = 4096
"""A call may write fewer bytes than asked; this keeps the machine thread from being held by one."""


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
