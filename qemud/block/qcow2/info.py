"""What is told of a qcow2 image: its features, snapshots and bitmaps, for `query-block` and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.qcow2 import layout

if TYPE_CHECKING:
    from qemud.block.qcow2.bitmaps import StoredBitmap
    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.snapshots import Snapshot


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
            extended_l2=header.extended,
            data_file=header.data_file_name,
            data_file_raw=header.raw_external if header.external else None,
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
    return [snapshot_info(each) for each in image.snapshots]


def snapshot_info(snapshot: Snapshot) -> Any:
    """The struct SnapshotInfo."""
    from qemud._generated.types.block_info import SnapshotInfo

    return SnapshotInfo(
        id=snapshot.id,
        name=snapshot.name,
        vm_state_size=snapshot.vm_state_size,
        date_sec=snapshot.date_sec,
        date_nsec=snapshot.date_nsec,
        vm_clock_sec=snapshot.vm_clock_nsec // 1_000_000_000,
        vm_clock_nsec=snapshot.vm_clock_nsec % 1_000_000_000,
        icount=snapshot.icount,
    )
