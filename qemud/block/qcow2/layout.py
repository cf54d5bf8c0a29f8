"""What the bits in tables of a qcow2 image mean.  Source: docs/interop/qcow2.txt of QEMU 10.0."""

from __future__ import annotations

MAGIC = 0x514649FB

# Incompatible features.
DIRTY = 1 << 0
CORRUPT = 1 << 1
EXTERNAL_DATA = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
# Compatible features.
LAZY_REFCOUNTS = 1 << 0
# Autoclear features.
BITMAPS = 1 << 0
RAW_EXTERNAL = 1 << 1

SUPPORTED_INCOMPATIBLE = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2
SUPPORTED_AUTOCLEAR = BITMAPS | RAW_EXTERNAL

ZLIB = 0
ZSTD = 1

# Entries of L1 and L2 tables.
COPIED = 1 << 63
"""The cluster is referred to once, from here: it may be written to in place."""
COMPRESSED = 1 << 62
ZERO = 1
"""The cluster reads as zeroes, whatever it has (version 3)."""
OFFSET = 0x00FF_FFFF_FFFF_FE00
REFTABLE_OFFSET = 0xFFFF_FFFF_FFFF_FE00

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MAX_L1_BYTES = 32 << 20
MAX_REFTABLE_BYTES = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_SNAPSHOTS_BYTES = 1024 * MAX_SNAPSHOTS
MAX_SNAPSHOT_EXTRA = 1024
MAX_BITMAPS = 65535
MAX_BITMAP_DIRECTORY_BYTES = 1024 * MAX_BITMAPS
MAX_CLUSTER_OFFSET = (1 << 56) - 1
MAX_BACKING_NAME = 1023

# What is found of a range of the disk (`Mapping.find`).
UNALLOCATED = 0
"""The backing file decides."""
PLACED = 1
"""In the file, nobody else's."""
SHARED = 2
"""In the file, and a snapshot refers to it too."""
ZEROES = 3
"""Zeroes without a place."""
ZEROES_PLACED = 4
"""Zeroes, with a place in the file that is nobody else's."""
ZEROES_SHARED = 5
"""Zeroes, with a place that a snapshot refers to too."""
PACKED = 6
"""Compressed: one cluster."""
INVALID = 7
"""The entry makes no sense."""

# Kinds of tables, which data must not be written over; with the names that QEMU has for them.
GUARDED = (
    "qcow2_header",
    "active L1 table",
    "active L2 table",
    "refcount block",
    "snapshot table",
    "inactive L1 table",
    "inactive L2 table",
    "refcount table",
    "bitmap directory",
)
(
    HEADER,
    ACTIVE_L1,
    ACTIVE_L2,
    REFCOUNT_BLOCK,
    SNAPSHOT_TABLE,
    INACTIVE_L1,
    INACTIVE_L2,
    REFCOUNT_TABLE,
    DIRECTORY,
) = range(9)
CONSTANT = frozenset((HEADER, ACTIVE_L1, REFCOUNT_TABLE, SNAPSHOT_TABLE, DIRECTORY))
CACHED = CONSTANT | {ACTIVE_L2, REFCOUNT_BLOCK, INACTIVE_L1}


def sharp(value: int) -> str:
    """A number in texts, as C prints it with `%#x`."""
    return f"{value:#x}" if value else "0"
