"""Which class is which block driver.  Names only: a driver is imported when its first node is opened."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud._generated.types.block_options import BlockdevDriver
    from qemud.block.node import BlockNode

DRIVERS: dict[str, str] = {
    "file": "qemud.block.file:FileNode",
    "host_device": "qemud.block.file:HostDeviceNode",
    "null-aio": "qemud.block.null:NullAioNode",
    "null-co": "qemud.block.null:NullCoNode",
    "raw": "qemud.block.raw:RawNode",
}


def driver_class(driver: BlockdevDriver) -> type[BlockNode]:
    """The class whose nodes are of this driver."""
    module, _, name = DRIVERS[driver.value].partition(":")
    found: type[BlockNode] = getattr(import_module(module), name)
    return found
