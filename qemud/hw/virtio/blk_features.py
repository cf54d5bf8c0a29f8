"""What the driver of a disk is told: the standard's feature bits, which of them are offered, and the configuration.

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 5.2.3 and 5.2.4; limits: QEMU 10.0, hw/block/virtio-blk.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.block.drive import SECTOR

if TYPE_CHECKING:
    from qemud._generated.types.virtio import VirtioBlkOptions
    from qemud.hw.block.drive import Drive

FEATURE_SEG_MAX = 1 << 2
FEATURE_GEOMETRY = 1 << 4
FEATURE_RO = 1 << 5
FEATURE_BLK_SIZE = 1 << 6
FEATURE_SCSI = 1 << 7  # legacy
FEATURE_FLUSH = 1 << 9
FEATURE_TOPOLOGY = 1 << 10
FEATURE_CONFIG_WCE = 1 << 11
FEATURE_MQ = 1 << 12
FEATURE_DISCARD = 1 << 13
FEATURE_WRITE_ZEROES = 1 << 14

CONFIG_WCE_OFFSET = 32
"""Where the driver turns the write cache off and on."""

_CONFIG = Struct("<QIIHBBIBBHIBBHIIIIIB")
_CONFIG_SIZE = 36
_CONFIG_SIZE_DISCARD = 48
_CONFIG_SIZE_WRITE_ZEROES = 57


def offered(options: VirtioBlkOptions, drive: Drive, queues: int) -> int:
    """The bits of what a disk can do."""
    features = FEATURE_SEG_MAX | FEATURE_GEOMETRY | FEATURE_TOPOLOGY | FEATURE_BLK_SIZE
    if options.config_wce:
        features |= FEATURE_CONFIG_WCE
    if options.discard:
        features |= FEATURE_DISCARD
    if options.write_zeroes:
        features |= FEATURE_WRITE_ZEROES
    if drive.write_cache or options.config_wce:
        features |= FEATURE_FLUSH
    if drive.disk.read_only:
        features |= FEATURE_RO
    if queues > 1:
        features |= FEATURE_MQ
    return features


def configuration(options: VirtioBlkOptions, drive: Drive, queues: int, *, write_cache: bool) -> bytes:
    """The layout is that of the standard's `virtio_blk_config`, as far as the features need it."""
    block = drive.logical
    size = drive.disk.size
    sectors = drive.sectors
    if size // drive.heads // sectors % block:
        sectors &= ~(block // SECTOR - 1)
    granularity = drive.discard_granularity
    if granularity is None or not options.report_discard_granularity:
        granularity = block
    content = _CONFIG.pack(
        size // SECTOR,
        0,  # a piece of a request may have any size
        options.queue_size - 2 if options.seg_max_adjust else 126,
        drive.cylinders,
        drive.heads,
        sectors & 0xFF,
        block,
        (drive.physical // block).bit_length() - 1,
        0,
        drive.min_io // block,
        drive.opt_io // block,
        write_cache,
        0,
        queues,
        options.max_discard_sectors if options.discard else 0,
        int(options.discard),
        granularity // SECTOR if options.discard else 0,
        options.max_write_zeroes_sectors if options.write_zeroes else 0,
        int(options.write_zeroes),
        int(options.write_zeroes),
    )
    if options.write_zeroes:
        return content[:_CONFIG_SIZE_WRITE_ZEROES]
    return content[: _CONFIG_SIZE_DISCARD if options.discard else _CONFIG_SIZE]
