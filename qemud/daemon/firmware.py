"""What the command line tells firmware: `-fw_cfg`.

Source of texts: QEMU 10.0, system/vl.c (parse_fw_cfg).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qemud.daemon.cmdline import at, read_opts, warner
from qemud.hw.nvram.fw_cfg import check_name
from qemud.machine.descriptors import close_file, open_file, read_from_start
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.options import FwCfgOptions
    from qemud.daemon.cmdline import Warn

_LARGEST = 1 << 30
"""Bytes of an item at most: its length has 32 bits, and it is kept in memory."""


def add_items(machine: Any, texts: Sequence[str]) -> None:
    """Give a machine that is not brought up yet the items of the command line.  Raises UsageError."""
    read = read_opts("FwCfgOptions", "name")
    for text in texts:
        with at("fw_cfg", text):
            warn = warner("fw_cfg", text)
            _add_item(machine, read(text, warn), warn)


def _add_item(machine: Any, item: FwCfgOptions, warn: Warn) -> None:
    if not hasattr(machine, "firmware_items"):
        raise GenericError("fw_cfg device not available")
    name, file, text = item.name or "", item.file or "", item.string or ""
    if not name or bool(file) + bool(text) != 1:
        raise GenericError("name, plus exactly one of file, string and gen_id, are needed")
    check_name(name)
    if not name.startswith("opt/"):
        warn('externally provided fw_cfg item names should be prefixed with "opt/"')
    if name in machine.firmware_items:
        raise GenericError(f"duplicate fw_cfg file name: {name}")
    machine.firmware_items[name] = text.encode() if text else _content(file)


def _content(path: str) -> bytes:
    try:
        fd = open_file(path, os.O_RDONLY)
        try:
            content = read_from_start(fd, _LARGEST + 1)
        finally:
            close_file(fd)
    except OSError as error:
        reason = f"Failed to open file \u201c{path}\u201d: {error.strerror}"
        raise GenericError(f"can't load {path}: {reason}") from None
    if len(content) > _LARGEST:
        raise GenericError(f"can't load {path}: it has more than {_LARGEST} bytes")
    return content
