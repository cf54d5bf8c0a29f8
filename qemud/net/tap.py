"""A network interface of the host, whose other end is here: `-netdev tap`.

Who may make interfaces names one (or lets the kernel name it); everybody else is given a descriptor by who may, `fd=…`.  No scripts
are run: whoever makes the interface sets it up.

Source of texts: QEMU 10.0, net/tap.c and net/tap-linux.c; the interface: Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from qemud.net.client import MAX_FRAME, NetClient
from qemud.net.offload import Offload
from qemud.net.stream import usable_fd
from qemud.net.wire import MessageWire, close_quietly
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.address import ResolveFd
    from qemud.net.client import Frame, Frames
    from qemud.net.registry import Networks

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNGETFEATURES = 0x800454CF
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNSETSNDBUF = 0x400454D4
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_ECN, _F_UFO = 1, 2, 4, 8, 16
_IFREQ = struct.Struct("16sH22x")
_LONGEST_NAME = 15
_HEADER = 10
_NO_HEADER = bytes(_HEADER)
_INT_MAX = (1 << 31) - 1


class TapNet(NetClient):
    """See the module.  `fd` is ours from now on."""

    kind: ClassVar[str] = "tap"

    def __init__(self, name: str, fd: int, info: str, *, has_header: bool) -> None:
        super().__init__(name)
        self.info = info
        self._fd = fd
        self._has_header = has_header
        if has_header:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER))
            self.offload = self._probe()
            self.set_offload(Offload())
        self._wire = MessageWire(fd, self.send, self.ready, self._read, self._send)

    def _probe(self) -> Offload:
        """What the kernel can do."""
        if not self._set(_F_CSUM | _F_TSO4 | _F_TSO6 | _F_ECN):
            return Offload(csum=self._set(_F_CSUM))
        return Offload(csum=True, tso4=True, tso6=True, ecn=True, ufo=self._set(_F_CSUM | _F_UFO))

    def _set(self, flags: int) -> bool:
        try:
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, flags)
        except OSError:
            return False
        return True

    def set_offload(self, offload: Offload) -> None:
        """The driver of the card takes such frames from now on."""
        flags = 0
        if offload.csum:
            flags = _F_CSUM
            for wanted, flag in zip(offload[1:], (_F_TSO4, _F_TSO6, _F_ECN, _F_UFO), strict=True):
                flags |= flag if wanted else 0
        self._set(flags)

    def close(self) -> None:
        """Leave the interface."""
        self._wire.close()
        close_quietly(self._fd)

    def receive(self, frames: Frames) -> bool:
        """To the host."""
        return self._wire.write(frames)

    def resume(self) -> None:
        """The guest has room."""
        self._wire.go_on_reading()

    def _read(self) -> Frame:
        data = os.read(self._fd, MAX_FRAME)
        if not self._has_header:
            return b"", data
        header = data[:_HEADER]
        return (b"" if header == _NO_HEADER else header), data[_HEADER:]

    def _send(self, frame: Frame) -> None:
        header, content = frame
        if self._has_header:
            os.writev(self._fd, (header or _NO_HEADER, content))
        else:
            os.write(self._fd, content)


async def open_tap(_networks: Networks, options: Any, resolve_fd: ResolveFd) -> TapNet:
    """As the options say.  GenericError."""
    if options.fd is not None:
        if any(
            given is not None
            for given in (options.ifname, options.script, options.downscript, options.vnet_hdr)
        ):
            raise GenericError(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= "
                "are invalid with fd="
            )
        fd = resolve_fd(options.fd)
        usable_fd(fd, options.id)
        flags = _flags_of(fd)
        return _made(options, fd, f"fd={fd}", has_header=bool(flags & _IFF_VNET_HDR))
    for name in ("script", "downscript"):
        if getattr(options, name) not in {None, "no"}:
            raise GenericError(f"no scripts are run: {name} must be 'no', not '{getattr(options, name)}'")
    fd, ifname, has_header = _make_interface(options)
    return _made(options, fd, f"ifname={ifname},script=no,downscript=no", has_header=has_header)


def _made(options: Any, fd: int, info: str, *, has_header: bool) -> TapNet:
    try:
        if options.sndbuf is not None:
            size = min(options.sndbuf, _INT_MAX) or _INT_MAX
            fcntl.ioctl(fd, _TUNSETSNDBUF, struct.pack("i", size))
        return TapNet(options.id, fd, info, has_header=has_header)
    except OSError as error:
        close_quietly(fd)
        raise GenericError(f"{options.id}: Can't set up the interface: {error.strerror}") from None


def _flags_of(fd: int) -> int:
    """How the interface behind a descriptor was made.  GenericError; it is closed then."""
    request = bytearray(_IFREQ.size)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError as error:
        close_quietly(fd)
        raise GenericError(f"Unable to query TUNGETIFF on FD {fd}: {error.strerror}") from None
    flags: int = _IFREQ.unpack(request)[1]
    if not flags & _IFF_TAP:
        close_quietly(fd)
        raise GenericError(f"the interface of descriptor {fd} carries no Ethernet frames: it is no tap")
    return flags


def _make_interface(options: Any) -> tuple[int, str, bool]:
    """A descriptor of an interface, its name, and whether frames have headers.  GenericError."""
    wanted = options.ifname or ""
    if len(wanted.encode()) > _LONGEST_NAME or "\0" in wanted:
        raise GenericError(f"an interface cannot be named '{wanted}': {_LONGEST_NAME} bytes at most")
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise GenericError(f"could not open {_TUN}: {error.strerror}") from None
    try:
        flags = _IFF_TAP | _IFF_NO_PI
        features = bytearray(4)
        fcntl.ioctl(fd, _TUNGETFEATURES, features)
        can = bool(int.from_bytes(features, "little") & _IFF_VNET_HDR)
        if options.vnet_hdr is not False:
            if can:
                flags |= _IFF_VNET_HDR
            elif options.vnet_hdr:
                close_quietly(fd)
                raise GenericError("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR available")
        request = bytearray(_IFREQ.pack((wanted or "tap%d").encode(), flags))
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError as error:
        close_quietly(fd)
        hint = ""
        if error.errno in {errno.EPERM, errno.EACCES}:
            hint = " (making interfaces takes the right CAP_NET_ADMIN; fd= takes one that somebody else has made)"
        shown = f" ({wanted})" if wanted else ""
        raise GenericError(f"could not configure {_TUN}{shown}: {error.strerror}{hint}") from None
    name: bytes = _IFREQ.unpack(request)[0]
    return fd, name.rstrip(b"\0").decode(), bool(flags & _IFF_VNET_HDR)
