"""IPI, RFENCE and HSM: what one hart asks of others. Source: SBI 2.0, chapters 7, 8 and 9."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.riscv.sbi.extension import (
    ALL_HARTS,
    INVALID_ADDRESS,
    INVALID_PARAM,
    MASK64,
    NOT_SUPPORTED,
    SUCCESS,
    Error,
    Extension,
    Result,
    low32,
)

if TYPE_CHECKING:
    from qemud.hw.riscv.sbi.firmware import Firmware


def select_harts(firmware: Firmware, mask: int, base: int) -> list[int] | None:
    """The harts that a mask and its base name; None when one of them does not exist."""
    existing = firmware.hart_ids
    if base == ALL_HARTS:
        return existing
    if base not in existing:
        return None
    selected = [base + bit for bit in range(64) if mask >> bit & 1]
    return selected if all(hart in existing for hart in selected) else None


class Ipi(Extension):
    """Extension "sPI": supervisor software interrupts."""

    eid = 0x0073_5049

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """send_ipi(hart_mask, hart_mask_base)."""
        if fid != 0:
            return NOT_SUPPORTED
        harts = select_harts(self.firmware, args[0], args[1])
        if harts is None:
            return INVALID_PARAM
        for hart in harts:
            self.firmware.send_ipi(hart)
        return SUCCESS


class Rfence(Extension):
    """Extension "RFNC": fences on other harts. Those for hypervisors are not there, as the harts have no H extension."""

    eid = 0x5246_4E43

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """remote_fence_i, remote_sfence_vma and remote_sfence_vma_asid."""
        if fid not in {0, 1, 2}:
            return NOT_SUPPORTED
        harts = select_harts(self.firmware, args[0], args[1])
        if harts is None:
            return INVALID_PARAM
        if fid != 0:
            start, size = args[2], args[3]
            if size != MASK64 and start + size > MASK64 + 1:
                return INVALID_ADDRESS
        for hart in harts:
            if fid == 0:
                self.firmware.fence_i(hart)
            else:
                self.firmware.sfence_vma(hart)
        return SUCCESS


class Hsm(Extension):
    """Extension "HSM": harts that start, stop and sleep."""

    eid = 0x0048_534D

    STARTED = 0
    STOPPED = 1

    RETENTIVE = 0
    NON_RETENTIVE = 0x8000_0000

    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """hart_start, hart_stop, hart_get_status and hart_suspend."""
        match fid:
            case 0:
                return self._start(args[0], args[1], args[2])
            case 1:
                self.firmware.stop_hart()
                return None
            case 2:
                if args[0] not in self.firmware.hart_ids:
                    return INVALID_PARAM
                return Result(0, self.STOPPED if self.firmware.state.stopped else self.STARTED)
            case 3:
                return self._suspend(low32(args[0]), args[1], args[2])
            case _:
                return NOT_SUPPORTED

    def _start(self, hart: int, address: int, opaque: int) -> Result:
        """With one hart, whoever asks runs already."""
        del opaque
        if hart not in self.firmware.hart_ids:
            return INVALID_PARAM
        if not self.firmware.is_executable(address):
            return INVALID_ADDRESS
        return Result(Error.ALREADY_AVAILABLE)

    def _suspend(self, kind: int, address: int, opaque: int) -> Result | None:
        """Sleep until an interrupt is pending, enabled in `sie` or not at all taken."""
        if kind == self.RETENTIVE:
            self.firmware.sleep()
            return SUCCESS
        if kind != self.NON_RETENTIVE:
            return INVALID_PARAM
        if not self.firmware.is_executable(address):
            return INVALID_ADDRESS
        self.firmware.enter_supervisor(address, opaque)
        self.firmware.sleep()
        return None
