"""The extensions of version 0.1: one function each, an answer in a0 only. Source: SBI 2.0, chapter 5.

Hart masks are pointers in the caller's address space; with one hart there is nothing to be read there that would change what is
done, but an address that cannot be read is an error all the same.
"""

from __future__ import annotations

from typing import ClassVar

from qemud._generated.types.run_state import ShutdownCause
from qemud.hw.riscv.sbi.extension import Error, Extension, Result

EIDS = range(9)
"""set_timer, console_putchar, console_getchar, clear_ipi, send_ipi, remote_fence_i, remote_sfence_vma (with and without an ASID),
shutdown."""


class Legacy(Extension):
    """All of them; `call` gets the extension's id in place of a function's."""

    eid: ClassVar[int] = 0

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """The answer's `value` is not used."""
        firmware = self.firmware
        match fid:
            case 0:
                firmware.set_timer(args[0])
            case 1:
                if not firmware.console.console_write(bytes((args[0] & 0xFF,))):
                    firmware.call_again()
                    return None
            case 2:
                data = firmware.console.console_read(1)
                return Result(data[0] if data else -1)
            case 3:
                firmware.clear_ipi()
            case 8:
                firmware.machine.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
                return None
            case _:
                return self._to_harts(fid, args[0])
        return Result(Error.SUCCESS)

    def _to_harts(self, eid: int, mask_address: int) -> Result:
        firmware = self.firmware
        mask = 1 if mask_address == 0 else firmware.read_mask(mask_address)
        if mask is None:
            return Result(Error.INVALID_ADDRESS)
        for hart in firmware.hart_ids:
            if mask >> hart & 1:
                if eid == 4:
                    firmware.send_ipi(hart)
                elif eid == 5:
                    firmware.fence_i(hart)
                else:
                    firmware.sfence_vma(hart)
        return Result(Error.SUCCESS)
