"""The header of a qcow2 image: the first cluster, with the extensions and the name of the backing file.

    header = Header.parse(first_bytes)          # GenericError with QEMU's text
    header.read_rest(first_cluster)
    data = header.pack()                        # the same again, unknown fields and extensions kept

Source: docs/interop/qcow2.txt of QEMU 10.0, "Header"; texts as in block/qcow2.c.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qemud.block.qcow2 import layout, subclusters
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator

END = 0
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875
CRYPTO = 0x0537BE77
DATA_FILE = 0x44415441

FIRST_PART = 112
"""How many bytes of the header have a meaning here; older images have fewer."""

_V2 = struct.Struct(">IIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_V2_LENGTH = _V2.size
_V3_LENGTH = _V2_LENGTH + _V3.size
_EXTENSION = struct.Struct(">II")
_FEATURE = struct.Struct(">BB46s")
_BITMAPS = struct.Struct(">IIQQ")

_SNAPSHOT_MINIMUM = 40

_FEATURES = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)


@dataclass
class BitmapsExtension:
    """Where the directory of the persistent bitmaps is."""

    count: int
    size: int
    offset: int


@dataclass
class Header:
    """The fields by their names in the specification, shortened."""

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    l1_size: int
    """Entries."""
    reftable_offset: int
    reftable_clusters: int
    snapshots: int = 0
    snapshots_offset: int = 0
    crypt_method: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    compression: int = layout.ZLIB
    length: int = FIRST_PART
    unknown_fields: bytes = b""
    backing_offset: int = 0
    backing_size: int = 0
    backing_raw: bytes | None = None
    """The name of the backing file."""
    format_raw: bytes | None = None
    """The format of the backing file."""
    data_file: bytes | None = None
    """The name of the external data file."""
    bitmaps: BitmapsExtension | None = None
    bitmaps_outdated: bool = False
    """There was an extension for bitmaps, but a program that knows nothing of them has written to the image."""
    unknown_extensions: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return 1 << self.cluster_bits

    @property
    def extended(self) -> bool:
        """Whether clusters have parts (`subclusters`)."""
        return bool(self.incompatible & layout.EXTENDED_L2)

    @property
    def entry_size(self) -> int:
        """Bytes of an entry of an L2 table."""
        return 16 if self.extended else 8

    @property
    def table_bits(self) -> int:
        """An L2 table is about two to the power of this bytes of the disk."""
        return 2 * self.cluster_bits - (4 if self.extended else 3)

    @property
    def external(self) -> bool:
        """Whether data is in a file of its own."""
        return bool(self.incompatible & layout.EXTERNAL_DATA)

    @property
    def raw_external(self) -> bool:
        """Whether that file is at all times what the guest sees."""
        return bool(self.autoclear & layout.RAW_EXTERNAL)

    @property
    def data_file_name(self) -> str | None:
        """The name of that file, for people and for opening it."""
        return None if self.data_file is None else _text(self.data_file)

    @property
    def backing_name(self) -> str | None:
        """The name of the backing file, for people and for opening it."""
        return None if self.backing_raw is None else _text(self.backing_raw)

    @property
    def backing_format(self) -> str | None:
        """The format of the backing file."""
        return None if self.format_raw is None else _text(self.format_raw)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The fixed fields, from the first bytes of a file (`FIRST_PART`, zeroes beyond its end).  GenericError."""
        (
            magic,
            version,
            backing_offset,
            backing_size,
            cluster_bits,
            size,
            crypt,
            l1_size,
            l1_offset,
            reftable_offset,
            reftable_clusters,
            snapshots,
            snapshots_offset,
        ) = _V2.unpack_from(data)
        if magic != layout.MAGIC:
            raise GenericError("Image is not in qcow2 format")
        if version not in {2, 3}:
            raise GenericError(f"Unsupported qcow2 version {version}")
        if not layout.MIN_CLUSTER_BITS <= cluster_bits <= layout.MAX_CLUSTER_BITS:
            raise GenericError(f"Unsupported cluster size: 2^{cluster_bits}")
        header = cls(
            version=version,
            cluster_bits=cluster_bits,
            size=size,
            l1_offset=l1_offset,
            l1_size=l1_size,
            reftable_offset=reftable_offset,
            reftable_clusters=reftable_clusters,
            snapshots=snapshots,
            snapshots_offset=snapshots_offset,
            crypt_method=crypt,
            length=_V2_LENGTH,
            backing_offset=backing_offset,
            backing_size=backing_size,
        )
        if version > 2:
            (
                header.incompatible,
                header.compatible,
                header.autoclear,
                header.refcount_order,
                header.length,
            ) = _V3.unpack_from(data, _V2_LENGTH)
            if header.length < _V3_LENGTH:
                raise GenericError("qcow2 header too short")
        if header.length > header.cluster_size:
            raise GenericError("qcow2 header exceeds cluster size")
        if backing_offset > header.cluster_size:
            raise GenericError("Invalid backing file offset")
        if header.length > _V3_LENGTH:
            header.compression = data[_V3_LENGTH]
        return header

    def check(self, cluster: bytes, *, writable: bool) -> None:
        """Refuse what cannot be opened.  `cluster` is the first one.  GenericError."""
        if self.compression not in {layout.ZLIB, layout.ZSTD}:
            raise GenericError(f"qcow2: unknown compression type: {self.compression}")
        marked = bool(self.incompatible & layout.COMPRESSION_TYPE)
        if marked and self.compression == layout.ZLIB:
            raise GenericError("qcow2: Compression type incompatible feature bit must not be set")
        if not marked and self.compression != layout.ZLIB:
            raise GenericError("qcow2: Compression type incompatible feature bit must be set")
        unknown = self.incompatible & ~layout.SUPPORTED_INCOMPATIBLE
        if unknown:
            raise GenericError(f"Unsupported qcow2 feature(s): {self._names_of(unknown, cluster)}")
        part = self.cluster_size >> subclusters.BITS
        if self.extended and part < 1 << layout.MIN_CLUSTER_BITS:
            raise GenericError(f"Unsupported subcluster size: {part}")
        if self.incompatible & layout.CORRUPT and writable:
            raise GenericError("qcow2: Image is corrupt; cannot be opened read/write")
        if self.refcount_order > 6:
            raise GenericError("Reference count entry width too large; may not exceed 64 bits")
        if self.crypt_method == 1:
            # QEMU's system emulators refuse this as well; the other method is one that is not there.
            raise GenericError(
                "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators"
            )
        if self.crypt_method:
            raise GenericError(f"Unsupported encryption method {self.crypt_method}")
        if not self.reftable_clusters:
            raise GenericError("Image does not contain a reference count table")
        self._check_table(
            self.reftable_offset,
            self.reftable_clusters,
            self.cluster_size,
            layout.MAX_REFTABLE_BYTES,
            "Reference count table",
        )
        self._check_table(
            self.snapshots_offset,
            self.snapshots,
            _SNAPSHOT_MINIMUM,
            _SNAPSHOT_MINIMUM * layout.MAX_SNAPSHOTS,
            "Snapshot table",
        )
        self._check_table(self.l1_offset, self.l1_size, 8, layout.MAX_L1_BYTES, "Active L1 table")
        needed = -(-self.size >> self.table_bits)
        if needed > 0x7FFFFFFF:
            raise GenericError("Image is too big")
        if self.l1_size < needed:
            raise GenericError("L1 table is too small")

    def _check_table(self, offset: int, entries: int, width: int, limit: int, name: str) -> None:
        check_table(self.cluster_size, offset, entries, width, limit, name)

    def _names_of(self, features: int, cluster: bytes) -> str:
        """Incompatible features by the names that the image has for them."""
        names: list[str] = []
        table = b""
        with contextlib.suppress(
            GenericError
        ):  # what is wrong with the extensions matters less than the features
            table = next((data for magic, data in self._extensions(cluster) if magic == FEATURE_NAMES), b"")
        for start in range(0, len(table) // _FEATURE.size * _FEATURE.size, _FEATURE.size):
            kind, bit, raw = _FEATURE.unpack_from(table, start)
            name = raw.partition(b"\0")[0]
            if not name:
                break
            if kind == 0 and bit < 64 and features & 1 << bit:
                names.append(name.decode("utf-8", "replace"))
                features &= ~(1 << bit)
        if features:
            names.append(f"Unknown incompatible feature: {features:x}")
        return ", ".join(names)

    def read_rest(self, cluster: bytes) -> None:
        """Extensions and the name of the backing file, from the first cluster.  GenericError."""
        self.unknown_fields = bytes(cluster[FIRST_PART : self.length])
        self.unknown_extensions = []
        for magic, data in self._extensions(cluster):
            if magic == BACKING_FORMAT:
                if len(data) >= 16:
                    raise GenericError(f"ERROR: ext_backing_format: len={len(data)} too large (>=16)")
                self.format_raw = data
            elif magic == BITMAPS:
                self._read_bitmaps(data)
            elif magic == CRYPTO:
                raise GenericError("CRYPTO header extension only expected with LUKS encryption method")
            elif magic == DATA_FILE:
                self.data_file = data
            elif magic != FEATURE_NAMES:
                self.unknown_extensions.append((magic, data))
        if self.backing_offset:
            limit = min(layout.MAX_BACKING_NAME, self.cluster_size - self.backing_offset)
            if self.backing_size > limit:
                raise GenericError("Backing file name too long")
            self.backing_raw = bytes(cluster[self.backing_offset : self.backing_offset + self.backing_size])

    def _extensions(self, cluster: bytes) -> Iterator[tuple[int, bytes]]:
        position = self.length
        end = self.backing_offset or self.cluster_size
        while position < end:
            magic, length = _EXTENSION.unpack_from(cluster.ljust(position + _EXTENSION.size, b"\0"), position)
            position += _EXTENSION.size
            if position > end or length > end - position:
                raise GenericError("Header extension too large")
            if magic == END:
                return
            yield magic, bytes(cluster[position : position + length])
            position += -(-length // 8) * 8

    def _read_bitmaps(self, data: bytes) -> None:
        if len(data) != _BITMAPS.size:
            raise GenericError("bitmaps_ext: Invalid extension length")
        if not self.autoclear & layout.BITMAPS:
            self.bitmaps_outdated = True
            return
        count, reserved, size, offset = _BITMAPS.unpack(data)
        if reserved:
            raise GenericError("bitmaps_ext: Reserved field is not zero")
        if count > layout.MAX_BITMAPS:
            raise GenericError(
                f"bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of {layout.MAX_BITMAPS}"
            )
        if not count:
            raise GenericError("found bitmaps extension with zero bitmaps")
        if offset % self.cluster_size:
            raise GenericError("bitmaps_ext: invalid bitmap directory offset")
        if size > layout.MAX_BITMAP_DIRECTORY_BYTES:
            raise GenericError(
                f"bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size "
                f"({layout.MAX_BITMAP_DIRECTORY_BYTES})"
            )
        self.bitmaps = BitmapsExtension(count, size, offset)

    # Writing.

    def pack_fields(self) -> bytes:
        """The fixed fields: at most 512 bytes with what is unknown kept, so that a disk writes them whole."""
        fixed = _V2.pack(
            layout.MAGIC,
            self.version,
            self.backing_offset,
            self.backing_size,
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_size,
            self.l1_offset,
            self.reftable_offset,
            self.reftable_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        if self.version == 2:
            return fixed
        fixed += _V3.pack(
            self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.length
        )
        if self.length > _V3_LENGTH:
            fixed += bytes([self.compression]).ljust(FIRST_PART - _V3_LENGTH, b"\0")
        return fixed[: self.length]

    def pack(self) -> bytes:
        """The first cluster.  OSError with ENOSPC when it is too small for all that."""
        import errno
        import os

        if self.version > 2:
            self.length = max(self.length, FIRST_PART)
        rest = b"".join(_extension(magic, data) for magic, data in self._own_extensions())
        for magic, data in self.unknown_extensions:
            rest += _extension(magic, data)
        name = self.backing_raw or b""
        if self.version > 2:
            names = _extension(FEATURE_NAMES, b"".join(_FEATURE.pack(*each) for each in _FEATURES))
            used = self.length + len(rest) + _EXTENSION.size + len(name)
            if (
                used + len(names) <= self.cluster_size
            ):  # with the smallest clusters there may be no room for it
                rest += names
        rest += _EXTENSION.pack(END, 0)
        self.backing_size = len(name)
        self.backing_offset = self.length + len(rest) if name else 0
        data = self.pack_fields() + self.unknown_fields + rest + name
        if len(data) > self.cluster_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return data.ljust(self.cluster_size, b"\0")

    def _own_extensions(self) -> Iterator[tuple[int, bytes]]:
        if self.format_raw is not None:
            yield BACKING_FORMAT, self.format_raw
        if self.data_file is not None and self.external:
            yield DATA_FILE, self.data_file
        if self.bitmaps is not None:
            yield BITMAPS, _BITMAPS.pack(self.bitmaps.count, 0, self.bitmaps.size, self.bitmaps.offset)


def check_table(  # noqa: PLR0917 - the fields of a header in the order in which they are there
    cluster_size: int, offset: int, entries: int, width: int, limit: int, name: str
) -> None:
    """Refuse a table that is too large, or where no table can be.  GenericError."""
    if entries > limit // width:
        raise GenericError(f"{name} too large")
    if offset % cluster_size or offset > (1 << 63) - 1 - entries * width:
        raise GenericError(f"{name} offset invalid")


def _text(raw: bytes) -> str:
    """As C has it: up to the first zero."""
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _extension(magic: int, data: bytes) -> bytes:
    return _EXTENSION.pack(magic, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
