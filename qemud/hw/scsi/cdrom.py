"""What a drive for CDs and DVDs says of its medium and of itself.

Every medium is one session with one data track.

Source: Multi-Media Commands - 6 (MMC-6), section 6; which features and formats there are: QEMU 10.0, hw/scsi/scsi-disk.c and
hw/block/cdrom.c.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from qemud.hw.scsi.sense import INCOMPATIBLE_FORMAT, INVALID_FIELD, NO_MEDIUM, Refused

if TYPE_CHECKING:
    from qemud.hw.scsi.disk import ScsiDisk

_LARGEST_CD = 80 * 60 * 75 * 2048
"""Bytes."""
_PROFILE_CD, _PROFILE_DVD = 0x0008, 0x0010
_LEAD_OUT = 0xAA
_DATA_TRACK = 0x14
_GAP = 150
"""Frames before the first one."""

_MEDIA_CLASS = 4
_NEW_MEDIA, _EJECT_REQUESTED = 2, 1
_TRAY_OPEN, _PRESENT = 1, 2

_DVD_SIZES = {0: 2048 + 4, 1: 4 + 4, 3: 188 + 4, 4: 2048 + 4}
_DVD_CAPABILITIES = 0xFF


def _time(frame: int) -> bytes:
    """Minute, second, frame."""
    frame += _GAP
    return bytes((0, frame // 75 // 60 & 0xFF, frame // 75 % 60, frame % 75))


def _address(block: int, *, msf: bool) -> bytes:
    return _time(block) if msf else (block & 0xFFFF_FFFF).to_bytes(4, "big")


def read_toc(blocks: int, cdb: bytes) -> bytes:
    """READ TOC/PMA/ATIP.  Refused."""
    msf, wanted, start = bool(cdb[1] & 2), cdb[2] & 0x0F, cdb[6]
    if wanted == 0:
        if start > 1 and start != _LEAD_OUT:
            raise Refused(INVALID_FIELD)
        content = b"\1\1"
        if start <= 1:
            content += bytes((0, _DATA_TRACK, 1, 0)) + _first(msf=msf)
        content += bytes((0, 0x16, _LEAD_OUT, 0)) + _address(blocks, msf=msf)
    elif wanted == 1:
        content = b"\1\1" + bytes(8)
    elif wanted == 2:
        entry = bytes((1, _DATA_TRACK, 0))
        content = (
            b"\1\1"
            + entry
            + bytes((0xA0, 0, 0, 0, 0, 1, 0, 0))
            + entry
            + bytes((0xA1, 0, 0, 0, 0, 1, 0, 0))
            + entry
            + bytes((0xA2, 0, 0, 0))
            + _address(blocks, msf=msf)
            + entry
            + bytes((1, 0, 0, 0))
            + _first(msf=msf)
        )
    else:
        raise Refused(INVALID_FIELD)
    return len(content).to_bytes(2, "big") + content


def _first(*, msf: bool) -> bytes:
    return _time(0) if msf else bytes(4)


def _profile(disk: ScsiDisk) -> int:
    if not disk.available:
        return 0
    return _PROFILE_CD if disk.disk.size <= _LARGEST_CD else _PROFILE_DVD


def get_configuration(disk: ScsiDisk) -> bytes:
    """GET CONFIGURATION: profiles, the core feature, removable media."""
    current = _profile(disk)
    return (
        pack(">IHH", 36, 0, current)
        + pack(
            ">HBBHBBHBB",
            0,
            0x03,
            8,
            _PROFILE_DVD,
            current == _PROFILE_DVD,
            0,
            _PROFILE_CD,
            current == _PROFILE_CD,
            0,
        )
        + pack(">HBBIBBBB", 1, 0x0B, 8, 1, 1, 0, 0, 0)
        + pack(">HBBBBBB", 3, 0x0B, 4, 0x39, 0, 0, 0)
    )


def get_event_status(disk: ScsiDisk, cdb: bytes) -> bytes:
    """GET EVENT STATUS NOTIFICATION, by polling only.  Refused."""
    if not cdb[1] & 1:
        raise Refused(INVALID_FIELD)
    supported = 1 << _MEDIA_CLASS
    if not cdb[4] & supported:
        return bytes((0, 0, 0x80, supported))
    state = disk.state
    event = status = 0
    if state.tray_open:
        status = _TRAY_OPEN
    else:
        if disk.inserted:
            status = _PRESENT
        if state.media_event:
            event, state.media_event = _NEW_MEDIA, False
        elif state.eject_request:
            event, state.eject_request = _EJECT_REQUESTED, False
    return bytes((0, 4, _MEDIA_CLASS, supported, event, status, 0, 0))


def read_disc_information(cdb: bytes) -> bytes:
    """READ DISC INFORMATION: complete, one session, one track.  Refused."""
    if cdb[1] & 7:
        raise Refused(INVALID_FIELD)
    return bytes((0, 32, 0x0E, 1, 1, 1, 1, 0x20)).ljust(34, b"\0")


def read_dvd_structure(disk: ScsiDisk, cdb: bytes) -> bytes:
    """READ DVD STRUCTURE.  Refused."""
    media, layer, wanted = cdb[1], cdb[6], cdb[7]
    if media:
        raise Refused(INVALID_FIELD)
    if wanted == _DVD_CAPABILITIES:
        content = b"".join(pack(">BBH", number, 0x40, size) for number, size in _DVD_SIZES.items())
        return pack(">HH", len(content) + 2, 0) + content
    if not disk.available:
        raise Refused(NO_MEDIUM)
    if _profile(disk) == _PROFILE_CD:
        raise Refused(INCOMPATIBLE_FORMAT)
    if wanted not in {0, 1, 4} or (wanted == 0 and layer):
        raise Refused(INVALID_FIELD)
    size = _DVD_SIZES[wanted]
    content = pack(">HH", size - 2, 0)
    if wanted == 0:
        last = (disk.disk.size // 2048 - 1) & 0xFFFF_FFFF
        content += pack(">BBBBIII", 1, 0x0F, 1, 0, 0, last, last)
    return content.ljust(size, b"\0")


def mechanism_status() -> bytes:
    """MECHANISM STATUS: one slot."""
    return bytes((0, 0, 0, 0, 0, 1, 0, 0))
