"""New images: what `blockdev-create` does, apart from being a job.

    await create(graph, options)        # a BlockdevCreateOptions; GenericError with QEMU's text

Each driver that can make images has a class method `create`.

`temporary_overlay` puts an image above a node that takes all writes and goes with its node: `-snapshot`.

Source of texts: QEMU 10.0, block/create.c, block/file-posix.c (raw_co_create), block.c (bdrv_append_temp_snapshot).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

from qemud.block.drivers import DRIVERS, class_of
from qemud.block.pool import pool
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.driver import Flags
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode


def check_driver(options: Any) -> None:
    """GenericError: there are no new images of that kind."""
    if not class_of(options.driver.value).makes_images:
        raise GenericError("Driver does not support blockdev-create")


async def create(graph: Graph, options: Any) -> None:
    """Make a new image.  GenericError."""
    check_driver(options)
    await class_of(options.driver.value).create(graph, options)


async def temporary_overlay(graph: Graph, node: BlockNode, flags: Flags) -> BlockNode:
    """An image above `node`, which takes what is written and is gone with its node; held.  `node` is released.  GenericError."""
    from qemud.qapi.runtime.check import parse_type

    try:
        if "qcow2" not in DRIVERS:
            raise GenericError("Unknown driver 'qcow2'")
        path = await pool.run(_temporary_file)
        try:
            # Nobody will look for it after a crash: nothing needs to be stable.
            cache = {"no-flush": True}
            file = await graph.open(
                parse_type("BlockdevOptions", {"driver": "file", "filename": path, "cache": cache})
            )
        finally:
            with contextlib.suppress(OSError):
                await pool.run(os.unlink, path)
        try:
            new = {"driver": "qcow2", "file": file.node_name, "size": node.size}
            await create(graph, parse_type("BlockdevCreateOptions", new))
            overlay = {"driver": "qcow2", "file": file.node_name, "backing": node.node_name, "cache": cache}
            made = await graph.open(
                parse_type("BlockdevOptions", overlay),
                flags=flags._replace(read_only=False, auto_read_only=False),
            )
            made.is_temporary = True
            return made
        finally:
            await graph.release(file)
    finally:
        await graph.release(node)


def _temporary_file() -> str:
    directory = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - as QEMU: it may be large
    try:
        fd, path = tempfile.mkstemp(prefix="vl.", dir=directory)
    except OSError as error:
        raise GenericError(f"Could not open temporary file '{directory}': {error.strerror}") from None
    os.close(fd)
    return path
