"""The command line's two notations for a chardev, turned into the types that QMP's chardev-add takes.

    parse_options("socket,id=c,path=/run/c,server=on,wait=off")     # -chardev: one flat list of names
    parse_compact("unix:/run/c,server=on,wait=off")                 # -serial, -qmp: the short form

Both give a `Description`.  The defaults differ from QMP's where QEMU's do: a socket connects unless `server=on`, and then waits for its
first client unless `wait=off`.

Source: QEMU 10.0, qemu_chr_parse_compat and the kinds' parse functions, for names and texts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qemud._generated.types import char_backends as kinds
from qemud._generated.types import sockets
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS: dict[str, Callable[[str, str], Any]] = {
    "backend": qemuopts.text,
    "id": qemuopts.text,
    "path": qemuopts.text,
    "input-path": qemuopts.text,
    "host": qemuopts.text,
    "port": qemuopts.text,
    "fd": qemuopts.text,
    "to": qemuopts.number,
    "ipv4": qemuopts.boolean,
    "ipv6": qemuopts.boolean,
    "server": qemuopts.boolean,
    "wait": qemuopts.boolean,
    "delay": qemuopts.boolean,
    "nodelay": qemuopts.boolean,
    "reconnect": qemuopts.number,
    "reconnect-ms": qemuopts.number,
    "telnet": qemuopts.boolean,
    "tls-creds": qemuopts.text,
    "tls-authz": qemuopts.text,
    "abstract": qemuopts.boolean,
    "tight": qemuopts.boolean,
    "append": qemuopts.boolean,
    "signal": qemuopts.boolean,
    "size": qemuopts.size,
    "chardev": qemuopts.text,
    "mux": qemuopts.boolean,
    "logfile": qemuopts.text,
    "logappend": qemuopts.boolean,
}
"""How the values of `ChardevOptions` are written; a test holds the two to the same names."""

# Compiled when there is an address to match: few start-ups have one.
_TCP = r":?(?:\[(?P<bracketed>[^]]*)\]|(?P<host>[^:]*)):(?P<port>[^,]+)(?:,(?P<rest>.*))?"
_TCP_NO_HOST = r":(?P<port>[^,:]+)(?:,(?P<rest>.*))?"


class NotationError(GenericError):
    """The short form is not one; QEMU says so in a second line that names the option."""


class Description:
    """A chardev as the command line describes it; `mux` puts a multiplexer on top."""

    __slots__ = ("backend", "label", "mux")

    def __init__(self, label: str | None, backend: kinds.ChardevBackend, *, mux: bool) -> None:
        self.label = label
        self.backend = backend
        self.mux = mux


def parse_options(text: str, warn: Callable[[str], None] | None = None) -> Description:
    """The argument of -chardev.  `warn` is told of words without a value.

    GenericError, with QEMU's text: an unknown name, a bad value, or something that is missing.
    """
    return describe(qemuopts.parse(text, implied="backend", warn=warn), label=None)


def parse_compact(
    text: str, *, mux_monitor: bool = False, warn: Callable[[str], None] | None = None
) -> Description:
    """The short form, except `chardev:ID`.  `mux_monitor` permits `mon:`, which puts a multiplexer on top.

    NotationError: it is no such form; GenericError: what it describes makes no sense.
    """
    values: dict[str, str] = {}
    rest = text
    if rest.startswith("mon:"):
        if not mux_monitor:
            raise NotationError("mon: isn't supported in this context")
        rest = rest.removeprefix("mon:")
        values["mux"] = "on"
        if rest == "stdio":
            values["signal"] = "off"  # Ctrl-C is for the guest then
    scheme, colon, argument = rest.partition(":")
    if rest in {"null", "pty", "stdio"}:
        values["backend"] = rest
    elif colon and scheme in {"file", "pipe", "pty"}:
        values |= {"backend": scheme, "path": argument}
    elif colon and scheme in {"tcp", "telnet"}:
        values |= {"backend": "socket", **_parse_tcp(argument, rest, warn)}
        if scheme == "telnet":
            values["telnet"] = "on"
    elif colon and scheme == "unix":
        values |= {"backend": "socket", **qemuopts.parse(argument, implied="path", warn=warn)}
    else:
        raise NotationError(f"'{rest}' is not a valid char driver")
    return describe(values, label="")


def describe(values: Mapping[str, str], *, label: str | None) -> Description:
    """A flat list of options, as text.  Without a `label` there must be an ID among them."""
    options = kinds.ChardevOptions(
        **{name.replace("-", "_"): value for name, value in qemuopts.convert(values, KINDS).items()}
    )
    if label is None:
        label = options.id
        if label is None:
            raise GenericError("chardev: no id specified")
        if options.backend is None:
            raise GenericError(f'chardev: "{label}" missing backend')
    kind = _BACKENDS.get(options.backend or "")
    if kind is None:
        raise GenericError(f"'{options.backend}' is not a valid char driver name")
    return Description(label or None, kind(options), mux=options.mux)


def _parse_tcp(text: str, whole: str, warn: Callable[[str], None] | None) -> dict[str, str]:
    """`[HOST]:PORT[,OPTIONS]`; an IPv6 address is put in brackets."""
    match = re.fullmatch(_TCP_NO_HOST, text, re.DOTALL) or re.fullmatch(_TCP, text, re.DOTALL)
    if match is None:
        raise NotationError(f"'{whole}' is not a valid char driver")
    found = match.groupdict()
    values = {"host": found.get("bracketed") or found.get("host") or "", "port": found["port"]}
    if found["rest"]:
        values |= qemuopts.parse(found["rest"], warn=warn)
    return values


# -- each kind's options -------------------------------------------------------------------------------------------------


def _log(options: kinds.ChardevOptions) -> dict[str, Any]:
    """What every kind has."""
    return {"logfile": options.logfile, "logappend": options.logappend}


def _file(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    if options.path is None:
        raise GenericError("chardev: file: no filename given")
    data = kinds.ChardevFile(in_=options.input_path, out=options.path, append=options.append, **_log(options))
    return kinds.ChardevBackendFile(data=data)


def _pipe(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    if options.path is None:
        raise GenericError("chardev: pipe: no device path given")
    return kinds.ChardevBackendPipe(data=kinds.ChardevHostdev(device=options.path, **_log(options)))


def _pty(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    return kinds.ChardevBackendPty(data=kinds.ChardevPty(path=options.path, **_log(options)))


def _null(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    return kinds.ChardevBackendNull(data=kinds.ChardevCommon(**_log(options)))


def _mux(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    if options.chardev is None:
        raise GenericError("chardev: mux: no chardev given")
    return kinds.ChardevBackendMux(data=kinds.ChardevMux(chardev=options.chardev, **_log(options)))


def _stdio(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    return kinds.ChardevBackendStdio(data=kinds.ChardevStdio(signal=options.signal, **_log(options)))


def _ringbuf(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    common = _log(options)
    data = (
        kinds.ChardevRingbuf(size=options.size, **common) if options.size else kinds.ChardevRingbuf(**common)
    )
    return kinds.ChardevBackendRingbuf(data=data)


def _socket(options: kinds.ChardevOptions) -> kinds.ChardevBackend:
    if sum(value is not None for value in (options.path, options.fd, options.host)) > 1:
        raise GenericError("None or one of 'path', 'fd' or 'host' option required.")
    if options.host is not None and options.port is None:
        raise GenericError("chardev: socket: no port given")
    if options.delay is not None and options.nodelay is not None:
        raise GenericError("'delay' and 'nodelay' are mutually exclusive")
    data = kinds.ChardevSocket(
        addr=_address(options),
        server=options.server,
        wait=options.wait if options.wait is not None else (True if options.server else None),
        nodelay=options.delay is False or options.nodelay is True,
        telnet=options.telnet,
        tls_creds=options.tls_creds,
        tls_authz=options.tls_authz,
        reconnect=options.reconnect,
        reconnect_ms=options.reconnect_ms,
        **_log(options),
    )
    return kinds.ChardevBackendSocket(data=data)


def _address(options: kinds.ChardevOptions) -> sockets.SocketAddressLegacy:
    """The address among a socket's options."""
    if options.path is not None:
        unix = sockets.UnixSocketAddress(path=options.path, abstract=options.abstract, tight=options.tight)
        return sockets.SocketAddressLegacyUnix(data=unix)
    if options.host is not None and options.port is not None:
        if options.to is not None and options.to >> 16:
            raise GenericError(f"port {options.to} out of range")
        inet = sockets.InetSocketAddress(
            host=options.host, port=options.port, to=options.to, ipv4=options.ipv4, ipv6=options.ipv6
        )
        return sockets.SocketAddressLegacyInet(data=inet)
    return sockets.SocketAddressLegacyFd(data=sockets.FdSocketAddress(str=options.fd or ""))


_BACKENDS: dict[str, Callable[[kinds.ChardevOptions], kinds.ChardevBackend]] = {
    "file": _file,
    "pipe": _pipe,
    "socket": _socket,
    "pty": _pty,
    "null": _null,
    "mux": _mux,
    "stdio": _stdio,
    "ringbuf": _ringbuf,
    "memory": _ringbuf,
}
