"""BASE: what this SBI is and has. Source: SBI 2.0, chapter 4."""

from __future__ import annotations

from qemud import __version__
from qemud.hw.riscv.sbi.extension import NOT_SUPPORTED, Extension, Result

SPEC_VERSION = 2 << 24 | 0
IMPLEMENTATION_ID = 0x7165_6D64
"""The characters "qemd": outside the ids that the specification has given away."""


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
