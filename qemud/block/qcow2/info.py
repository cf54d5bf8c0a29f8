"""What is told of a qcow2 image: its features, snapshots and bitmaps, for `query-block` and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.qcow2 import layout

if TYPE_CHECKING:
    from qemud.block.qcow2.bitmaps import StoredBitmap
    from qemud.block.qcow2.image import Image


def specific(image: Image) -> Any:
    """The struct of `format-specific`."""
    from qemud._generated.types import block_info as types
    from qemud._generated.types.block_options import Qcow2CompressionType

    header = image.header
    bits = 1 << header.refcount_order
    kind = Qcow2CompressionType.ZSTD if header.compression == layout.ZSTD else Qcow2CompressionType.ZLIB
    if header.version < 3:
        data = types.ImageInfoSpecificQCow2(compat="0.10", refcount_bits=bits, compression_type=kind)
    else:
        data = types.ImageInfoSpecificQCow2(
            compat="1.1",
            lazy_refcounts=bool(header.compatible & layout.LAZY_REFCOUNTS),
            corrupt=bool(header.incompatible & layout.CORRUPT),
            extended_l2=False,
            refcount_bits=bits,
            compression_type=kind,
            bitmaps=[_bitmap(each) for each in image.bitmaps] or None,
        )
    return types.ImageInfoSpecificQcow2(data=data)


def _bitmap(stored: StoredBitmap) -> Any:
    from qemud._generated.types.block_info import Qcow2BitmapInfo, Qcow2BitmapInfoFlags
    from qemud.block.qcow2.bitmaps import AUTO, IN_USE

    names = ((IN_USE, Qcow2BitmapInfoFlags.IN_USE), (AUTO, Qcow2BitmapInfoFlags.AUTO))
    return Qcow2BitmapInfo(
        name=stored.name,
        granularity=1 << stored.granularity_bits,
        flags=[flag for bit, flag in names if stored.flags & bit],
    )


def snapshot_list(image: Image) -> list[Any]:
    """The structs SnapshotInfo."""
    from qemud._generated.types.block_info import SnapshotInfo

    return [
        SnapshotInfo(
            id=each.id,
            name=each.name,
            vm_state_size=each.vm_state_size,
            date_sec=each.date_sec,
            date_nsec=each.date_nsec,
            vm_clock_sec=each.vm_clock_nsec // 1_000_000_000,
            vm_clock_nsec=each.vm_clock_nsec % 1_000_000_000,
            icount=each.icount,
        )
        for each in image.snapshots
    ]
