"""Mode pages: MODE SENSE and MODE SELECT.

What a driver can change is the write cache of a disk, and the size of its blocks.

Source: SCSI Primary Commands - 4 (SPC-4), sections 6.11 and 7.5; SCSI Block Commands - 3 (SBC-3), section 6.5; which pages there
are, and what is in them: QEMU 10.0, hw/scsi/scsi-disk.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.scsi.command import TYPE_DISK, TYPE_ROM, Op
from qemud.hw.scsi.sense import (
    INVALID_FIELD,
    INVALID_PARAM,
    INVALID_PARAM_LEN,
    SAVING_PARAMS_NOT_SUPPORTED,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.hw.scsi.disk import ScsiDisk

ERROR_RECOVERY = 0x01
HD_GEOMETRY = 0x04
FLEXIBLE_GEOMETRY = 0x05
CACHING = 0x08
AUDIO = 0x0E
CAPABILITIES = 0x2A
_ALL = 0x3F

_CHANGEABLE, _SAVED = 1, 3
_WCE = 4
_READ_ONLY, _DPOFUA = 0x80, 0x10
_PAGE_FORMAT = 0x10
_SAVE_PAGES = 0x01
_LARGEST_COUNT = 0xFF_FFFF
_RPM = (5400).to_bytes(2, "big")
_SPEED = (16 * 176).to_bytes(2, "big")


def mode_sense(disk: ScsiDisk, cdb: bytes) -> bytes:
    """The answer to MODE SENSE(6) and (10).  Refused."""
    short = cdb[0] == Op.MODE_SENSE_6
    wanted, control = cdb[2] & 0x3F, cdb[2] >> 6
    specific = 0
    descriptor = b""
    if disk.kind == TYPE_DISK:
        specific = (_DPOFUA if disk.options.dpofua else 0) | (0 if disk.writable else _READ_ONLY)
        if not cdb[1] & 8 and disk.disk.size:
            count = disk.disk.size // disk.block_size
            descriptor = (
                (0 if count > _LARGEST_COUNT else count).to_bytes(4, "big")
                + bytes(2)
                + bytes((disk.block_size >> 8 & 0xFF, 0))
            )
    if control == _SAVED:
        raise Refused(SAVING_PARAMS_NOT_SUPPORTED)
    changeable = control == _CHANGEABLE
    pages = range(_ALL) if wanted == _ALL else (wanted,)
    contents = [
        bytes((page, len(content))) + content
        for page in pages
        if (content := _page(disk, page, changeable=changeable)) is not None
    ]
    if not contents and wanted != _ALL:
        raise Refused(INVALID_FIELD)
    content = descriptor + b"".join(contents)
    if short:
        return bytes((len(content) + 3 & 0xFF, 0, specific, len(descriptor))) + content
    head = (len(content) + 6).to_bytes(2, "big") + bytes((0, specific, 0, 0, 0, len(descriptor)))
    return head + content


def mode_select(disk: ScsiDisk, cdb: bytes, content: bytes) -> None:
    """MODE SELECT(6) and (10): all or nothing.  Refused."""
    if cdb[1] & (_PAGE_FORMAT | _SAVE_PAGES) != _PAGE_FORMAT:
        raise Refused(INVALID_FIELD)
    short = cdb[0] == Op.MODE_SELECT_6
    head = 4 if short else 8
    if len(content) < head:
        raise Refused(INVALID_PARAM_LEN)
    length = content[3] if short else int.from_bytes(content[6:8], "big")
    if len(content) - head < length:
        raise Refused(INVALID_PARAM_LEN)
    if length not in {0, 8}:
        raise Refused(INVALID_PARAM)
    descriptor, rest = content[head : head + length], content[head + length :]
    pages = list(_parse(rest))
    for page, given in pages:
        _check(disk, page, given)
    if descriptor:
        size = int.from_bytes(descriptor[5:8], "big")
        if size and not size & ~0xFE00:
            disk.set_block_size(size)
    for page, given in pages:
        if page == CACHING and given:
            disk.set_write_cache(on=bool(given[0] & _WCE))


def _parse(rest: bytes) -> Iterator[tuple[int, bytes]]:
    """The pages that were given: number and content."""
    while rest:
        head = 4 if rest[0] & 0x40 else 2
        if len(rest) < head:
            raise Refused(INVALID_PARAM_LEN)
        if head == 4 and rest[1]:
            raise Refused(INVALID_PARAM)
        length = int.from_bytes(rest[2:4], "big") if head == 4 else rest[1]
        if length > len(rest) - head:
            raise Refused(INVALID_PARAM_LEN)
        yield rest[0] & 0x3F, rest[head : head + length]
        rest = rest[head + length :]


def _check(disk: ScsiDisk, page: int, given: bytes) -> None:
    """Refuse what would change what cannot be; a page may be cut short."""
    now = None if page == _ALL else _page(disk, page, changeable=False)
    mask = None if page == _ALL else _page(disk, page, changeable=True)
    if now is None or mask is None or len(given) > len(now):
        raise Refused(INVALID_PARAM)
    if any((old ^ new) & ~free for old, new, free in zip(now, given, mask, strict=False)):
        raise Refused(INVALID_PARAM)


def _page(disk: ScsiDisk, page: int, *, changeable: bool) -> bytes | None:
    """The content of a page, or which bits of it can be changed; None if there is no such page."""
    if page in {HD_GEOMETRY, FLEXIBLE_GEOMETRY} and disk.kind == TYPE_DISK:
        content = _hd_geometry(disk) if page == HD_GEOMETRY else _flexible_geometry(disk)
        return bytes(len(content)) if changeable else content
    if page == CACHING:
        return bytes((_WCE if changeable or disk.write_cache else 0,)).ljust(0x12, b"\0")
    if page == ERROR_RECOVERY:
        rom = disk.kind == TYPE_ROM
        first = 0 if changeable and not rom else 0x80  # automatic reallocation
        return bytes((first, 0x20 if rom and not changeable else 0)).ljust(10, b"\0")
    if disk.kind != TYPE_ROM:
        return None
    if page == AUDIO:
        return bytes(14)
    if page == CAPABILITIES:
        return bytes(0x14) if changeable else _capabilities(disk)
    return None


def _hd_geometry(disk: ScsiDisk) -> bytes:
    drive = disk.drive
    cylinders = drive.cylinders.to_bytes(3, "big")
    return (
        cylinders
        + bytes((drive.heads & 0xFF,))
        + cylinders * 2  # no write precompensation, no reduced current
        + bytes((0, 200, 0xFF, 0xFF, 0xFF, 0, 0, 0))  # step rate, landing zone
        + _RPM
        + bytes(2)
    )


def _flexible_geometry(disk: ScsiDisk) -> bytes:
    drive = disk.drive
    cylinders = (drive.cylinders & 0xFFFF).to_bytes(2, "big")
    return (
        (5000).to_bytes(2, "big")  # kbit/s
        + bytes((drive.heads & 0xFF, drive.sectors & 0xFF, disk.block_size >> 8 & 0xFF, 0))
        + cylinders * 3
        + bytes((0, 1, 1, 0, 1, 1, 1)).ljust(14, b"\0")
        + _RPM
        + bytes(2)
    )


def _capabilities(disk: ScsiDisk) -> bytes:
    return (
        bytes((0x3B, 0, 0x7F, 0xFF, 0x2D | (2 if disk.state.tray_locked else 0), 0))
        + (50 * 176).to_bytes(2, "big")  # fastest reading
        + (2).to_bytes(2, "big")  # volume levels
        + (2048).to_bytes(2, "big")  # KiB of buffer
        + _SPEED
        + bytes(2)
        + _SPEED * 2
    )
