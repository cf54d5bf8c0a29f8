"""New images for jobs and snapshots, by the names of files and formats.

    await create_image(graph, "copy.qcow2", "qcow2", size, backing="disk.qcow2", backing_format="qcow2")

Source of rules and texts: QEMU 10.0, block.c (bdrv_img_create).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.create import create
from qemud.block.drivers import DRIVERS, class_of
from qemud.block.image import open_image
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph


async def create_image(
    graph: Graph,
    filename: str,
    format_name: str,
    size: int,
    *,
    backing: str | None = None,
    backing_format: str | None = None,
) -> None:
    """Make an image in a file; what there is of that name is lost.  GenericError."""
    if format_name not in DRIVERS:
        raise GenericError(f"Unknown file format '{format_name}'")
    is_raw = format_name in {"raw", "file"}
    if backing is not None:
        if is_raw:
            raise GenericError(f"Backing file not supported for file format '{format_name}'")
        if filename == backing:
            raise GenericError("Error: Trying to create an image with the same filename as the backing file")
    if not is_raw and not class_of(format_name).supports_backing:
        raise GenericError(f"Format driver '{format_name}' does not support image creation")
    await create(graph, _options(driver="file", filename=filename, size=size if is_raw else 0))
    if is_raw:
        return
    file = await open_image(graph, filename, {"driver": "file"})
    try:
        options: dict[str, Any] = {"driver": format_name, "file": file.node_name, "size": size}
        if backing is not None:
            options |= {"backing-file": backing, "backing-fmt": backing_format}
        await create(graph, _options(**options))
    finally:
        await graph.release(file)


def _options(**options: Any) -> Any:
    return parse_type("BlockdevCreateOptions", options)
