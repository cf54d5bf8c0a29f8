"""Frames as a file that `tcpdump -r` and Wireshark read: `filter-dump`.

    u32 magic, u16 major, u16 minor, i32 zone, u32 accuracy, u32 longest, u32 link type
    u32 seconds, u32 microseconds, u32 bytes kept, u32 bytes there were | the bytes                  for each frame

Source: the file format of libpcap, version 2.4; texts: QEMU 10.0, net/dump.c.
"""

from __future__ import annotations

import os
import time
from struct import Struct
from typing import TYPE_CHECKING

from qemud._generated.types.net_filter import FilterDumpProperties
from qemud.logs import report
from qemud.net.filters.base import NetFilter
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.net.client import Frames, NetClient
    from qemud.net.registry import Networks

_MAGIC = 0xA1B2C3D4
_VERSION = 2, 4
_ETHERNET = 1
_FILE = Struct("=IHHiIII")
_RECORD = Struct("=IIII")


class FilterDump(NetFilter, type_name="filter-dump", options=FilterDumpProperties):
    """See the module."""

    options: FilterDumpProperties
    _fd = -1

    async def set_up(self, _networks: Networks) -> None:
        """Begin the file."""
        options = self.options
        if options.maxlen == 0:
            raise GenericError(f"Property '{self.type_name}.maxlen' doesn't take value '0'")
        try:
            self._fd = os.open(options.file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it contains a zero byte"
            raise GenericError(f"net dump: can't open {options.file}: {reason}") from None
        try:
            os.write(self._fd, _FILE.pack(_MAGIC, *_VERSION, 0, 0, options.maxlen, _ETHERNET))
        except OSError as error:
            self.shut_down()
            raise GenericError(f"net dump write error: {error.strerror}") from None

    def shut_down(self) -> None:
        """End the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def handle(self, frames: Frames, _sender: NetClient) -> Frames:
        """Write them down."""
        if self._fd >= 0:
            seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            longest = self.options.maxlen
            records: list[bytes] = []
            for _, frame in frames:
                kept = frame[:longest]
                records += (_RECORD.pack(seconds, nanoseconds // 1000, len(kept), len(frame)), kept)
            data = b"".join(records)
            try:
                written = os.write(self._fd, data)
            except OSError:
                written = -1
            if written != len(data):
                report("network dump write error - stopping dump")
                self.shut_down()
        return frames
