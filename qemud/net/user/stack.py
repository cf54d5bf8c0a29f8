"""One TCP/IP stack of libslirp in the event loop.

    stack = Stack(network, options, output)          # output(frames) is called once a turn, with bare frames
    stack.input(frames)
    stack.close()

libslirp wants to be asked, again and again, which descriptors it waits for and until when.  They are in an `epoll` of our own, whose
descriptor the loop watches.  A *round* asks, polls without waiting, and hands over what has happened; there is one, soon, after
each batch of frames, after each notification, when a descriptor is ready, and when time is up.

Callbacks run inside of the library's calls and may not call it: what it sends is collected, and leaves at the end.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from qemud.logs import Logger, guest_error
from qemud.net.user import abi
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.net_backends import NetdevUserOptions
    from qemud.net.user.config import UserNetwork
    from qemud.net.user.rules import HostRule

log = Logger("net")

_LONGEST_WAIT = 1.0
_TO_EPOLL = (
    (abi.POLL_IN, select.EPOLLIN),
    (abi.POLL_OUT, select.EPOLLOUT),
    (abi.POLL_PRI, select.EPOLLPRI),
)
_FROM_EPOLL = (*_TO_EPOLL, (abi.POLL_ERR, select.EPOLLERR), (abi.POLL_HUP, select.EPOLLHUP))
# All combinations that there are, looked up instead of computed.
_WANTED = {events: sum(there for here, there in _TO_EPOLL if events & here) for events in range(32)}


def _happened(events: int) -> int:
    return sum(here for here, there in _FROM_EPOLL if events & there)


class Stack:
    """See the module.  GenericError: libslirp is not there, or does not take the options."""

    def __init__(
        self, network: UserNetwork, options: NetdevUserOptions, output: Callable[[list[bytes]], None]
    ) -> None:
        self.library = library = abi.load()
        self._loop = asyncio.get_running_loop()
        self._output = output
        self._sent: list[bytes] = []
        self._timers: dict[int, tuple[int, int | None, asyncio.TimerHandle | None]] = {}
        self._next_timer = 1
        self._watched: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self.on_round: Callable[[], None] = lambda: None
        """Called after each round: what waits for room looks again."""
        self._callbacks = abi.Callbacks(
            abi.SEND_PACKET(self._send_packet),
            abi.GUEST_ERROR(self._guest_error),
            abi.CLOCK(lambda _: time.monotonic_ns()),
            abi.TIMER_NEW(),
            abi.TIMER_FREE(self._timer_free),
            abi.TIMER_MOD(self._timer_mod),
            abi.POLL_FD(lambda _fd, _: None),
            abi.POLL_FD(self._unregister),
            abi.NOTIFY(lambda _: self.soon()),
            abi.INIT_COMPLETED(lambda _stack, _: None),
            abi.TIMER_NEW_OPAQUE(self._timer_new),
        )
        self._add_poll = abi.ADD_POLL(self._want)
        self._get_revents = abi.GET_REVENTS(lambda fd, _: self._ready.get(fd, 0))
        self._timeout = ctypes.c_uint32()
        config, self._texts = _config(network, options)
        self.stack = library.slirp_new(ctypes.byref(config), ctypes.byref(self._callbacks), None)
        if not self.stack:
            raise GenericError("libslirp does not take these options")
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._round)
        self.soon()

    def close(self) -> None:
        """Close all connections."""
        if self._soon is not None:
            self._soon.cancel()
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self.library.slirp_cleanup(self.stack)
        for _, _, handle in self._timers.values():
            if handle is not None:
                handle.cancel()
        self._epoll.close()

    # -- frames and rounds ------------------------------------------------------------------------------------------

    def input(self, frames: list[bytes]) -> None:
        """Frames of the guest."""
        take, stack = self.library.slirp_input, self.stack
        for frame in frames:
            take(stack, frame, len(frame))
        self.soon()

    def soon(self) -> None:
        """Have a round in this turn of the loop, or the next."""
        if self._soon is None:
            self._soon = self._loop.call_soon(self._round)

    def _round(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._later is not None:
            self._later.cancel()
        library, stack = self.library, self.stack
        self._wanted = {}
        self._timeout.value = int(_LONGEST_WAIT * 1000)
        library.slirp_pollfds_fill(stack, ctypes.byref(self._timeout), self._add_poll, None)
        self._watch()
        self._ready = {fd: _happened(events) for fd, events in self._epoll.poll(0)}
        library.slirp_pollfds_poll(stack, 0, self._get_revents, None)
        self.on_round()
        self._later = self._loop.call_later(min(self._timeout.value / 1000, _LONGEST_WAIT), self._round)
        if self._sent:
            sent, self._sent = self._sent, []
            self._output(sent)

    def _watch(self) -> None:
        """Bring the set of descriptors in line with what is wanted."""
        watched, wanted, epoll = self._watched, self._wanted, self._epoll
        for fd in [fd for fd in watched if fd not in wanted]:
            del watched[fd]
            with suppress(OSError):  # closed already
                epoll.unregister(fd)
        for fd, events in wanted.items():
            if watched.get(fd) == events:
                continue
            try:
                if fd in watched:
                    epoll.modify(fd, events)
                else:
                    epoll.register(fd, events)
            except FileNotFoundError:  # closed, and opened again for something else
                epoll.register(fd, events)
            except FileExistsError:
                epoll.modify(fd, events)
            watched[fd] = events

    # -- callbacks --------------------------------------------------------------------------------------------------

    def _send_packet(self, data: int, size: int, _opaque: int | None) -> int:
        self._sent.append(ctypes.string_at(data, size))
        return size

    def _guest_error(self, message: bytes, _opaque: int | None) -> None:
        guest_error("net", message.decode(errors="replace"))

    def _want(self, fd: int, events: int, _opaque: int | None) -> int:
        self._wanted[fd] = self._wanted.get(fd, 0) | _WANTED[events & 31]
        return fd

    def _unregister(self, fd: int, _opaque: int | None) -> None:
        if self._watched.pop(fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fd)

    def _timer_new(self, kind: int, argument: int | None, _opaque: int | None) -> int:
        number = self._next_timer
        self._next_timer += 1
        self._timers[number] = kind, argument, None
        return number

    def _timer_free(self, number: int, _opaque: int | None) -> None:
        _, _, handle = self._timers.pop(number)
        if handle is not None:
            handle.cancel()

    def _timer_mod(self, number: int, milliseconds: int, _opaque: int | None) -> None:
        kind, argument, handle = self._timers[number]
        if handle is not None:
            handle.cancel()
        wait = max(milliseconds / 1000 - time.monotonic(), 0)
        self._timers[number] = kind, argument, self._loop.call_later(wait, self._timer_fired, number)

    def _timer_fired(self, number: int) -> None:
        kind, argument, _ = self._timers[number]
        self._timers[number] = kind, argument, None
        self.library.slirp_handle_timer(self.stack, kind, argument)
        self.soon()

    # -- rules ------------------------------------------------------------------------------------------------------

    def add_host_rule(self, rule: HostRule, text: str) -> None:
        """Listen on a port of the host.  GenericError."""
        failed = self.library.slirp_add_hostfwd(
            self.stack,
            rule.udp,
            abi.InAddr.of(rule.host),
            rule.host_port,
            abi.InAddr.of(rule.guest),
            rule.guest_port,
        )
        if failed:
            raise GenericError(f"Could not set up host forwarding rule '{text}'")
        self.soon()

    def remove_host_rule(self, host: bytes, port: int, *, udp: bool) -> bool:
        """Listen there no longer; whether it was so."""
        failed = self.library.slirp_remove_hostfwd(self.stack, udp, abi.InAddr.of(host), port)
        self.soon()
        return not failed

    @property
    def connections(self) -> str:
        """A table of connections, for people."""
        text = self.library.slirp_connection_info(self.stack)
        try:
            return ctypes.string_at(text).decode(errors="replace")
        finally:
            self.library.g_free(text)


def _config(network: UserNetwork, options: NetdevUserOptions) -> tuple[abi.Config, list[object]]:
    """The library's form of the options, and what must live until it has read it."""
    search = [item.str.encode() for item in options.dnssearch or ()]
    domains = (ctypes.c_char_p * (len(search) + 1))(*search, None)

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    config = abi.Config(
        version=abi.CONFIG_VERSION,
        restricted=bool(options.restrict),
        in_enabled=network.ipv4,
        vnetwork=abi.InAddr.of(network.network),
        vnetmask=abi.InAddr.of(network.mask),
        vhost=abi.InAddr.of(network.host),
        in6_enabled=network.ipv6,
        vprefix_addr6=abi.In6Addr.from_buffer_copy(network.prefix6),
        vprefix_len=network.prefix6_length,
        vhost6=abi.In6Addr.from_buffer_copy(network.host6),
        vhostname=text(options.hostname),
        tftp_server_name=text(options.tftp_server_name),
        tftp_path=text(options.tftp),
        bootfile=text(options.bootfile),
        vdhcp_start=abi.InAddr.of(network.dhcp),
        vnameserver=abi.InAddr.of(network.dns),
        vnameserver6=abi.In6Addr.from_buffer_copy(network.dns6),
        vdnssearch=ctypes.cast(domains, ctypes.POINTER(ctypes.c_char_p)) if search else None,
        vdomainname=text(options.domainname),
    )
    return config, [domains, search]
