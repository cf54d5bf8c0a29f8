"""libslirp's C interface, as of version 4 of its configuration (libslirp 4.7).

    library = load()                        # GenericError when libslirp is not installed
    library.slirp_input(stack, frame, len(frame))

The calls keep Python's global lock (`PyDLL`): libslirp has no locks of its own, its calls are short, and its callbacks are Python.

Source: libslirp.h of libslirp 4.7.0.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    PyDLL,
    Structure,
    c_bool,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_uint32,
    c_void_p,
)

from qemud.qapi.runtime.errors import GenericError

CONFIG_VERSION = 4
NAME = "libslirp.so.0"

POLL_IN, POLL_OUT, POLL_PRI, POLL_ERR, POLL_HUP = 1, 2, 4, 8, 16

SEND_PACKET = CFUNCTYPE(c_ssize_t, c_void_p, c_size_t, c_void_p)
GUEST_ERROR = CFUNCTYPE(None, c_char_p, c_void_p)
CLOCK = CFUNCTYPE(c_int64, c_void_p)
TIMER_NEW = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p)
TIMER_FREE = CFUNCTYPE(None, c_void_p, c_void_p)
TIMER_MOD = CFUNCTYPE(None, c_void_p, c_int64, c_void_p)
POLL_FD = CFUNCTYPE(None, c_int, c_void_p)
NOTIFY = CFUNCTYPE(None, c_void_p)
INIT_COMPLETED = CFUNCTYPE(None, c_void_p, c_void_p)
TIMER_NEW_OPAQUE = CFUNCTYPE(c_void_p, c_int, c_void_p, c_void_p)
ADD_POLL = CFUNCTYPE(c_int, c_int, c_int, c_void_p)
GET_REVENTS = CFUNCTYPE(c_int, c_int, c_void_p)


class InAddr(Structure):
    """`struct in_addr`: four bytes in the network's order."""

    _fields_ = (("word", c_uint32),)

    @classmethod
    def of(cls, packed: bytes) -> InAddr:
        """From four bytes."""
        return cls.from_buffer_copy(packed)


class In6Addr(Structure):
    """`struct in6_addr`: aligned as the words it can be seen as."""

    _fields_ = (("words", c_uint32 * 4),)


class Config(Structure):
    """`SlirpConfig`; what is not named here stays zero."""

    _fields_ = (
        ("version", c_uint32),
        ("restricted", c_int),
        ("in_enabled", c_bool),
        ("vnetwork", InAddr),
        ("vnetmask", InAddr),
        ("vhost", InAddr),
        ("in6_enabled", c_bool),
        ("vprefix_addr6", In6Addr),
        ("vprefix_len", c_uint8),
        ("vhost6", In6Addr),
        ("vhostname", c_char_p),
        ("tftp_server_name", c_char_p),
        ("tftp_path", c_char_p),
        ("bootfile", c_char_p),
        ("vdhcp_start", InAddr),
        ("vnameserver", InAddr),
        ("vnameserver6", In6Addr),
        ("vdnssearch", POINTER(c_char_p)),
        ("vdomainname", c_char_p),
        ("if_mtu", c_size_t),
        ("if_mru", c_size_t),
        ("disable_host_loopback", c_bool),
        ("enable_emu", c_bool),
        ("outbound_addr", c_void_p),
        ("outbound_addr6", c_void_p),
        ("disable_dns", c_bool),
        ("disable_dhcp", c_bool),
    )


class Callbacks(Structure):
    """`SlirpCb`; the library keeps the pointer, so that this must live as long as the stack."""

    _fields_ = (
        ("send_packet", SEND_PACKET),
        ("guest_error", GUEST_ERROR),
        ("clock_get_ns", CLOCK),
        ("timer_new", TIMER_NEW),
        ("timer_free", TIMER_FREE),
        ("timer_mod", TIMER_MOD),
        ("register_poll_fd", POLL_FD),
        ("unregister_poll_fd", POLL_FD),
        ("notify", NOTIFY),
        ("init_completed", INIT_COMPLETED),
        ("timer_new_opaque", TIMER_NEW_OPAQUE),
    )


_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "slirp_new": (c_void_p, (POINTER(Config), POINTER(Callbacks), c_void_p)),
    "slirp_cleanup": (None, (c_void_p,)),
    "slirp_input": (None, (c_void_p, c_char_p, c_int)),
    "slirp_pollfds_fill": (None, (c_void_p, POINTER(c_uint32), ADD_POLL, c_void_p)),
    "slirp_pollfds_poll": (None, (c_void_p, c_int, GET_REVENTS, c_void_p)),
    "slirp_handle_timer": (None, (c_void_p, c_int, c_void_p)),
    "slirp_add_hostfwd": (c_int, (c_void_p, c_int, InAddr, c_int, InAddr, c_int)),
    "slirp_remove_hostfwd": (c_int, (c_void_p, c_int, InAddr, c_int)),
    "slirp_add_exec": (c_int, (c_void_p, c_char_p, POINTER(InAddr), c_int)),
    "slirp_add_guestfwd": (c_int, (c_void_p, SEND_PACKET, c_void_p, POINTER(InAddr), c_int)),
    "slirp_remove_guestfwd": (c_int, (c_void_p, InAddr, c_int)),
    "slirp_socket_can_recv": (c_size_t, (c_void_p, InAddr, c_int)),
    "slirp_socket_recv": (None, (c_void_p, InAddr, c_int, c_char_p, c_int)),
    "slirp_connection_info": (c_void_p, (c_void_p,)),
    "g_free": (None, (c_void_p,)),
}

_loaded: list[PyDLL] = []


def load() -> PyDLL:
    """The library, with the types of its functions.  GenericError when it is not there, or too old."""
    if _loaded:
        return _loaded[0]
    try:
        library = PyDLL(NAME)
    except OSError:
        raise GenericError(
            f"user-mode networking needs the library {NAME}, which is not installed (Debian: libslirp0)"
        ) from None
    try:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        library.slirp_version_string.restype = c_char_p
    except AttributeError as error:
        raise GenericError(f"user-mode networking needs libslirp 4.7 or later: {error}") from None
    version = library.slirp_version_string().decode()
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < (4, 7):
        raise GenericError(f"user-mode networking needs libslirp 4.7 or later, there is {version}")
    assert ctypes.sizeof(Config) == 184
    assert ctypes.sizeof(Callbacks) == 88
    _loaded.append(library)
    return library
