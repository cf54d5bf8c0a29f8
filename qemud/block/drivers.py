"""Which class is which block driver.  Names only: a driver is imported when its first node is opened."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud._generated.types.block_options import BlockdevDriver
    from qemud.block.node import BlockNode

DRIVERS: dict[str, str] = {
    "blkdebug": "qemud.block.blkdebug:BlkdebugNode",
    "copy-on-read": "qemud.block.filters:CopyOnReadNode",
    "file": "qemud.block.file:FileNode",
    "host_device": "qemud.block.file:HostDeviceNode",
    "nbd": "qemud.block.nbd.node:NbdNode",
    "null-aio": "qemud.block.null:NullAioNode",
    "null-co": "qemud.block.null:NullCoNode",
    "qcow2": "qemud.block.qcow2.node:Qcow2Node",
    "raw": "qemud.block.raw:RawNode",
    "throttle": "qemud.block.filters:ThrottleNode",
}


def class_of(name: str) -> type[BlockNode]:
    """The class whose nodes are of the driver with this name."""
    module, _, class_name = DRIVERS[name].partition(":")
    found: type[BlockNode] = getattr(import_module(module), class_name)
    return found


def driver_class(driver: BlockdevDriver) -> type[BlockNode]:
    """The class whose nodes are of this driver."""
    return class_of(driver.value)


def probe(header: bytes) -> str:
    """The format of an image that begins like this; `raw` when it is no other."""
    for magic, driver in _MAGIC:
        if header.startswith(magic) and driver in DRIVERS:
            return driver
    return "raw"


_MAGIC = ((b"QFI\xfb\0\0\0\2", "qcow2"), (b"QFI\xfb\0\0\0\3", "qcow2"))
