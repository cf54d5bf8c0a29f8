"""Sense data: what a SCSI target has to say of a command, or of itself.

    request.check(INVALID_FIELD)
    raise Refused(LBA_OUT_OF_RANGE)          the same from within a command

Source: SCSI Primary Commands - 4 (SPC-4), section 4.5; which error of the host is which sense, and what is told first: QEMU 10.0,
scsi/utils.c and hw/scsi/scsi-bus.c.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

UNIT_ATTENTION_KEY = 6
LENGTH = 18
"""Bytes of sense data in fixed format."""

GOOD = 0x00
CHECK_CONDITION = 0x02
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28


class Sense(NamedTuple):
    """Sense key, additional sense code, and its qualifier."""

    key: int
    asc: int
    ascq: int

    def encode(self, *, fixed: bool = True) -> bytes:
        """As on the wire."""
        if fixed:
            return bytes([0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, self.asc, self.ascq, 0, 0, 0, 0])
        return bytes([0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0])

    @property
    def precedence(self) -> int:
        """Of two unit attentions the one with the lower number is told."""
        if self.key != UNIT_ATTENTION_KEY:
            return 1 << 31
        code = self.asc, self.ascq
        if code == (0x29, 0x04):
            return 1
        if code == (0x3F, 0x01):
            return 2
        if self.asc == 0x29 and self.ascq <= 0x07 and self.ascq not in {0x05, 0x06}:
            return self.ascq
        if code == (0x2F, 0x01):
            return 8
        return self.asc << 8 | self.ascq


NO_SENSE = Sense(0, 0, 0)
LUN_NOT_READY = Sense(2, 0x04, 0x03)
NO_MEDIUM = Sense(2, 0x3A, 0)
NOT_READY_REMOVAL_PREVENTED = Sense(2, 0x53, 0x02)
READ_ERROR = Sense(3, 0x11, 0)
TARGET_FAILURE = Sense(4, 0x44, 0)
INVALID_PARAM_LEN = Sense(5, 0x1A, 0)
INVALID_OPCODE = Sense(5, 0x20, 0)
LBA_OUT_OF_RANGE = Sense(5, 0x21, 0)
INVALID_FIELD = Sense(5, 0x24, 0)
LUN_NOT_SUPPORTED = Sense(5, 0x25, 0)
INVALID_PARAM = Sense(5, 0x26, 0)
INCOMPATIBLE_FORMAT = Sense(5, 0x30, 0)
SAVING_PARAMS_NOT_SUPPORTED = Sense(5, 0x39, 0)
ILLEGAL_REQ_REMOVAL_PREVENTED = Sense(5, 0x53, 0x02)
MEDIUM_CHANGED = Sense(6, 0x28, 0)
RESET = Sense(6, 0x29, 0)
CAPACITY_CHANGED = Sense(6, 0x2A, 0x09)
UNIT_ATTENTION_NO_MEDIUM = Sense(6, 0x3A, 0)
REPORTED_LUNS_CHANGED = Sense(6, 0x3F, 0x0E)
WRITE_PROTECTED = Sense(7, 0x27, 0)
SPACE_ALLOC_FAILED = Sense(7, 0x27, 0x07)
IO_ERROR = Sense(11, 0, 0x06)

_ERRORS = {
    errno.ENODATA: READ_ERROR,
    errno.EREMOTEIO: TARGET_FAILURE,
    errno.ENOMEDIUM: NO_MEDIUM,
    errno.ENOMEM: TARGET_FAILURE,
    errno.EINVAL: INVALID_FIELD,
    errno.ENOSPC: SPACE_ALLOC_FAILED,
}
_STATUSES = {errno.EDOM: TASK_SET_FULL, errno.EBADE: RESERVATION_CONFLICT}


class Refused(Exception):
    """The command ends here, with this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


def from_errno(number: int) -> tuple[int, Sense | None]:
    """The status of a command whose request failed in the host, and its sense."""
    if number in _STATUSES:
        return _STATUSES[number], None
    return CHECK_CONDITION, _ERRORS.get(number, IO_ERROR)
