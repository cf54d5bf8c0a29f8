"""Frames to and from character devices: `filter-mirror` and `filter-redirector`.

A mirror sends a copy of each frame, a redirector the frame itself; what comes in at a redirector's `indev` goes on its way as if
the redirector had just let it pass.

Source of rules and texts: QEMU 10.0, net/filter-mirror.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.net_filter import (
    FilterMirrorProperties,
    FilterRedirectorProperties,
    NetFilterDirection,
)
from qemud.chardev.stream import ChardevEvent
from qemud.logs import report
from qemud.net.filters.base import NetFilter
from qemud.net.framing import Decoder, FramingError, encode, encode_with_header
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

if TYPE_CHECKING:
    from qemud.chardev.stream import Port
    from qemud.net.client import Frames, NetClient
    from qemud.net.registry import Networks

_MOST_PENDING = 1 << 20
"""Bytes that wait for a character device at most; frames beyond that are not sent there."""


def _attach(networks: Networks, name: str) -> Port:
    chardev = networks.chardevs.get(name)
    if chardev is None:
        raise DeviceNotFound(f"Device '{name}' not found")
    return chardev.attach()


class Outlet:
    """A character device that frames go to."""

    def __init__(self, networks: Networks, name: str, *, with_headers: bool) -> None:
        self._port = _attach(networks, name)
        self._port.start(lambda _: None)
        self._with_headers = with_headers

    def write(self, frames: Frames) -> None:
        """Send frames, unless too much waits already."""
        if self._port.pending > _MOST_PENDING:
            return
        if self._with_headers:
            self._port.write(b"".join([encode_with_header(frame) for frame in frames]))
        else:
            self._port.write(b"".join([encode(frame) for _, frame in frames]))

    def close(self) -> None:
        """Leave it."""
        self._port.detach()


class FilterMirror(NetFilter, type_name="filter-mirror", options=FilterMirrorProperties):
    """See the module."""

    options: FilterMirrorProperties
    _out: Outlet | None = None

    async def set_up(self, networks: Networks) -> None:
        """Take the character device."""
        options = self.options
        self._out = Outlet(networks, options.outdev, with_headers=options.vnet_hdr_support)

    def shut_down(self) -> None:
        """Leave it."""
        out, self._out = self._out, None
        if out is not None:
            out.close()

    def handle(self, frames: Frames, _sender: NetClient) -> Frames:
        """Send copies."""
        if self._out is not None:
            self._out.write(frames)
        return frames


class FilterRedirector(NetFilter, type_name="filter-redirector", options=FilterRedirectorProperties):
    """See the module."""

    options: FilterRedirectorProperties
    _in: Port | None = None
    _out: Outlet | None = None

    async def set_up(self, networks: Networks) -> None:
        """Take the character devices."""
        options = self.options
        if options.indev is None and options.outdev is None:
            raise GenericError("filter redirector needs 'indev' or 'outdev' at least one property set")
        if options.indev == options.outdev:
            raise GenericError("'indev' and 'outdev' could not be same for filter redirector")
        if options.indev is not None:
            self._in = _attach(networks, options.indev)
        try:
            if options.outdev is not None:
                self._out = Outlet(networks, options.outdev, with_headers=options.vnet_hdr_support)
        except BaseException:
            self.shut_down()
            raise
        self._begin()
        if self._in is not None:
            self._in.start(self._received, self._happened)

    def shut_down(self) -> None:
        """Leave them."""
        out, self._out = self._out, None
        if out is not None:
            out.close()
        port, self._in = self._in, None
        if port is not None:
            port.detach()

    def handle(self, frames: Frames, _sender: NetClient) -> Frames:
        """Away with them."""
        if self._out is None:
            return frames
        self._out.write(frames)
        return []

    def _begin(self) -> None:
        self._decoder = Decoder(with_headers=self.options.vnet_hdr_support)

    def _happened(self, event: ChardevEvent) -> None:
        if event is ChardevEvent.OPENED:
            self._begin()

    def _received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except FramingError as error:
            report(f"warning: {self.id}: {error} came from '{self.options.indev}', which is given up")
            port, self._in = self._in, None
            if port is not None:
                port.detach()
            return
        if not frames or not self.is_on:
            return
        netdev = self.netdev
        queue = self.options.queue
        if queue is not NetFilterDirection.RX:
            self.inject(frames, netdev)
        if queue is not NetFilterDirection.TX and netdev.peer is not None:
            self.inject(frames, netdev.peer)
