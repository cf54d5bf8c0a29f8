"""The commands of disks and drives; see `disk.py`.

A command is a function of the unit and the request; what needs the block layer is a list of steps, each of which is one request to it.

Source: SCSI Block Commands - 3 (SBC-3), SCSI Primary Commands - 4 (SPC-4), Multi-Media Commands - 6 (MMC-6); which commands there
are, checks and their order: QEMU 10.0, hw/scsi/scsi-disk.c.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qemud.block.stats import UNMAP
from qemud.hw.scsi import cdrom
from qemud.hw.scsi.command import READS, TO_DEVICE, TYPE_ROM, VERIFIES, WRITES, Op
from qemud.hw.scsi.inquiry import inquiry
from qemud.hw.scsi.modes import mode_select, mode_sense
from qemud.hw.scsi.request import MAX_PARAMETERS
from qemud.hw.scsi.sense import (
    ILLEGAL_REQ_REMOVAL_PREVENTED,
    INVALID_FIELD,
    INVALID_OPCODE,
    INVALID_PARAM_LEN,
    LBA_OUT_OF_RANGE,
    LUN_NOT_READY,
    NO_MEDIUM,
    NO_SENSE,
    NOT_READY_REMOVAL_PREVENTED,
    WRITE_PROTECTED,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud.block.disk import Disk
    from qemud.hw.scsi.disk import ScsiDisk
    from qemud.hw.scsi.request import Request, Step

_READ_CAPACITY_16 = 0x10
_SAME_CHUNK = 512 << 10
_ANCHOR = 1
_SAME_REFUSED = 0x16  # physical or logical block data, anchor
_SAME_UNMAP, _SAME_NO_DATA = 8, 1
_PROTECT = 0xE0
_PROTECT_SINCE = 3
_DESCRIPTOR = 16
_UNMAP_HEADER = 8

_WITHOUT_MEDIUM = frozenset(
    (
        Op.INQUIRY,
        Op.MODE_SENSE_6,
        Op.MODE_SENSE_10,
        Op.RESERVE_6,
        Op.RESERVE_10,
        Op.RELEASE_6,
        Op.RELEASE_10,
        Op.START_STOP,
        Op.PREVENT_ALLOW_MEDIUM_REMOVAL,
        Op.GET_CONFIGURATION,
        Op.GET_EVENT_STATUS_NOTIFICATION,
        Op.MECHANISM_STATUS,
        Op.REQUEST_SENSE,
    )
)


def serve(unit: ScsiDisk, request: Request) -> None:
    """A command for this unit.  Refused; MemoryFault."""
    op = request.cdb[0]
    if op in READS:
        _check_medium(unit)
        _read(unit, request)
    elif op in WRITES:
        _check_medium(unit)
        _write(unit, request)
    else:
        if op not in _WITHOUT_MEDIUM:
            _check_medium(unit)
        if request.command.length > MAX_PARAMETERS:
            raise Refused(INVALID_FIELD)
        command = _COMMANDS.get(op)
        if command is None:
            raise Refused(INVALID_OPCODE)
        command(unit, request)


def _check_medium(unit: ScsiDisk) -> None:
    if not unit.available:
        raise Refused(NO_MEDIUM)


def _check_range(unit: ScsiDisk, lba: int, count: int) -> None:
    if lba + count > unit.blocks:
        raise Refused(LBA_OUT_OF_RANGE)


def _check_transfer(unit: ScsiDisk, request: Request) -> tuple[int, int]:
    """Offset and length in bytes.  Refused."""
    command = request.command
    if unit.options.scsi_version >= _PROTECT_SINCE and request.cdb[1] & _PROTECT:
        raise Refused(INVALID_FIELD)
    _check_range(unit, command.lba, command.blocks)
    return command.lba * unit.block_size, command.length


def _read(unit: ScsiDisk, request: Request) -> None:
    offset, length = _check_transfer(unit, request)
    if not length:
        request.good()
        return
    request.transferred = length
    steps: list[Step] = [partial(_step_read, unit.disk, offset)]
    if request.command.force_unit_access:
        steps.insert(0, partial(_step_flush, unit.disk))
    request.run(iter(steps), request.data(length), write=True)


def _write(unit: ScsiDisk, request: Request) -> None:
    if not unit.writable:
        raise Refused(WRITE_PROTECTED)
    offset, length = _check_transfer(unit, request)
    if not length:
        request.good()
        return
    request.transferred = length
    step = partial(_step_write, unit.disk, offset, request.command.force_unit_access)
    request.run(iter((step,)), request.data(length))


def _nothing(_unit: ScsiDisk, request: Request) -> None:
    """What there is nothing to do for."""
    if request.command.direction == TO_DEVICE:
        request.transferred = request.command.length
    request.good()


def _reserve(_unit: ScsiDisk, request: Request) -> None:
    """There is nobody else; parts of the disk, or for others, cannot be reserved."""
    short = request.cdb[0] in {Op.RESERVE_6, Op.RELEASE_6}
    if request.cdb[1] & (1 if short else 3):
        raise Refused(INVALID_FIELD)
    request.good()


def _inquiry(unit: ScsiDisk, request: Request) -> None:
    request.answer(inquiry(unit, request))


def _request_sense(_unit: ScsiDisk, request: Request) -> None:
    request.answer(NO_SENSE.encode(fixed=not request.cdb[1] & 1))


def _mode_sense(unit: ScsiDisk, request: Request) -> None:
    request.answer(mode_sense(unit, request.cdb))


def _mode_select(unit: ScsiDisk, request: Request) -> None:
    mode_select(unit, request.cdb, request.parameters())
    request.transferred = request.command.length
    if unit.write_cache:
        request.good()
    else:
        request.run(iter((partial(_step_flush, unit.disk),)))


def _start_stop(unit: ScsiDisk, request: Request) -> None:
    state, flags = unit.state, request.cdb[4]
    start, eject = bool(flags & 1), bool(flags & 2)
    if unit.removable and eject and not flags & 0xF0:
        if not start and not state.tray_open and state.tray_locked:
            raise Refused(ILLEGAL_REQ_REMOVAL_PREVENTED if unit.inserted else NOT_READY_REMOVAL_PREVENTED)
        if state.tray_open == start:
            state.tray_open = not start
            unit.machine.mailboxes.send(unit.drive.backend.tray_moved)
    request.good()


def _prevent_allow(unit: ScsiDisk, request: Request) -> None:
    unit.state.tray_locked = bool(request.cdb[4] & 1)
    request.good()


def _last_block(unit: ScsiDisk, *, partial_medium: int, lba: int) -> int:
    if not unit.disk.size:
        raise Refused(LUN_NOT_READY)
    if not partial_medium & 1 and lba:
        raise Refused(INVALID_FIELD)
    return unit.blocks - 1


def _read_capacity_10(unit: ScsiDisk, request: Request) -> None:
    last = _last_block(unit, partial_medium=request.cdb[8], lba=request.command.lba)
    size = (unit.block_size & 0xFF00).to_bytes(4, "big")
    request.answer(min(max(last, 0), 0xFFFF_FFFF).to_bytes(4, "big") + size)


def _service_action_in(unit: ScsiDisk, request: Request) -> None:
    cdb = request.cdb
    if cdb[1] & 31 != _READ_CAPACITY_16:
        raise Refused(INVALID_FIELD)
    last = _last_block(unit, partial_medium=cdb[14], lba=request.command.lba)
    exponent = (unit.drive.physical // unit.drive.logical).bit_length() - 1
    request.answer(
        max(last, 0).to_bytes(8, "big")
        + (unit.block_size & 0xFF00).to_bytes(4, "big")
        + bytes((0, exponent, 0x80 if unit.discard_granularity else 0))
    )


def _synchronize_cache(unit: ScsiDisk, request: Request) -> None:
    request.run(iter((partial(_step_flush, unit.disk),)))


def _seek(unit: ScsiDisk, request: Request) -> None:
    if request.command.lba >= max(unit.blocks, 1):
        raise Refused(LBA_OUT_OF_RANGE)
    request.good()


def _verify(_unit: ScsiDisk, request: Request) -> None:
    if request.cdb[1] & 6:  # no comparing with what the driver has
        raise Refused(INVALID_FIELD)
    request.good()


def _unmap(unit: ScsiDisk, request: Request) -> None:
    try:
        descriptors = _unmap_descriptors(unit, request)
    except Refused:
        unit.disk.invalid(UNMAP)
        raise
    request.transferred = request.command.length
    request.run(_discards(unit, descriptors))


def _unmap_descriptors(unit: ScsiDisk, request: Request) -> bytes:
    """What follows the header of the parameters.  Refused."""
    if request.cdb[1] & _ANCHOR:
        raise Refused(INVALID_FIELD)
    content = request.parameters()
    if len(content) < _UNMAP_HEADER:
        raise Refused(INVALID_PARAM_LEN)
    size = int.from_bytes(content[2:4], "big")
    if len(content) < int.from_bytes(content[:2], "big") + 2 or len(content) < size + _UNMAP_HEADER:
        raise Refused(INVALID_PARAM_LEN)
    if size % _DESCRIPTOR:
        raise Refused(INVALID_PARAM_LEN)
    if not unit.writable:
        raise Refused(WRITE_PROTECTED)
    return content[_UNMAP_HEADER : size + _UNMAP_HEADER]


def _discards(unit: ScsiDisk, descriptors: bytes) -> Iterator[Step]:
    """One step for each range; a wrong one fails when its turn comes."""
    block = unit.block_size
    for at in range(0, len(descriptors), _DESCRIPTOR):
        lba = int.from_bytes(descriptors[at : at + 8], "big")
        count = int.from_bytes(descriptors[at + 8 : at + 12], "big")
        try:
            _check_range(unit, lba, count)
        except Refused:
            unit.disk.invalid(UNMAP)
            raise
        if count:
            yield partial(_step_discard, unit.disk, lba * block, count * block)


def _write_same(unit: ScsiDisk, request: Request) -> None:
    command, flags = request.command, request.cdb[1]
    lba, count, block = command.lba, command.blocks, unit.block_size
    if not count or flags & _SAME_REFUSED:
        raise Refused(INVALID_FIELD)
    if not unit.writable:
        raise Refused(WRITE_PROTECTED)
    _check_range(unit, lba, count)
    content = b"" if flags & _SAME_NO_DATA else request.parameters()
    request.transferred = command.length
    if not any(content):
        zero = partial(_step_zero, unit.disk, lba * block, count * block, bool(flags & _SAME_UNMAP))
        request.run(iter((zero,)))
    else:
        request.run(_copies(unit, lba * block, count * block, content))


def _copies(unit: ScsiDisk, offset: int, length: int, content: bytes) -> Iterator[Step]:
    """One step for each chunk of the same block again and again."""
    chunk = memoryview(content * max(min(length, _SAME_CHUNK) // len(content), 1))
    while length > 0:
        view = chunk[:length]
        yield partial(_step_write_view, unit.disk, offset, view)
        offset += len(view)
        length -= len(view)


# Drives.


def _rom(unit: ScsiDisk, request: Request, make: Callable[[ScsiDisk, bytes], bytes]) -> None:
    if unit.kind != TYPE_ROM:
        raise Refused(INVALID_FIELD)
    request.answer(make(unit, request.cdb))


def _read_toc(unit: ScsiDisk, request: Request) -> None:
    request.answer(cdrom.read_toc(unit.blocks, request.cdb))


def _get_configuration(unit: ScsiDisk, request: Request) -> None:
    _rom(unit, request, lambda disk, _cdb: cdrom.get_configuration(disk))


def _get_event_status(unit: ScsiDisk, request: Request) -> None:
    _rom(unit, request, cdrom.get_event_status)


def _read_disc_information(unit: ScsiDisk, request: Request) -> None:
    _rom(unit, request, lambda _disk, cdb: cdrom.read_disc_information(cdb))


def _read_dvd_structure(unit: ScsiDisk, request: Request) -> None:
    _rom(unit, request, cdrom.read_dvd_structure)


def _mechanism_status(unit: ScsiDisk, request: Request) -> None:
    _rom(unit, request, lambda _disk, _cdb: cdrom.mechanism_status())


# Steps: requests to the block layer.


def _views(request: Request) -> list[memoryview]:
    assert request.lease is not None
    return request.lease.views


def _step_read(disk: Disk, offset: int, request: Request) -> None:
    disk.read(offset, _views(request), request.step_done, request.lease)


def _step_write(disk: Disk, offset: int, fua: bool, request: Request) -> None:
    disk.write(offset, _views(request), request.step_done, request.lease, fua=fua)


def _step_write_view(disk: Disk, offset: int, view: memoryview, request: Request) -> None:
    disk.write(offset, [view], request.step_done, request.lease)


def _step_flush(disk: Disk, request: Request) -> None:
    disk.flush(request.step_done, request.lease)


def _step_discard(disk: Disk, offset: int, length: int, request: Request) -> None:
    disk.discard(offset, length, request.step_done, request.lease)


def _step_zero(disk: Disk, offset: int, length: int, unmap: bool, request: Request) -> None:
    disk.write_zeroes(offset, length, request.step_done, request.lease, unmap=unmap)


_COMMANDS: dict[int, Callable[[ScsiDisk, Request], None]] = {
    Op.TEST_UNIT_READY: _nothing,
    Op.FORMAT_UNIT: _nothing,
    Op.RESERVE_6: _reserve,
    Op.RESERVE_10: _reserve,
    Op.RELEASE_6: _reserve,
    Op.RELEASE_10: _reserve,
    Op.INQUIRY: _inquiry,
    Op.REQUEST_SENSE: _request_sense,
    Op.MODE_SENSE_6: _mode_sense,
    Op.MODE_SENSE_10: _mode_sense,
    Op.MODE_SELECT_6: _mode_select,
    Op.MODE_SELECT_10: _mode_select,
    Op.START_STOP: _start_stop,
    Op.PREVENT_ALLOW_MEDIUM_REMOVAL: _prevent_allow,
    Op.READ_CAPACITY_10: _read_capacity_10,
    Op.SERVICE_ACTION_IN_16: _service_action_in,
    Op.SYNCHRONIZE_CACHE_10: _synchronize_cache,
    Op.SEEK_10: _seek,
    **dict.fromkeys(VERIFIES, _verify),
    Op.UNMAP: _unmap,
    Op.WRITE_SAME_10: _write_same,
    Op.WRITE_SAME_16: _write_same,
    Op.READ_TOC: _read_toc,
    Op.GET_CONFIGURATION: _get_configuration,
    Op.GET_EVENT_STATUS_NOTIFICATION: _get_event_status,
    Op.READ_DISC_INFORMATION: _read_disc_information,
    Op.READ_DVD_STRUCTURE: _read_dvd_structure,
    Op.MECHANISM_STATUS: _mechanism_status,
}
