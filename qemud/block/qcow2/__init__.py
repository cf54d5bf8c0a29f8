"""The format `qcow2`: images that are as large as what was written, on top of others, with snapshots and bitmaps inside.

From the file up:

- `layout`: what the bits of tables mean.
- `header`: the header and its extensions, read and written.
- `refcounts`: how often each cluster of the file is used, and which are free.
- `mapping`: where each cluster of the disk is in the file (L1 and L2 tables).
- `image`: the tables of one open image, and the order in which changes of them reach the disk.
- `dropped`: clusters that nothing refers to any more.
- `node`: the block node; `requests`: what it does with reads and writes; `write`: the ways that change tables.
- `external`: data in a file of its own; `subclusters`: clusters in parts.
- `compress`, `check`, `snapshots`, `bitmaps`, `resize`, `create`: what their names say.

**A power cut** at any moment leaves an image without errors: at worst, clusters are counted as used that are not.  Changes
of tables are kept in memory until a flush, an eviction or the end, and then written in this order, with a flush of the
file between any two steps of which the first was not empty:

1. blocks of reference counts, 2. the table that finds them, 3. L2 tables, 4. the L1 table.

A cluster that is not referred to any more is free only when that is on disk, and no request that began before can still be
using it (`dropped`).

Source: docs/interop/qcow2.txt of QEMU 10.0; block/qcow2*.c for rules that it leaves open and for texts.
"""
