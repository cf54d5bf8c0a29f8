"""What a disk or drive says of itself: INQUIRY, with its pages of vital product data.

Source: SCSI Primary Commands - 4 (SPC-4), sections 6.6 and 7.8; SCSI Block Commands - 3 (SBC-3), section 6.6; which pages there
are, and what is in them: QEMU 10.0, hw/scsi/scsi-disk.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.scsi.command import TYPE_DISK, TYPE_ROM
from qemud.hw.scsi.sense import INVALID_FIELD, Refused

if TYPE_CHECKING:
    from qemud.hw.scsi.disk import ScsiDisk
    from qemud.hw.scsi.request import Request

MAX_SERIAL = 36
_LONGEST = 256
_LONGEST_ID = 255 - 8
_U32 = (1 << 32) - 1
_REMOVABLE = 0x80
_RESPONSE_FORMAT = 2 | 0x10  # and hierarchical units
_COMMAND_QUEUING = 0x10 | 0x02

_LIMITS = Struct(">BBHIIIIIIIQ")
_MOST_DESCRIPTORS = 255
_LIMITS_SIZE = 0x3C
_CHARACTERISTICS_SIZE = 0x3C
_UNMAP_AND_WRITE_SAME = 0xE0
_THIN, _FULL = 2, 1


def inquiry(disk: ScsiDisk, request: Request) -> bytes:
    """The answer to INQUIRY.  Refused."""
    cdb = request.cdb
    if cdb[1] & 1:
        return _page(disk, cdb[2])
    if cdb[2]:
        raise Refused(INVALID_FIELD)
    length = min(request.command.length, _LONGEST)
    more = length - 5 if length > 36 else 36 - 5
    head = bytes(
        (
            disk.kind,
            _REMOVABLE if disk.removable else 0,
            disk.options.scsi_version & 0xFF,
            _RESPONSE_FORMAT,
            more,
            0,
            0,
            _COMMAND_QUEUING,
        )
    )
    return head + _text(disk.vendor, 8, b" ") + _text(disk.product, 16, b" ") + _text(disk.revision, 4, b"\0")


def _text(text: str, length: int, padding: bytes) -> bytes:
    return text.encode()[:length].ljust(length, padding)


def _page(disk: ScsiDisk, number: int) -> bytes:
    make = _PAGES.get(number)
    content = None if make is None else make(disk)
    if content is None:
        raise Refused(INVALID_FIELD)
    return bytes((disk.kind, number, 0, len(content))) + content


def _supported(disk: ScsiDisk) -> bytes:
    found = [0x00]
    if disk.options.serial is not None:
        found.append(0x80)
    found.append(0x83)
    if disk.kind == TYPE_DISK:
        found += [0xB0, 0xB1, 0xB2]
    return bytes(found)


def _serial(disk: ScsiDisk) -> bytes | None:
    serial = disk.options.serial
    return None if serial is None else serial.encode()[:MAX_SERIAL]


def _identification(disk: ScsiDisk) -> bytes:
    options = disk.options
    found = b""
    name = disk.device_id.encode()[:_LONGEST_ID]
    if name:
        found += bytes((0x02, 0, 0, len(name))) + name  # ASCII, by the vendor
    if options.wwn:
        found += bytes((0x01, 0x03, 0, 8)) + options.wwn.to_bytes(8, "big")  # binary, NAA
    if options.port_wwn:
        found += bytes((0x61, 0x93, 0, 8)) + options.port_wwn.to_bytes(8, "big")  # of the port
    if options.port_index:
        found += bytes((0x61, 0x94, 0, 4, 0, 0)) + options.port_index.to_bytes(2, "big")
    return found


def _block_limits(disk: ScsiDisk) -> bytes | None:
    if disk.kind == TYPE_ROM:
        return None
    block, drive = disk.block_size, disk.drive
    longest = disk.options.max_io_size // block & _U32
    granularity, best = drive.min_io // block & 0xFFFF, drive.opt_io // block
    if longest:
        granularity, best = min(granularity, longest), min(best, longest)
    return _LIMITS.pack(
        1,  # a length of nothing is no WRITE SAME
        0,
        granularity & 0xFFFF,
        longest,
        best,
        0,
        disk.options.max_unmap_size // block & _U32,
        _MOST_DESCRIPTORS,
        disk.discard_granularity // block,
        0,
        longest,
    ).ljust(_LIMITS_SIZE, b"\0")


def _characteristics(disk: ScsiDisk) -> bytes:
    rate = disk.options.rotation_rate if disk.kind == TYPE_DISK else 0
    size: bytes = rate.to_bytes(2, "big")
    return size.ljust(_CHARACTERISTICS_SIZE, b"\0")


def _provisioning(disk: ScsiDisk) -> bytes:
    return bytes((0, _UNMAP_AND_WRITE_SAME, _THIN if disk.discard_granularity else _FULL, 0))


_PAGES = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}
