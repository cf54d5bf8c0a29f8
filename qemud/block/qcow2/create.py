"""New qcow2 images: what `blockdev-create` does with them.

The smallest image there can be is written first: a header, a table of reference counts, a block of them.  Then it is opened, and given
its size as any image is.

Source of rules and texts: QEMU 10.0, block/qcow2.c (qcow2_co_create).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_create import BlockdevQcow2Version, PreallocMode
from qemud._generated.types.block_options import Qcow2CompressionType
from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.qcow2 import layout, subclusters
from qemud.block.qcow2.header import Header
from qemud.block.qcow2.refcounts import pack
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

_SECTOR = 512
_COMPATIBLE = "compatibility level 1.1 and above (use version=v3 or greater)"


async def create_image(graph: Graph, options: Any) -> None:
    """Make an image in the node that the options name.  GenericError with QEMU's text."""
    file = await graph.open_reference(options.file)
    data: BlockNode | None = None
    try:
        header = _header(options)
        if options.data_file is not None:
            data = await graph.open_reference(options.data_file)
            header.data_file = data.filename.encode("utf-8", "surrogateescape")
        await _write_smallest(graph, file, header)
        await _complete(graph, file, data, options)
    finally:
        if data is not None:
            await graph.release(data)
        await graph.release(file)


def _header(options: Any) -> Header:
    """The header of the smallest image with these options.  GenericError: they do not go together."""
    if options.size % _SECTOR:
        raise GenericError(f"Image size must be a multiple of {_SECTOR} bytes")
    version = 2 if options.version is BlockdevQcow2Version.V2 else 3
    cluster = options.cluster_size
    if options.extended_l2 and version < 3:
        raise GenericError(f"Extended L2 entries are only supported with {_COMPATIBLE}")
    low, high = layout.MIN_CLUSTER_BITS, layout.MAX_CLUSTER_BITS
    if not 1 << low <= cluster <= 1 << high or cluster & (cluster - 1):
        raise GenericError(f"Cluster size must be a power of two between {1 << low} and {1 << (high - 10)}k")
    if options.extended_l2 and cluster < 1 << (low + subclusters.BITS):
        raise GenericError(
            "Extended L2 entries are only supported with cluster sizes of at least "
            f"{1 << (low + subclusters.BITS)} bytes"
        )
    preallocated = options.preallocation is not PreallocMode.OFF
    if options.backing_file is not None and preallocated and not options.extended_l2:
        raise GenericError(
            "Backing file and preallocation can only be used at the same time if extended_l2 is on"
        )
    if options.backing_fmt is not None and options.backing_file is None:
        raise GenericError("Backing format cannot be used without backing file")
    if version < 3 and options.lazy_refcounts:
        raise GenericError(f"Lazy refcounts only supported with {_COMPATIBLE}")
    bits = options.refcount_bits
    if not 1 <= bits <= 64 or bits & (bits - 1):
        raise GenericError("Refcount width must be a power of two and may not exceed 64 bits")
    if version < 3 and bits != 16:
        raise GenericError(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above "
            "(use version=v3 or greater)"
        )
    if options.data_file_raw and options.data_file is None:
        raise GenericError("data-file-raw requires data-file")
    if options.data_file_raw and options.backing_file is not None:
        raise GenericError("Backing file and data-file-raw cannot be used at the same time")
    if options.data_file is not None and version < 3:
        raise GenericError(f"External data files are only supported with {_COMPATIBLE}")
    zstd = options.compression_type is Qcow2CompressionType.ZSTD
    if zstd and version < 3:
        raise GenericError(f"Non-zlib compression type is only supported with {_COMPATIBLE}")
    return Header(
        version=version,
        cluster_bits=cluster.bit_length() - 1,
        size=0,
        l1_offset=0,
        l1_size=0,
        reftable_offset=cluster,
        reftable_clusters=1,
        refcount_order=bits.bit_length() - 1,
        length=72 if version == 2 else 112,
        compatible=layout.LAZY_REFCOUNTS if options.lazy_refcounts else 0,
        incompatible=(layout.COMPRESSION_TYPE if zstd else 0)
        | (layout.EXTENDED_L2 if options.extended_l2 else 0)
        | (layout.EXTERNAL_DATA if options.data_file is not None else 0),
        autoclear=layout.RAW_EXTERNAL if options.data_file_raw else 0,
        compression=layout.ZSTD if zstd else layout.ZLIB,
    )


async def _write_smallest(graph: Graph, file: BlockNode, header: Header) -> None:
    cluster = header.cluster_size
    table = (2 * cluster).to_bytes(8, "big").ljust(cluster, b"\0")
    bits = 1 << header.refcount_order
    width = max(1, bits // 8)
    counts = bytearray(8 * cluster // bits * width)
    used = memoryview(counts)
    for i in range(3):
        used[i * width : (i + 1) * width] = (1).to_bytes(width, sys.byteorder)
    backend = BlockBackend(graph)
    try:
        backend.set_permissions(permission.WRITE | permission.RESIZE, permission.ALL)
        backend.insert(file)
        try:
            data = header.pack() + table + pack(counts, bits)
            await file.writev(0, [memoryview(data)])
        except OSError as error:
            raise GenericError(f"Could not write qcow2 header: {error.strerror}") from None
    finally:
        await backend.close()


async def _complete(graph: Graph, file: BlockNode, data: BlockNode | None, options: Any) -> None:
    from qemud.qapi.runtime.check import parse_type

    new: dict[str, Any] = {"driver": "qcow2", "file": file.node_name, "backing": None}
    if data is not None:
        new["data-file"] = data.node_name
    node = await graph.open(parse_type("BlockdevOptions", new))
    try:
        try:
            await node.truncate(options.size, preallocation=options.preallocation.value, exact=False)
        except GenericError as error:
            raise GenericError(f"Could not resize image: {error}") from None
        except OSError as error:
            raise GenericError(f"Could not resize image: {error.strerror}") from None
        if options.backing_file is not None:
            backing_format = None if options.backing_fmt is None else options.backing_fmt.value
            try:
                await node.change_backing_file(options.backing_file, backing_format)
            except OSError as error:
                raise GenericError(
                    f"Could not assign backing file '{options.backing_file}' with format "
                    f"'{backing_format}': {error.strerror}"
                ) from None
        try:
            await node.flush()
        except OSError as error:
            raise GenericError(f"Could not resize image: {error.strerror}") from None
    finally:
        await graph.release(node)
