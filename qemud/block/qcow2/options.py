"""Options of a qcow2 node: sizes of caches, discards, guards.  Rules and texts as in QEMU 10.0, block/qcow2.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.qcow2 import layout
from qemud.block.qcow2.layout import (
    ACTIVE_L1,
    ACTIVE_L2,
    CACHED,
    CONSTANT,
    DIRECTORY,
    HEADER,
    INACTIVE_L1,
    INACTIVE_L2,
    REFCOUNT_BLOCK,
    REFCOUNT_TABLE,
    SNAPSHOT_TABLE,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.node import Flags
    from qemud.block.qcow2.header import Header

_L2_CACHE_LIMIT = 32 << 20
_CLEAN_INTERVAL = 600
_REFCOUNT_BLOCKS = 4
_INT_MAX = 0x7FFFFFFF
_UINT_MAX = 0xFFFFFFFF

_GUARDS = {
    "none": frozenset[int](),
    "constant": CONSTANT,
    "cached": CACHED,
    "all": CACHED | {INACTIVE_L2},
}
_FLAGS = {
    "main_header": HEADER,
    "active_l1": ACTIVE_L1,
    "active_l2": ACTIVE_L2,
    "refcount_table": REFCOUNT_TABLE,
    "refcount_block": REFCOUNT_BLOCK,
    "snapshot_table": SNAPSHOT_TABLE,
    "inactive_l1": INACTIVE_L1,
    "inactive_l2": INACTIVE_L2,
    "bitmap_directory": DIRECTORY,
}


class Settings:
    """What the options of a node mean for its image.  GenericError where they make no sense."""

    def __init__(self, options: Any, header: Header, flags: Flags) -> None:
        self.l2_cache_size, self.entry_size, self.refcount_blocks = _cache_sizes(options, header)
        """Bytes, bytes, blocks."""
        interval = options.cache_clean_interval
        self.clean_interval = _CLEAN_INTERVAL if interval is None else interval
        """Seconds; 0: never."""
        if not 0 <= self.clean_interval <= _UINT_MAX:
            raise GenericError("Cache clean interval too big")
        lazy = options.lazy_refcounts
        self.lazy = bool(header.compatible & layout.LAZY_REFCOUNTS) if lazy is None else lazy
        if self.lazy and header.version < 3:
            raise GenericError(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
            )
        self.guarded = _guarded(options.overlap_check)
        discards = {"always"}
        if flags.unmap if options.pass_discard_request is None else options.pass_discard_request:
            discards.add("request")
        if options.pass_discard_snapshot is not False:
            discards.add("snapshot")
        if options.pass_discard_other:
            discards.add("other")
        self.discards = frozenset(discards)
        self.discard_no_unref = bool(options.discard_no_unref)
        if self.discard_no_unref and header.version < 3:
            raise GenericError("discard-no-unref is only supported since qcow2 version 3")


def _guarded(given: Any) -> frozenset[int]:
    if given is None:
        return CACHED
    if not hasattr(given, "main_header"):
        return _GUARDS[given.value]
    kinds = set(_GUARDS["cached" if given.template is None else given.template.value])
    for name, kind in _FLAGS.items():
        wanted = getattr(given, name)
        if wanted is not None:
            (kinds.add if wanted else kinds.discard)(kind)
    return frozenset(kinds)


def _cache_sizes(options: Any, header: Header) -> tuple[int, int, int]:
    cluster_size = header.cluster_size
    both, l2, refcounts = options.cache_size, options.l2_cache_size, options.refcount_cache_size
    for name, value in (
        ("cache-size", both),
        ("l2-cache-size", l2),
        ("refcount-cache-size", refcounts),
        ("l2-cache-entry-size", options.l2_cache_entry_size),
    ):
        if value is not None and value < 0:
            raise GenericError(f"Value '{value}' is out of range for parameter '{name}'")
    clusters = -(-header.size // cluster_size)
    most = -(-clusters * header.entry_size // cluster_size) * cluster_size
    l2_size = min(most, _L2_CACHE_LIMIT if l2 is None else l2)
    refcount_size = refcounts or 0
    least = _REFCOUNT_BLOCKS * cluster_size
    if both is not None:
        if l2 is not None and refcounts is not None:
            raise GenericError(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
            )
        if l2 is not None and l2 > both:
            raise GenericError("l2-cache-size may not exceed cache-size")
        if refcount_size > both:
            raise GenericError("refcount-cache-size may not exceed cache-size")
        if l2 is not None:
            refcount_size = both - l2_size
        elif refcounts is not None:
            l2_size = both - refcount_size
        elif both >= most + least:
            l2_size, refcount_size = most, both - most
        else:
            refcount_size = min(both, least)
            l2_size = both - refcount_size
    entry = options.l2_cache_entry_size
    if entry is None:
        entry = min(cluster_size, 4096) if l2_size < most else cluster_size
    if not 1 << layout.MIN_CLUSTER_BITS <= entry <= cluster_size or entry & (entry - 1):
        raise GenericError(
            f"L2 cache entry size must be a power of two between {1 << layout.MIN_CLUSTER_BITS} "
            f"and the cluster size ({cluster_size})"
        )
    if l2_size // entry > _INT_MAX:
        raise GenericError("L2 cache size too big")
    if refcount_size // cluster_size > _INT_MAX:
        raise GenericError("Refcount cache size too big")
    return l2_size, entry, max(_REFCOUNT_BLOCKS, refcount_size // cluster_size)
