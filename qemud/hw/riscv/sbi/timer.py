"""TIME: the supervisor's timer. Source: SBI 2.0, chapter 6."""

from __future__ import annotations

from qemud.hw.riscv.sbi.extension import NOT_SUPPORTED, SUCCESS, Extension, Result


class Time(Extension):
    """Extension "TIME"."""

    eid = 0x5449_4D45

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """set_timer: interrupt at an absolute time in ticks; the one pending now is cleared."""
        if fid != 0:
            return NOT_SUPPORTED
        self.firmware.set_timer(args[0])
        return SUCCESS
