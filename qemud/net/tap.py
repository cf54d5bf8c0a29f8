"""A network interface of the host, whose other end is here: `-netdev tap`.

Who may make interfaces names one (or lets the kernel name it); everybody else is given a descriptor by who may, `fd=…`.  No scripts
are run: whoever makes the interface sets it up.

An interface may have several queues, a descriptor for each (`fds=…`, `queues=…`).  The kernel chooses in which one a frame arrives, among
those that the card uses: the others are detached meanwhile.

Source of texts: QEMU 10.0, net/tap.c and net/tap-linux.c; the interface: Linux, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qemud.net.client import MAX_FRAME, NetClient, join
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
_TUNSETQUEUE = 0x400454D9
_IFF_TAP = 0x0002
_IFF_MULTI_QUEUE = 0x0100
_IFF_ATTACH_QUEUE = 0x0200
_IFF_DETACH_QUEUE = 0x0400
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_ECN, _F_UFO = 1, 2, 4, 8, 16
_IFREQ = struct.Struct("16sH22x")
_LONGEST_NAME = 15
_HEADER = 10
_NO_HEADER = bytes(_HEADER)
_INT_MAX = (1 << 31) - 1
MAX_QUEUES = 1024
"""How many queues an interface may have here; kernels have lower limits of their own."""


class _Opened(NamedTuple):
    """A queue of an interface: what people are told of it, and whether its frames have headers."""

    fd: int
    info: str
    has_header: bool


class TapNet(NetClient):
    """See the module.  `fd` is ours from now on."""

    kind: ClassVar[str] = "tap"

    def __init__(self, name: str, fd: int, info: str, *, has_header: bool) -> None:
        super().__init__(name)
        self.info = info
        self._fd = fd
        self._has_header = has_header
        self._is_used = True
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

    def set_used(self, *, used: bool) -> None:
        """Have the kernel put frames into this queue, or into others alone."""
        if used is self._is_used or len(self.queues) == 1:
            return
        self._is_used = used
        if not used:
            self._wire.stop_reading()
        # Descriptors that were passed may be no queues of one interface: then those that are not in use are just not read.
        with contextlib.suppress(OSError):
            fcntl.ioctl(
                self._fd, _TUNSETQUEUE, _IFREQ.pack(b"", _IFF_ATTACH_QUEUE if used else _IFF_DETACH_QUEUE)
            )
        if used:
            self._wire.go_on_reading()
        else:
            self._wire.drop()

    def receive(self, frames: Frames) -> bool:
        """To the host."""
        return not self._is_used or self._wire.write(frames)

    def resume(self) -> None:
        """The guest has room."""
        if self._is_used:
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
    opened = _given(options, resolve_fd)
    if not opened:
        for name in ("script", "downscript"):
            if getattr(options, name) not in {None, "no"}:
                raise GenericError(f"no scripts are run: {name} must be 'no', not '{getattr(options, name)}'")
        opened = _make_queues(options)
    queues: list[TapNet] = []
    try:
        while opened:
            queues.append(_made(options, *opened.pop(0)))
    except BaseException:
        _close_all(opened)
        for each in queues:
            each.close()
        raise
    join(queues)
    return queues[0]


def _given(options: Any, resolve_fd: ResolveFd) -> list[_Opened]:
    """What descriptors were passed.  GenericError: they cannot be used, and are closed."""
    others = [options.ifname, options.script, options.downscript, options.vnet_hdr, options.queues]
    if options.fd is not None:
        if any(given is not None for given in (*others, options.fds)):
            raise GenericError(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= "
                "are invalid with fd="
            )
        names = [options.fd]
    elif options.fds is not None:
        if any(given is not None for given in others):
            raise GenericError(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds="
            )
        names = options.fds.removesuffix(":").split(":")
        if len(names) > MAX_QUEUES:
            raise GenericError(f"fds= names {len(names)} descriptors: {MAX_QUEUES} at most")
    else:
        return []
    opened: list[_Opened] = []
    try:
        for name in names:
            _take(resolve_fd(name), options.id, opened)
    except BaseException:
        _close_all(opened)
        raise
    return opened


def _take(fd: int, name: str, opened: list[_Opened]) -> None:
    """One more descriptor for a backend of that name.  GenericError; it is closed then, or among the others."""
    if any(fd == each.fd for each in opened):
        raise GenericError(f"fds= names descriptor {fd} twice")
    usable_fd(fd, name)
    has_header = bool(_flags_of(fd) & _IFF_VNET_HDR)
    opened.append(_Opened(fd, f"fd={fd}", has_header=has_header))
    if has_header is not opened[0].has_header:
        raise GenericError("vnet_hdr not consistent across given tap fds")


def _make_queues(options: Any) -> list[_Opened]:
    """The queues of an interface.  GenericError."""
    count = 1 if options.queues is None else options.queues
    if not 1 <= count <= MAX_QUEUES:
        raise GenericError(f"an interface cannot have {count} queues: from 1 to {MAX_QUEUES}")
    opened: list[_Opened] = []
    ifname = options.ifname or ""
    try:
        for _ in range(count):
            fd, ifname, has_header = _make_queue(options, ifname, several=count > 1)
            info = f"ifname={ifname},script=no,downscript=no"
            opened.append(_Opened(fd, info, has_header=has_header))
    except BaseException:
        _close_all(opened)
        raise
    return opened


def _close_all(opened: list[_Opened]) -> None:
    for each in opened:
        close_quietly(each.fd)


def _made(options: Any, fd: int, info: str, has_header: bool) -> TapNet:
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


def _make_queue(options: Any, wanted: str, *, several: bool) -> tuple[int, str, bool]:
    """A descriptor of an interface, its name, and whether frames have headers.  GenericError."""
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
        can = int.from_bytes(features, "little")
        if options.vnet_hdr is not False:
            if can & _IFF_VNET_HDR:
                flags |= _IFF_VNET_HDR
            elif options.vnet_hdr:
                close_quietly(fd)
                raise GenericError("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR available")
        if several:
            if not can & _IFF_MULTI_QUEUE:
                close_quietly(fd)
                raise GenericError("multiqueue required, but no kernel support for IFF_MULTI_QUEUE available")
            flags |= _IFF_MULTI_QUEUE
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
