"""What an SBI extension is, and what its functions answer.

Source: SBI 2.0, chapter 3 (binary encoding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from qemud.hw.riscv.sbi.firmware import Firmware

MASK64 = (1 << 64) - 1
ALL_HARTS = MASK64
"""A hart_mask_base of -1: the mask is not looked at, every hart is meant."""


class Error:
    """Standard error codes (table 1)."""

    SUCCESS = 0
    FAILED = -1
    NOT_SUPPORTED = -2
    INVALID_PARAM = -3
    DENIED = -4
    INVALID_ADDRESS = -5
    ALREADY_AVAILABLE = -6
    ALREADY_STARTED = -7
    ALREADY_STOPPED = -8
    NO_SHMEM = -9


class Result(NamedTuple):
    """What goes into a0 and a1."""

    error: int
    value: int = 0


SUCCESS = Result(Error.SUCCESS)
NOT_SUPPORTED = Result(Error.NOT_SUPPORTED)
INVALID_PARAM = Result(Error.INVALID_PARAM)
INVALID_ADDRESS = Result(Error.INVALID_ADDRESS)


class Extension(ABC):
    """A group of functions under one extension id."""

    eid: ClassVar[int]

    def __init__(self, firmware: Firmware) -> None:
        self.firmware = firmware

    @abstractmethod
    def call(self, fid: int, args: tuple[int, ...]) -> Result | None:
        """Function `fid` with a0 to a5, each 0 to 2^64 - 1.

        None leaves the registers alone: the call does not return, or is made again.
        """


def low32(value: int) -> int:
    """A parameter of type uint32_t: the upper half of the register is ignored."""
    return value & 0xFFFF_FFFF
