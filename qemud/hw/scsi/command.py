"""SCSI commands as bytes: what they are called, how long they are, what they transfer, and in which direction.

Source: SCSI Primary Commands - 4 (SPC-4), section 4.3, SCSI Block Commands - 3 (SBC-3), Multi-Media Commands - 6 (MMC-6); lengths
of what is not obvious: QEMU 10.0, hw/scsi/scsi-bus.c.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_DISK = 0
TYPE_ROM = 5

NONE, FROM_DEVICE, TO_DEVICE = range(3)
"""Directions."""


class Op:
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REWIND = 0x01
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    READ_BLOCK_LIMITS = 0x05
    REASSIGN_BLOCKS = 0x07
    READ_6 = 0x08
    WRITE_6 = 0x0A
    SET_CAPACITY = 0x0B
    READ_REVERSE = 0x0F
    WRITE_FILEMARKS = 0x10
    SPACE = 0x11
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    COPY = 0x18
    ERASE = 0x19
    MODE_SENSE_6 = 0x1A
    START_STOP = 0x1B
    RECEIVE_DIAGNOSTIC = 0x1C
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    SET_WINDOW = 0x24
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SEEK_10 = 0x2B
    WRITE_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    SEARCH_HIGH = 0x30
    SEARCH_EQUAL = 0x31
    SEARCH_LOW = 0x32
    SET_LIMITS = 0x33
    PRE_FETCH = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    LOCK_UNLOCK_CACHE = 0x36
    MEDIUM_SCAN = 0x38
    COMPARE = 0x39
    COPY_VERIFY = 0x3A
    WRITE_BUFFER = 0x3B
    READ_BUFFER = 0x3C
    UPDATE_BLOCK = 0x3D
    WRITE_LONG_10 = 0x3F
    CHANGE_DEFINITION = 0x40
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    READ_TOC = 0x43
    GET_CONFIGURATION = 0x46
    GET_EVENT_STATUS_NOTIFICATION = 0x4A
    LOG_SELECT = 0x4C
    READ_DISC_INFORMATION = 0x51
    RESERVE_TRACK = 0x53
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    SEND_CUE_SHEET = 0x5D
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    WRITE_FILEMARKS_16 = 0x80
    ALLOW_OVERWRITE = 0x82
    ATA_PASSTHROUGH_16 = 0x85
    READ_16 = 0x88
    WRITE_16 = 0x8A
    WRITE_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    LOCATE_16 = 0x92
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    ATA_PASSTHROUGH_12 = 0xA1
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    SET_READ_AHEAD = 0xA7
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    READ_DVD_STRUCTURE = 0xAD
    WRITE_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
    SEARCH_HIGH_12 = 0xB0
    SEARCH_EQUAL_12 = 0xB1
    SEARCH_LOW_12 = 0xB2
    SEND_VOLUME_TAG = 0xB6
    SET_CD_SPEED = 0xBB
    MECHANISM_STATUS = 0xBD
    READ_CD = 0xBE
    SEND_DVD_STRUCTURE = 0xBF


READS = frozenset((Op.READ_6, Op.READ_10, Op.READ_12, Op.READ_16))
WRITES = frozenset(
    (
        Op.WRITE_6,
        Op.WRITE_10,
        Op.WRITE_12,
        Op.WRITE_16,
        Op.WRITE_VERIFY_10,
        Op.WRITE_VERIFY_12,
        Op.WRITE_VERIFY_16,
    )
)
VERIFIES = frozenset((Op.VERIFY_10, Op.VERIFY_12, Op.VERIFY_16))
_WRITE_SAMES = frozenset((Op.WRITE_SAME_10, Op.WRITE_SAME_16))
_FORCE_UNIT_ACCESS = frozenset((Op.READ_10, Op.READ_12, Op.READ_16, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16))
_WRITE_AND_VERIFY = frozenset((Op.WRITE_VERIFY_10, Op.WRITE_VERIFY_12, Op.WRITE_VERIFY_16))

_WITHOUT_DATA = frozenset(
    (
        Op.TEST_UNIT_READY,
        Op.REWIND,
        Op.START_STOP,
        Op.SET_CAPACITY,
        Op.WRITE_FILEMARKS,
        Op.WRITE_FILEMARKS_16,
        Op.SPACE,
        Op.RESERVE_6,
        Op.RELEASE_6,
        Op.ERASE,
        Op.PREVENT_ALLOW_MEDIUM_REMOVAL,
        Op.SEEK_10,
        Op.SYNCHRONIZE_CACHE_10,
        Op.SYNCHRONIZE_CACHE_16,
        Op.LOCATE_16,
        Op.LOCK_UNLOCK_CACHE,
        Op.SET_CD_SPEED,
        Op.SET_LIMITS,
        Op.WRITE_LONG_10,
        Op.UPDATE_BLOCK,
        Op.RESERVE_TRACK,
        Op.SET_READ_AHEAD,
        Op.PRE_FETCH,
        Op.PRE_FETCH_16,
        Op.ALLOW_OVERWRITE,
    )
)
"""Whose length means something else."""

_TO_DEVICE = (
    WRITES
    | VERIFIES
    | _WRITE_SAMES
    | {
        Op.COPY,
        Op.COPY_VERIFY,
        Op.COMPARE,
        Op.CHANGE_DEFINITION,
        Op.LOG_SELECT,
        Op.MODE_SELECT_6,
        Op.MODE_SELECT_10,
        Op.SEND_DIAGNOSTIC,
        Op.WRITE_BUFFER,
        Op.FORMAT_UNIT,
        Op.REASSIGN_BLOCKS,
        Op.SEARCH_EQUAL,
        Op.SEARCH_HIGH,
        Op.SEARCH_LOW,
        Op.UNMAP,
        Op.SEARCH_HIGH_12,
        Op.SEARCH_EQUAL_12,
        Op.SEARCH_LOW_12,
        Op.MEDIUM_SCAN,
        Op.SEND_VOLUME_TAG,
        Op.SEND_CUE_SHEET,
        Op.SEND_DVD_STRUCTURE,
        Op.PERSISTENT_RESERVE_OUT,
        Op.MAINTENANCE_OUT,
        Op.SET_WINDOW,
    }
)

_LENGTHS = (6, 10, 10, 0, 16, 12, 0, 0)
"""By the group, which is the upper three bits of the operation code; 0 for none that is known."""

# Where the length of the data is: the first byte and one past the last.
_LENGTH_7 = frozenset((Op.READ_CD, Op.READ_BUFFER, Op.WRITE_BUFFER, Op.SEND_CUE_SHEET))
_LENGTH_3 = frozenset((Op.INQUIRY, Op.RECEIVE_DIAGNOSTIC, Op.SEND_DIAGNOSTIC))
_LENGTH_8_OF_ROM = frozenset(
    (
        Op.MECHANISM_STATUS,
        Op.READ_DVD_STRUCTURE,
        Op.SEND_DVD_STRUCTURE,
        Op.MAINTENANCE_OUT,
        Op.MAINTENANCE_IN,
    )
)


class Command(NamedTuple):
    """A command that has been looked at.

    `lba` and `blocks` are in blocks, as far as it has such; `length` is the number of bytes to transfer in `direction`.
    """

    cdb: bytes
    lba: int
    blocks: int
    length: int
    direction: int

    @property
    def force_unit_access(self) -> bool:
        """Whether data is to reach the medium, or to come from there."""
        op = self.cdb[0]
        if op in _FORCE_UNIT_ACCESS:
            return bool(self.cdb[1] & 8)
        return op in _WRITE_AND_VERIFY


def parse(cdb: bytes, *, block_size: int, kind: int) -> Command | None:
    """Look at a command for a device of this kind and block size; None if it is of no length that is known."""
    op = cdb[0]
    group = op >> 5
    size = _LENGTHS[group]
    if not size or len(cdb) < size:
        return None
    cdb = cdb[:size]
    if group == 0:
        lba = int.from_bytes(cdb[1:4], "big") & 0x1F_FFFF
        count = length = cdb[4]
    elif group in {1, 2}:
        lba = int.from_bytes(cdb[2:6], "big")
        count = length = int.from_bytes(cdb[7:9], "big")
    elif group == 4:
        lba = int.from_bytes(cdb[2:10], "big")
        count = length = int.from_bytes(cdb[10:14], "big")
    else:
        lba = int.from_bytes(cdb[2:6], "big")
        count = length = int.from_bytes(cdb[6:10], "big")
    if op in READS or op in WRITES:
        if group == 0 and not count:
            count = 256
        length = count * block_size
    elif op in _WITHOUT_DATA:
        length = 0
    else:
        length = _other_length(cdb, length, block_size, kind)
    if not length:
        direction = NONE
    elif op in _TO_DEVICE:
        direction = TO_DEVICE
    else:
        direction = FROM_DEVICE
    return Command(cdb, lba, count, length, direction)


def _other_length(cdb: bytes, length: int, block_size: int, kind: int) -> int:
    """What a command transfers that neither reads nor writes."""
    op = cdb[0]
    if op in VERIFIES:
        # Nothing is sent for a check by the device alone; else one block for all, or all of them.
        if not cdb[1] & 2:
            return 0
        return block_size if cdb[1] & 4 else length * block_size
    if op in _WRITE_SAMES:
        return 0 if cdb[1] & 1 else block_size
    if op == Op.READ_CAPACITY_10:
        return 8
    if op == Op.READ_BLOCK_LIMITS:
        return 6
    if op in _LENGTH_3:
        return int.from_bytes(cdb[3:5], "big")
    if op in _LENGTH_7:
        return int.from_bytes(cdb[6:9], "big")
    if op == Op.PERSISTENT_RESERVE_OUT:
        return int.from_bytes(cdb[5:9], "big")
    if op == Op.FORMAT_UNIT:
        if not cdb[1] & 16:
            return 0
        if kind == TYPE_ROM:
            return 12
        return 8 if cdb[1] & 32 else 4
    if op == Op.SEND_VOLUME_TAG:
        return int.from_bytes(cdb[9:11] if kind == TYPE_ROM else cdb[8:10], "big")
    if op in _LENGTH_8_OF_ROM and kind == TYPE_ROM:
        return int.from_bytes(cdb[8:10], "big")
    if op in {Op.ATA_PASSTHROUGH_12, Op.ATA_PASSTHROUGH_16}:
        return 0  # there is no such disk here
    return length
