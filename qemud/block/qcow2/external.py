"""Data of a qcow2 image in a file of its own: the child `data-file`.

The image has the tables then, and each cluster is in the other file where it is on the disk.  Only tables are counted, nothing is
compressed, and there are no snapshots.  With the autoclear feature "raw external" the other file is at all times what the guest sees.

The name in the image is that of a file of the host as it is, whatever it looks like: an image that somebody else has made must not
name a server, or options.  A relative one begins at the directory that the process is in, not at that of the image, as in QEMU.

Source: docs/interop/qcow2.txt of QEMU 10.0; block/qcow2.c (qcow2_do_open) for rules and texts.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from qemud.block.edges import Role
from qemud.block.qcow2.layout import COMPRESSED, COPIED, OFFSET, ZERO
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.requests import Qcow2Requests

CHILD = "data-file"

_UNSUPPORTED = frozenset((errno.ENOTSUP, errno.EOPNOTSUPP))


async def open_data_file(node: Qcow2Requests, given: Any) -> None:
    """Open the file that has the data of the image of a node, if there is one.  GenericError."""
    header = node.image.header
    name = header.data_file_name
    if given is None and header.external and name is not None:
        from qemud.block.image import plain_file

        given = await plain_file(name)
    if given is not None:
        await node.graph.open_child(node, CHILD, given, Role.DATA)
    check_present(node)
    if header.external:
        node.data_child = CHILD
        # There are only tables in the image itself.
        node.edges["file"].role &= ~Role.DATA
        node.graph.refresh([node])


def check_present(node: Qcow2Requests) -> None:
    """Refuse an image that needs a data file and has none, or the other way round.  GenericError."""
    header = node.image.header
    if header.external:
        if CHILD not in node.children:
            raise GenericError("'data-file' is required for this image")
    elif CHILD in node.children:
        raise GenericError("'data-file' can only be set for images with an external data file")
    elif header.raw_external:
        raise GenericError("data-file-raw requires a data file")


def check_unchanged(node: Qcow2Requests, given: Any) -> None:
    """Refuse to reopen with another data file.  GenericError."""
    if given is None:
        return
    child = node.children.get(CHILD)
    same = child is not None and (
        child.node_name == given if isinstance(given, str) else child.inherits_from is node
    )
    if not same:
        raise GenericError("Cannot change the option 'data-file'")


async def zero_external(image: Image, offset: int, length: int, *, unmap: bool) -> None:
    """Before a range of the disk is said to be zero: let the file be that too, where it is always what the guest sees.  OSError."""
    if image.in_step:
        # What is being written in the machine thread must not come after the zeroes.  The range is held, so the next write there waits.
        moment = image.writes_at_once
        while moment & 1 and image.writes_at_once == moment:  # noqa: ASYNC110 - nobody could tell in that thread
            await asyncio.sleep(0)
        end = min(offset + length, image.owner.size)
        await image.data.write_zeroes(offset, end - offset, unmap=unmap)


async def give_back(image: Image, offset: int, old: Sequence[int], new: Sequence[int]) -> None:
    """Tell the file that clusters of the disk from `offset` on have no place there any more, by their entries.

    They are zeroes then, if that can be: tables on the disk still refer to them, and the power may be cut.
    """
    size = image.cluster_size
    gone = [_has_place(before) and not _has_place(after) for before, after in zip(old, new, strict=True)]
    start = 0
    for i in range(1, len(gone) + 1):
        if i == len(gone) or gone[i] != gone[start]:
            if gone[start]:
                image.give_up(offset + start * size, i - start)
                if "request" in image.discards and not image.in_step:
                    await _forget(image, offset + start * size, (i - start) * size)
            start = i


def _has_place(entry: int) -> bool:
    # The first cluster is at offset 0; its entry has the mark of what is referred to once, as all have.
    return not entry & COMPRESSED and (bool(entry & OFFSET) or entry & (COPIED | ZERO) == COPIED)


async def _forget(image: Image, offset: int, length: int) -> None:
    data = image.data
    length = min(length, data.size - offset)
    if not data.flags.unmap or length <= 0:
        return
    try:
        try:
            await data.write_zeroes(offset, length, unmap=True, fallback=False)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            await data.discard(offset, length)
    except OSError:
        return  # it was a favour


async def is_zero(image: Image, place: int, length: int) -> bool:
    """Whether a place for data is known to be zero: nobody has ever written there, or the file says so.  OSError."""
    if not image.external:
        return image.untouched_data(place)
    data = image.data
    end = min(place + length, data.size)
    while place < end:
        extent = await data.block_status(place, end - place)
        if not extent.zero:
            return False
        place += extent.length
    return True
